"""Import of another tool's cases into a study, through the datastore by which the server saves labels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError, explain
from samstudent.exchange.channels import combine_channels
from samstudent.exchange.import_report import CaseReport, ImageOutcome, ImportReport, LabelOutcome
from samstudent.exchange.source import Source, SourceCase, SourceLabel, other_names
from samstudent.exchange.split_rows import add_tests
from samstudent.imaging.annotations import LabelledMasks, read_label
from samstudent.imaging.case import CaseImage, luminance, read_image
from samstudent.imaging.image_paths import ImagePath, channels_in
from samstudent.imaging.label_tags import FINAL
from samstudent.imaging.label_writing import label_map, write_masks
from samstudent.imaging.structure_names import IGNORE
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.rounds.study import Study
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.util.files import sha256_file

#: Key of a label's info with its origin.
IMPORTED_FROM = "imported_from"
#: Largest difference of a pixel between an image in the study and the source's copy of it, which may be rounded to 8
#: bits, as a share of the range of values.
_ROUNDING = 0.005


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import.

    Attributes:
        user: author of the labels.
        replace: replace labels of the study that differ; they go to the history.
    """

    user: str = "import"
    replace: bool = False


class _NotTaken(UserError):
    """Reason why a case is not taken."""


@dataclass(frozen=True)
class _Read:
    """A label of the source on the image's grid.

    Attributes:
        names: names in it, as of ``SourceLabel.names``.
        masks: its masks, without overlap where the task forbids it.
        notes: sentences about what was changed.
    """

    names: Mapping[str, int]
    masks: LabelledMasks
    notes: tuple[str, ...] = ()


