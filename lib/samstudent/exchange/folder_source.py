"""Reader of folders with a label file for each image: ``images/`` and ``labels/`` or ``labels_overlap/``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samstudent.errors import NotFound, UserError, explain
from samstudent.exchange.map_labels import label_of
from samstudent.exchange.source import Source, SourceCase
from samstudent.exchange.value_table import read_table, table_beside
from samstudent.imaging.file_names import LABELS
from samstudent.imaging.folder import images_folder, list_folder
from samstudent.imaging.label_tags import FINAL
from samstudent.imaging.remarks import sentences
from samstudent.rounds.holdout import read_split

FORMAT = "labels"
#: Folders of label files: label maps, and with a bit for each structure, as ``samstudent experiment`` reads them.
_MAPS, _BITS = "labels", "labels_overlap"


@dataclass(frozen=True)
class _Place:
    """Folders of a source: of the images (None: there is none), and of the labels, perhaps with bits."""

    images: Path | None
    labels: Path
    bits: bool


def is_label_folder(folder: Path) -> bool:
    """Whether a folder has label files, by its name, its subfolders or its files."""
    return folder.is_dir() and (_labels_in(folder) is not None or bool(list_folder(folder, LABELS).files))


def read_label_folder(folder: Path, images: Path | None = None, table: Path | None = None) -> Source:
    """Read a folder; no image or label map is decoded.

    Label files have the names of their images. Their values have names in the file itself (.seg.nrrd, DICOM SEG), in a
    ``<label file>.values.json``, or in a table. Cases that are ``test`` in a ``split.csv`` are test cases.

    Args:
        folder: with ``labels/`` or ``labels_overlap/`` (bits), a study, or itself of label files.
        images: folder of the images; None: that of ``folder`` as of a study, or ``images/`` beside label files.
        table: table of the values; None: the first of ``value_table.TABLES`` in or above the folder of the labels.

    Raises:
        NotFound: a folder or the table does not exist.
        UserError: the table or split.csv is not valid, or there is no label.
    """
    if images is not None and not images.is_dir():
        raise NotFound(f"--images {images}: no such folder")
    place = _place(folder, images)
    beside = (place.labels, place.labels.parent, folder)
    table = table or next((one for one in map(table_beside, beside) if one), None)
    names = None if table is None else read_table(table)
    listed = list_folder(place.labels, LABELS)
    found = {} if place.images is None else list_folder(place.images).files
    if not listed.files:
        raise UserError(f"{place.labels}: no label in this folder ({', '.join(LABELS)})")
    tests = _tests(place)
    cases = [SourceCase(case, (found[case],)) for case in found if case not in listed.files]
    for case, path in listed.files.items():
        image = (found[case],) if case in found else ()
        try:
            label = label_of(path, names, str(table), bits=place.bits)
            cases.append(SourceCase(case, image, label, case in tests, path.name))
        except (UserError, OSError) as error:
            cases.append(SourceCase(case, problem=explain(error, path)))
    remarks = sentences([remark for remark in listed.remarks if remark.is_fault], f"{place.labels.name}/")
    sorted_cases = tuple(sorted(cases, key=lambda case: case.id))
    named = tuple(dict.fromkeys(names.values())) if names else ()
    return Source(FORMAT, (folder,), sorted_cases, place.bits, named, tuple(remarks))


def _labels_in(folder: Path) -> tuple[Path, bool] | None:
    """Subfolder of the labels (of a study: ``labels/final``), and whether they are bits; None: there is none."""
    found = next((folder / name for name in (_BITS, _MAPS) if (folder / name).is_dir()), None)
    if found is None:
        return None
    final = found / FINAL
    return (final if final.is_dir() else found), found.name == _BITS


def _place(folder: Path, images: Path | None) -> _Place:
    if (inside := _labels_in(folder)) is None:
        beside = folder.parent / "images"
        return _Place(images or (beside if beside.is_dir() else None), folder, folder.name == _BITS)
    return _Place(images or images_folder(folder), *inside)


def _tests(place: _Place) -> set[str]:
    """Cases that split.csv beside the labels says are test cases."""
    folders = (place.labels, *list(place.labels.parents)[:2])
    split = next((folder / "split.csv" for folder in folders if (folder / "split.csv").is_file()), None)
    return set() if split is None else {case for case, part in read_split(split).items() if part == "test"}
