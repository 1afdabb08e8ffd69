"""Labelled cases of an evaluation: of the study, or of two folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from samstudent.errors import NotFound
from samstudent.imaging.file_names import LABELS
from samstudent.imaging.folder import list_folder
from samstudent.imaging.label_tags import FINAL
from samstudent.imaging.remarks import sentences
from samstudent.imaging.value_lookup import names_in_folder
from samstudent.inference.image_list import list_images
from samstudent.rounds.case_store import CaseSource
from samstudent.rounds.cases import FileCase
from samstudent.rounds.study import Study
from samstudent.server.tasks.human_checks import is_checked
from samstudent.server.tasks.study_round import sources
from samstudent.task import Task


class Part(str, Enum):
    """Part of a study's labelled cases."""

    holdout = "holdout"
    test = "test"
    labelled = "labelled"


_DESCRIPTIONS = {
    Part.holdout: "the hold-out of the study, which never trains and decides which round is served",
    Part.test: "the test rows of split.csv, which neither train nor decide which round is served",
    Part.labelled: "all labelled cases of the study",
}


@dataclass(frozen=True)
class EvaluationCases:
    """Cases to measure.

    Attributes:
        sources: cases with human labels, sorted by id.
        description: their origin, for the report.
        of_study: whether they are cases of the study, whose ids identify training cases, too; others are identified by
            the content of the image alone, because any folder has an image "001".
        remarks: on cases that are left out, one sentence each.
    """

    sources: Sequence[CaseSource]
    description: str
    of_study: bool
    remarks: Sequence[str] = ()


def cases_of_study(study: Study, datastore: Any, part: Part) -> EvaluationCases:
    """Labelled cases of a study, without flagged ones and labels that no person has seen, which are predictions.

    Args:
        study: the study.
        datastore: its datastore.
        part: which of them. The hold-out is that of the last round: nothing is assigned to it here.

    Raises:
        NotFound: there is none.
    """
    holdout, labelled = study.holdout, set(datastore.get_labeled_images())
    flagged = study.flags.all().keys()
    # The excluded cases of a hold-out contain the flagged ones.
    chosen = {Part.holdout: holdout.ids, Part.test: holdout.excluded, Part.labelled: labelled}[
        part
    ] & labelled - flagged
    unseen = sorted(case for case in chosen if not is_checked(datastore.get_label_info(case, FINAL)))
    if len(unseen) == len(chosen):
        raise NotFound(
            f"no labelled case in the part {part.value!r} of this study ({len(labelled)} cases are labelled): choose"
            " another part by --cases, or name a folder of labelled images by --images and --labels"
        )
    remarks = []
    if part == Part.labelled and (unusable := sorted(labelled & flagged)):
        remarks.append(f"{len(unusable)} cases that are flagged as unusable are left out: {_first(unusable)}")
    if unseen:
        text = "labels that were accepted for their lower bound of Dice, and that no person has seen, are left out"
        remarks.append(f"{len(unseen)} {text}: {_first(unseen)}")
    found = sources(study, datastore, chosen - set(unseen), labelled=True)
    return EvaluationCases(found, _DESCRIPTIONS[part], of_study=True, remarks=remarks)


def cases_of_folders(images: Path, labels: Path, task: Task) -> EvaluationCases:
    """Images of a folder with the labels of equal names in another.

    Args:
        images: folder of images, in 3D also of folders of DICOM slices.
        labels: folder of label files of any format.
        task: the task.

    Raises:
        NotFound: a folder does not exist; no image has a label.
    """
    image_files, label_files = (
        list_images(images, task.dimension, task.image.sequences),
        list_folder(labels, LABELS),
    )
    remarks = sentences(image_files.remarks, f"{images}/") + sentences(label_files.remarks, f"{labels}/")
    common = sorted(image_files.files.keys() & label_files.files.keys())
    if not common:
        raise NotFound(f"{labels}: no label with the name of an image in {images}")
    for what, files, others in (
        ("images without a label", image_files.files, label_files.files),
        ("labels without an image", label_files.files, image_files.files),
    ):
        if alone := sorted(set(files) - set(others)):
            remarks.append(f"{len(alone)} {what} are left out: {_first(alone)}")
    found = [
        FileCase(case, image_files.files[case], file := label_files.files[case], names_in_folder(file))
        for case in common
    ]
    return EvaluationCases(found, f"images of {images} with labels of {labels}", of_study=False, remarks=remarks)


def _first(cases: Sequence[str]) -> str:
    return f"{', '.join(cases[:5])}{' ...' if len(cases) > 5 else ''}"