class StudyImport:
    """Import into one study.

    An image is copied, unless the study has it. A label is saved as a human label (``final``), as .seg.nrrd, so that
    overlaps and structures that are not annotated are kept. A label of the study that differs stays, unless it is to be
    replaced; then it goes to the history. A repetition changes nothing.

    Args:
        study: the study, with its task.
        datastore: its datastore.
        options: author, and whether labels are replaced.
    """

    def __init__(self, study: Study, datastore: StudyFolderDatastore, options: ImportOptions) -> None:
        self.study, self.datastore, self.options = study, datastore, options
        self.task = study.task
        self._listed = set(datastore.list_images())

    def run(self, source: Source, each: Callable[[Sequence[SourceCase]], Iterable[SourceCase]] = iter) -> ImportReport:
        """Take the cases of a source, each by itself: a case that cannot be taken does not stop the others.

        Args:
            source: the source.
            each: passes the cases on, e.g. with a progress bar.

        Raises:
            UserError: no name of the source is a structure of the task; split.csv or the audit log cannot be used.
        """
        self._require_known_names(source)
        self.study.audit.require()
        # Before any label: a round that starts meanwhile must not train on a test case.
        tests = {case.id for case in source.cases if case.is_test and not case.problem}
        in_training = add_tests(self.study.split_csv, tests)
        origin = {"format": source.format, "files": [path.name for path in source.files]}
        cases = []
        for case in each(source.cases):
            if case.id in in_training:
                reason = f"a test case of the source, but {in_training[case.id]} in {self.study.split_csv}"
                cases.append(CaseReport(case.id, "not taken", "not taken", reason))
            else:
                cases.append(self._take(case, origin))
        listed = tests - set(in_training)
        remark = f"test cases: {len(listed)}, listed in {self.study.split_csv}, so never used for training"
        return ImportReport(tuple(cases), (*source.remarks, *([remark] if listed else [])))

    def _require_known_names(self, source: Source) -> None:
        names = source.all_names()
        if names and len(other_names(names, self.task)) == len(names):
            listed = ", ".join(list(names)[:5]) + (" ..." if len(names) > 5 else "")
            hint = "; a name may be in an attribute: give --attribute" if source.format == "cvat" else ""
            raise UserError(
                f"{source.files[0]}: none of its names ({listed}) is a structure of task {self.task.name}, which has "
                f"{', '.join(self.task.names)}{hint}"
            )

    # ---- one case ----

    def _take(self, case: SourceCase, origin: dict[str, Any]) -> CaseReport:
        wanted: LabelOutcome = "none" if case.label is None else "not taken"
        try:
            if case.problem:
                raise _NotTaken(case.problem)
            with self._image(case) as (image, file):
                label = None if case.label is None else self._read(case.label, image)
                found: ImageOutcome = "present"
                if file is not None:
                    self._add_image(case.id, file, origin)
                    found = "added"
                if label is None:
                    return CaseReport(case.id, found, "none")
                try:
                    return self._reported(case.id, found, label, self._save(case.id, image, label, origin))
                except (UserError, OSError) as error:
                    return CaseReport(case.id, found, "not taken", explain(error))
        except (UserError, OSError) as error:
            return CaseReport(case.id, "not taken", wanted, explain(error))

    @contextmanager
    def _image(self, case: SourceCase) -> Iterator[tuple[CaseImage, Path | None]]:
        """The case's image, and the file to add to the study; None: the study has the image.

        Raises:
            UserError, OSError: it cannot be read, or the study has another image of this name.
        """
        listed = case.id in self._listed
        if not case.images:
            if not listed:
                named = f"{case.image_name!r} " if case.image_name else ""
                raise _NotTaken(f"no image {named}in the source, and no case {case.id!r} in the study")
            yield read_image(self.datastore.get_image_uri(case.id), self.task.dimension), None
            return
        with tempfile.TemporaryDirectory() as folder:
            file = case.images[0]
            if len(case.images) > 1:
                file = combine_channels(case.images, self.task, Path(folder) / "image")
            count = len(self.task.image.sequences)
            image = read_image(channels_in(file, count) if count else file, self.task.dimension)
            if not listed:
                yield image, file
                return
            present = Path(self.datastore.get_image_uri(case.id))
            if (place := ImagePath.of(present).place).is_file() and sha256_file(place) == sha256_file(file):
                yield image, None
                return
            known = read_image(present, self.task.dimension)
            if not _same_image(known, image):
                raise _NotTaken(f"{file}: another image {case.id!r} is in the study, {present.name}; rename one")
            yield known, None

    def _add_image(self, id: str, file: Path, origin: dict[str, Any]) -> None:
        self.datastore.add_image(id, str(file), {"user": self.options.user, IMPORTED_FROM: origin})
        self._listed.add(id)
        self.study.audit.record("image added", self.options.user, case=id, imported_from=origin)

    def _read(self, label: SourceLabel, image: CaseImage) -> _Read:
        found = label.read(self.task, image.grid)
        if not found.annotated.any():
            raise _NotTaken("none of the task's structures is annotated")
        shared = 0 if self.task.overlap else int((found.masks.sum(axis=0, dtype=np.uint16) > 1).sum())
        if not shared:
            return _Read(label.names(), found)
        note = f"pixels of several structures: {shared}; the smaller structure has them, as the task forbids overlap"
        return _Read(label.names(), LabelledMasks(_without_overlap(found.masks), found.unknown), (note,))

    def _save(self, id: str, image: CaseImage, label: _Read, origin: dict[str, Any]) -> tuple[LabelOutcome, str]:
        """Save a label, unless the study has the same, or another that stays; returns what was done, and why."""
        outcome, reason = self._outcome(id, image, label.masks)
        if outcome in ("saved", "replaced"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "label.seg.nrrd"
                marked = None if label.masks.unknown is None else {IGNORE: label.masks.unknown}
                write_masks(path, label.masks.masks, self.task, image.grid, marked=marked)
                info = {"user": self.options.user, IMPORTED_FROM: origin}
                self.datastore.save_label(id, str(path), FINAL, info)
            self.study.audit.record("label saved", self.options.user, case=id, tag=FINAL, imported_from=origin)
        return outcome, reason

    def _reported(self, id: str, found: ImageOutcome, label: _Read, outcome: tuple[LabelOutcome, str]) -> CaseReport:
        names, masks = self.task.names, label.masks
        structures = tuple(name for name, mask in zip(names, masks.masks, strict=True) if mask.any())
        unknown = tuple(name for name, known in zip(names, masks.annotated, strict=True) if not known)
        left_out = {name: label.names[name] for name in other_names(label.names, self.task)}
        return CaseReport(id, found, *outcome, structures, unknown, left_out, label.notes)

    def _outcome(self, case: str, image: CaseImage, masks: LabelledMasks) -> tuple[LabelOutcome, str]:
        """What to do with a label, and why the study's label stays."""
        label_id = self.datastore.get_labels_by_image_id(case).get(FINAL)
        if label_id is None:
            return "saved", ""
        path = Path(self.datastore.get_label_uri(label_id, FINAL))
        info = self.datastore.get_label_info(label_id, FINAL)
        try:
            known = read_label(path, self.task, image.grid, names=names_for_reading(path, info))
            if _same_label(known, masks):
                return "unchanged", ""
            difference = "the study has another label"
        except (UserError, OSError) as error:
            difference = f"the study has a label that cannot be read ({explain(error, path)})"
        if self.options.replace:
            return "replaced", ""
        return "kept", f"{difference}; --replace saves that of the source, and keeps the study's in the history"


def _same_image(one: CaseImage, other: CaseImage) -> bool:
    """Whether two files show the same pixels, but for rounding."""
    if one.grid.spatial_shape != other.grid.spatial_shape:
        return False
    if len(one.pixels) == len(other.pixels):
        grey, copy = one.pixels, other.pixels
    elif {len(one.pixels), len(other.pixels)} <= {1, 3}:
        grey, copy = luminance(one.pixels), luminance(other.pixels)
    else:
        return False
    return bool(np.abs(grey - copy).max() <= _ROUNDING * float(np.ptp(grey)))


def _same_label(one: LabelledMasks, other: LabelledMasks) -> bool:
    if not (one.masks == other.masks).all():
        return False
    unknown = [np.zeros_like(one.masks) if label.unknown is None else label.unknown for label in (one, other)]
    return bool((unknown[0] == unknown[1]).all())


def _without_overlap(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Masks in which the smaller of several structures has a shared pixel."""
    values = label_map(masks)
    return np.stack([values == value for value in range(1, len(masks) + 1)])
