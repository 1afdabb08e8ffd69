"""Rules for the images and labels of a study's datastore."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samstudent.active_learning.readable import ImageCheck
from samstudent.imaging.case import displayed_index
from samstudent.imaging.file_names import IMAGES
from samstudent.server.datastore.label_folder import LabelFolder
from samstudent.task import Task

#: Check of a label before it is saved, with image id, file, tag and metadata; raises UserError if it is unusable.
LabelCheck = Callable[[str, Path, str, dict[str, Any]], None]


@dataclass(frozen=True)
class ImageRules:
    """Rules for the images of a study.

    Attributes:
        extensions: extensions of image files, in order of preference.
        check: check whether images are readable; None: no check.
        dimension: of the task, by which DICOM files are grouped to cases (``imaging.folder.list_folder``).
        channels: named channels of the task with their texts; empty: none.
        shown: index of the channel that clients load.
    """

    extensions: Sequence[str] = IMAGES
    check: ImageCheck | None = None
    dimension: int | None = None
    channels: Mapping[str, str] = field(default_factory=dict)
    shown: int = 0

    @classmethod
    def of(cls, task: Task, check: ImageCheck | None = None) -> ImageRules:
        """Rules of a study folder with a task."""
        shown = displayed_index(task.image)
        return cls(check=check, dimension=task.dimension, channels=task.image.sequences, shown=shown)


@dataclass(frozen=True)
class LabelRules:
    """Rules for the labels of a study.

    Attributes:
        task: task of the labels; None: names of the values of label maps are not recorded.
        place: names of the labels' folder and of the list in the study folder.
        check: check of a label before it is saved; None: no check.
        claim: called before a human label is saved, and when labels were found; may raise Conflict.
    """

    task: Task | None = None
    place: LabelFolder = field(default_factory=LabelFolder)
    check: LabelCheck | None = None
    claim: Callable[[], None] = lambda: None
