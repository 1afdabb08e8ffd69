"""Production of pseudo labels for the cases of a datastore that no human has labelled."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.case import CaseImage, read_image
from samstudent.imaging.label_tags import FINAL, PSEUDO, PSEUDO_RAW
from samstudent.imaging.label_writing import write_masks
from samstudent.pseudolabels.cached_sam import CachedSam
from samstudent.pseudolabels.case import PseudoLabel, binarize, pseudo_label_case
from samstudent.pseudolabels.labelling import label_case
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.provenance import Provenance, is_current, provenance_of
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import Mask
from samstudent.sam.working_grid import enlarged_masks
from samstudent.task import Task

logger = logging.getLogger(__name__)

HUMAN_TAG, REFINED_TAG, RAW_TAG = FINAL, PSEUDO, PSEUDO_RAW


class LabelStore(Protocol):
    """A datastore of images and labels, as MONAI Label's."""

    def get_image_uri(self, image_id: str) -> str: ...
    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]: ...
    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]: ...
    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str: ...
    def remove_label(self, label_id: str, label_tag: str) -> None: ...


@dataclass
class Counts:
    """Outcome of ``produce``, in cases."""

    made: int = 0
    current: int = 0
    #: Labelled by a human, held out or excluded.
    skipped: int = 0
    #: Case id -> what was wrong with it.
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{self.made} made, {self.current} up to date, {self.skipped} labelled by a human or held out"
        return text + (f", {len(self.failed)} failed: {', '.join(self.failed)}" if self.failed else "")


#: Called after each case with its number from 1, the number of all cases, and its id.
Progress = Callable[[int, int, str], None]
#: Called with each case made anew: its id, the image, and the pseudo label.
OnCase = Callable[[str, CaseImage, PseudoLabel], None]


@dataclass(frozen=True)
class CaseLabeller:
    """What makes pseudo labels: a model, SAM, and how both are used.

    Attributes:
        task: the task.
        student: a student; with ``policy`` a ``MemberPredictor``: a teacher, or a student.
        sam: without ``policy`` the active one, adapted or not, with it the plain one; None: only the student's own
            masks are made (``pseudo_raw``).
        policy: how refined pseudo labels are made; None: by the task's recipe.
    """

    task: Task
    student: Any
    sam: CachedSam | None
    policy: LabelingPolicy | None = None

    @property
    def made_with(self) -> Provenance:
        """Provenance of the refined pseudo labels that are made now; without SAM of the student's own masks."""
        return made_with(self.student.version, None if self.sam is None else self.sam.backend, self.task, self.policy)

    def label(self, image: CaseImage, sam: CachedSam) -> PseudoLabel:
        """Pseudo label of one image, refined by SAM."""
        if self.policy is None:
            return pseudo_label_case(image, self.student, sam, self.task)
        return label_case(image, self.student, self.policy, sam)


def made_with(version: str, backend: SamBackend | None, task: Task, policy: LabelingPolicy | None = None) -> Provenance:
    """Provenance of the pseudo labels that are made now.

    Args:
        version: of the student or teacher.
        backend: see ``CaseLabeller.sam``.
        task: the task.
        policy: see ``CaseLabeller.policy``.
    """
    if policy is None or backend is None:
        return provenance_of(version, backend, task)
    return provenance_of(version, policy.adapted or backend, policy.task, policy.digest)


def produce(
    datastore: LabelStore,
    labeller: CaseLabeller,
    case_ids: Iterable[str],
    *,
    exclude: Collection[str] = (),
    progress: Progress | None = None,
    on_case: OnCase | None = None,
) -> Counts:
    """Make the pseudo labels that are missing or stale, under the tags ``pseudo`` and ``pseudo_raw``.

    A case that a human has labelled, or that is in ``exclude`` (hold-out, test), gets none and loses those it had. A
    case that fails is reported and does not stop the others.

    Args:
        datastore: of images and labels.
        labeller: makes them.
        case_ids: of the cases to look at.
        exclude: cases that must have none.
        progress: called after each case.
        on_case: called with every case that is made anew.
    """
    job = _Job(datastore, labeller, exclude, on_case)
    counts = Counts()
    ids = sorted(set(case_ids))
    for number, case_id in enumerate(ids, 1):
        try:
            done = job.run(case_id)
            setattr(counts, done, getattr(counts, done) + 1)
        except Exception as error:  # one case must not cost the others; it is counted and reported
            # A user's broken file needs no stack trace in the log; a bug does.
            logger.warning("no pseudo label for %s: %s", case_id, error, exc_info=not isinstance(error, UserError))
            counts.failed[case_id] = f"{type(error).__name__}: {error}"
        if progress is not None:
            progress(number, len(ids), case_id)
    return counts


