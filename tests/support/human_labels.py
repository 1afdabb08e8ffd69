"""Human label of a case, as read by a training."""

from __future__ import annotations

from typing import Any

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.server.tasks.study_round import DatastoreCase
from samstudent.task import Task


def read_human_label(datastore: Any, case: str, task: Task) -> tuple[CaseImage, LabelledMasks]:
    """Image and human label of a case of the host's datastore."""
    image, label = DatastoreCase(case, datastore, None, labelled=True).read(task)
    assert label is not None
    return image, label
