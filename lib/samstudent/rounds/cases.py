"""Labelled cases of a datastore: where their files are, and how they are read to train or to compare on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from samstudent.errors import NotFound, UserError
from samstudent.imaging.annotations import LabelledMasks, read_label
from samstudent.imaging.case import CaseImage, read_image
from samstudent.imaging.labels import read_ignore, read_masks
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.pseudolabels.produce import HUMAN_TAG, REFINED_TAG
from samstudent.pseudolabels.provenance import Provenance, is_current
from samstudent.pseudolabels.quality_filter import absence_prior, teach_probabilities, training_weights
from samstudent.pseudolabels.soft_labels import SoftLabels, read_soft
from samstudent.student.data import TrainingCase, prepare_case
from samstudent.task import Task
from samstudent.util.files import sha256_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseFiles:
    """One case and one of its labels. Plain values: the host hands them to other processes."""

    id: str
    image: str
    label: str
    tag: str
    #: ``names[v - 1]`` is what value v of the label file means; None: the task's values, or the file says it.
    names: tuple[str, ...] | None = None
    #: Of a pseudo label, one a structure.
    weights: tuple[float, ...] | None = None
    #: File of the probabilities to teach instead of a pseudo label's masks.
    soft: str | None = None

    @property
    def human(self) -> bool:
        return self.tag == HUMAN_TAG


def human_cases(datastore: Any, ids: Iterable[str], left_out: dict[str, str] | None = None) -> list[CaseFiles]:
    """The human labels of these cases, sorted by id. A case whose files cannot be had (its label was deleted meanwhile,
    the PACS does not send its image) or whose info is wrong is logged and left out.

    Args:
        left_out: gets case id -> reason.
    """
    cases = []
    for case_id in sorted(ids):
        try:
            if (label_id := datastore.get_labels_by_image_id(case_id).get(HUMAN_TAG)) is None:
                raise NotFound("its label is gone")
            image, label = datastore.get_image_uri(case_id), datastore.get_label_uri(label_id, HUMAN_TAG)
            names = names_for_reading(Path(label), datastore.get_label_info(label_id, HUMAN_TAG))
        except Exception as error:  # whatever a PACS, a disk or a decoder comes up with
            leave_out(case_id, error, left_out)
        else:
            cases.append(CaseFiles(case_id, image, label, HUMAN_TAG, names))
    return cases


def leave_out(case_id: str, reason: Exception, left_out: dict[str, str] | None) -> None:
    """One case must not cost a round: it is logged, and its reason written down where that is asked for."""
    # A user's broken file needs no stack trace in the log; a bug does.
    logger.warning("case %s is left out: %s", case_id, reason, exc_info=not isinstance(reason, (UserError, OSError)))
    if left_out is not None:
        left_out[case_id] = str(reason)


def pseudo_cases(
    datastore: Any, ids: Iterable[str], tag: str, expected: Provenance, task: Task, softs: SoftLabels | None = None,
    withheld: Callable[[str, Mapping[str, Any]], bool] = lambda case, info: False,
) -> list[CaseFiles]:  # fmt: skip
    """Those of the cases that have a pseudo label of this tag which is up to date and not rejected altogether.

    Args:
        softs: where their probabilities are, should those be taught; masks are where it has none.
        withheld: tells by case and label info what a person has rejected or sent to the annotators
            (``Reviews.withheld``).
    """
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    for case_id in sorted(ids):
        labels = datastore.get_labels_by_image_id(case_id)
        if HUMAN_TAG in labels or tag not in labels:
            continue
        info = datastore.get_label_info(labels[tag], tag)
        if is_current(info, expected) and not withheld(case_id, info):
            known[case_id] = labels[tag], info.get("structures", {})
    if not teach_probabilities(structures for _, structures in known.values()):
        softs = None
    cases = []
    for case_id, (label, structures) in known.items():
        soft = softs.path_of(case_id, expected) if softs else None
        # Nothing but absences is what a bad student says of every case; probabilities tell how sure it is.
        accepted = any(structures.get(name, {}).get("status") == "accepted" for name in task.names)
        if not accepted and soft is None:
            continue
        weights = None if soft else tuple(float(w) for w in training_weights(structures, task))
        try:
            image, file = datastore.get_image_uri(case_id), datastore.get_label_uri(label, tag)
        except Exception as error:  # whatever a PACS, a disk or a decoder comes up with
            leave_out(case_id, error, None)
            continue
        cases.append(CaseFiles(case_id, image, file, tag, weights=weights, soft=str(soft) if soft else None))
    return cases


def digests(cases: Iterable[CaseFiles]) -> dict[str, dict[str, Any]]:
    """Case id -> tag and SHA-256 of its label's file (None if it cannot be read), what the values of a label map mean,
    and a pseudo label's weights."""
    content: dict[str, dict[str, Any]] = {}
    for case in cases:
        try:
            digest = sha256_file(Path(case.label))
        except OSError:
            digest = None
        content[case.id] = {"tag": case.tag, "sha256": digest}
        if case.names is not None:
            content[case.id]["names"] = list(case.names)
        if case.weights is not None:
            content[case.id]["weights"] = [round(weight, 4) for weight in case.weights]
    return content