class OnImage(NamedTuple):
    """A pseudo label's masks bool (S, *spatial) on the image's own grid; fields as of ``PseudoLabel``."""

    masks: Mask
    ignore: Mask
    raw: Mask
    rejected: Mask


def on_image(label: PseudoLabel, image: CaseImage, overlap: bool) -> OnImage:
    """Masks of a pseudo label on the image's own grid.

    ``labelling.label_case`` works on fewer pixels than a radiograph has. Masks are enlarged as probabilities, else
    their borders would show the working grid's steps.

    Args:
        overlap: the task's; False: no pixel of ``masks`` or of ``raw`` belongs to two structures.
    """
    shape = image.grid.spatial_shape
    if label.masks.shape[1:] == shape:
        return OnImage(label.masks, label.ignore, label.raw, label.rejected)
    size = (shape[0], shape[1])
    soft = np.where(label.masks.any(axis=(1, 2), keepdims=True), label.soft, 0)
    masks, raw = enlarged_masks(soft, size, overlap), enlarged_masks(label.raw, size, overlap)
    return OnImage(masks, enlarged_masks(label.ignore, size, True), raw, enlarged_masks(label.rejected, size, True))


@dataclass
class _Job:
    datastore: LabelStore
    labeller: CaseLabeller
    exclude: Collection[str]
    on_case: OnCase | None

    def __post_init__(self) -> None:
        self.task = self.labeller.task
        self.expected = {RAW_TAG: replace(self.labeller, sam=None).made_with}
        if self.labeller.sam is not None:
            self.expected[REFINED_TAG] = self.labeller.made_with

    def run(self, case_id: str) -> str:
        """Do one case; returns the field of ``Counts`` that it belongs to."""
        labels = self.datastore.get_labels_by_image_id(case_id)
        if HUMAN_TAG in labels or case_id in self.exclude:
            self._drop(labels, (RAW_TAG, REFINED_TAG))
            return "skipped"
        if all(self._is_current(labels, tag, wanted) for tag, wanted in self.expected.items()):
            return "current"
        # Stale ones go first: should this case fail now, no label of an old student is left to train on.
        self._drop(labels, self.expected)
        image = read_image(self.datastore.get_image_uri(case_id), self.task.dimension)
        if self.labeller.sam is None:
            raw = binarize(self.labeller.student.predict(image), self.task)
        else:
            label = self.labeller.label(image, self.labeller.sam)
            drawn = on_image(label, image, self.task.overlap)
            raw = drawn.raw
            self._save(case_id, REFINED_TAG, image, drawn.masks, label.info(), drawn.ignore, drawn.rejected)
            if self.on_case is not None:
                self.on_case(case_id, image, label)
        self._save(case_id, RAW_TAG, image, raw, _raw_info(raw, self.expected[RAW_TAG], self.task))
        return "made"

    def _is_current(self, labels: dict[str, str], tag: str, wanted: Provenance) -> bool:
        return tag in labels and is_current(self.datastore.get_label_info(labels[tag], tag), wanted)

    def _drop(self, labels: dict[str, str], tags: Iterable[str]) -> None:
        for tag in tags:
            if tag in labels:
                self.datastore.remove_label(labels[tag], tag)

    def _save(
        self,
        case_id: str,
        tag: str,
        image: CaseImage,
        masks: NDArray[Any],
        info: dict[str, Any],
        ignore: NDArray[Any] | None = None,
        rejected: NDArray[Any] | None = None,
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "label.seg.nrrd"
            write_masks(path, masks, self.task, image.grid, ignore=ignore, rejected=rejected)
            self.datastore.save_label(case_id, str(path), tag, info)


def _raw_info(raw: NDArray[Any], provenance: Provenance, task: Task) -> dict[str, Any]:
    status = {name: "accepted" if mask.any() else "absent" for name, mask in zip(task.names, raw, strict=True)}
    return {"provenance": provenance.as_json(), "structures": {n: {"status": s} for n, s in status.items()}}