def read_truth(files: CaseFiles, task: Task) -> tuple[CaseImage, LabelledMasks]:
    """The image and what its human label says.

    Raises:
        UserError: cannot be read; none of the task's structures is annotated.
    """
    image = read_image(files.image, task.dimension)
    label = read_label(files.label, task, image.grid, names=files.names)
    if not label.annotated.any():
        raise UserError(f"{files.label}: none of the task's structures is annotated in it")
    return image, label


def load_case(files: CaseFiles, task: Task) -> TrainingCase:
    """Read one case and bring it to the student's grid."""
    if files.human:
        image, label = read_truth(files, task)
        return prepare_case(files.id, image, label.masks, task, ignore=label.ignore, weights=label.annotated)
    image = read_image(files.image, task.dimension)
    masks = read_masks(files.label, task, image.grid)
    if files.soft:
        return prepare_case(files.id, image, masks, task, human=False, soft=read_soft(Path(files.soft)))
    ignore = read_ignore(files.label, task, image.grid)
    return prepare_case(files.id, image, masks, task, ignore=ignore, weights=files.weights, human=False)


def load_cases(
    files: Sequence[CaseFiles], task: Task, progress: Callable[[int, int], None] | None = None
) -> tuple[list[TrainingCase], dict[str, str]]:
    """Read all cases into memory; one that cannot be read is told of and left out.

    Returns:
        The cases, and case id -> what was wrong.

    Raises:
        UserError: no human-labelled case can be read.
    """
    cases: list[TrainingCase] = []
    unreadable: dict[str, str] = {}
    for number, entry in enumerate(files, 1):
        try:
            cases.append(load_case(entry, task))
        except Exception as error:  # whatever a PACS, a disk or a decoder comes up with
            leave_out(entry.id, error, unreadable)
        if progress is not None:
            progress(number, len(files))
    if not any(case.human for case in cases):
        raise none_left(unreadable)
    refined = {entry.id for entry in files if entry.tag == REFINED_TAG and not entry.soft}
    return discount_absences(cases, refined), unreadable


def none_left(reasons: Mapping[str, str]) -> UserError:
    """The error for when no human label can be read, with what is wrong with each."""
    return UserError("no human label can be read: " + "; ".join(f"{case}: {why}" for case, why in reasons.items()))


def discount_absences(cases: Sequence[TrainingCase], ids: Collection[str]) -> list[TrainingCase]:
    """Of these cases, structures that are not there weigh as much as the human labels let one believe that.

    See ``quality.absence_prior``. The order of the cases is kept.
    """
    shown = [case.masks.any(axis=tuple(range(1, case.masks.ndim))) for case in cases]
    human = [(s, case.weights > 0) for s, case in zip(shown, cases, strict=True) if case.human]
    believed = absence_prior(*map(np.array, zip(*human, strict=True)))
    return [
        replace(case, weights=np.where(there, case.weights, case.weights * believed)) if case.id in ids else case
        for there, case in zip(shown, cases, strict=True)
    ]
