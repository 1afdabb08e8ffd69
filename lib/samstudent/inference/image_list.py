"""Images for a prediction: files, folders of files, DICOM series, and cases of the study."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from samstudent.errors import Conflict, NotFound
from samstudent.imaging.dicom_header import HEAD_BYTES, is_dicom
from samstudent.imaging.file_names import IMAGES, case_id, split_name
from samstudent.imaging.folder import Listing, Remark, list_folder, sentences

#: Function that returns the file or folder of an image, fetched first where it is remote.
Fetch = Callable[[], Path]


class StudyCases(Protocol):
    """Cases of a study."""

    def ids(self) -> Sequence[str]:
        """Ids of all cases."""

    def path(self, case: str) -> Path:
        """File or folder of an image, fetched first where it is remote."""


@dataclass(frozen=True)
class ImageList:
    """Images by id.

    Attributes:
        images: id -> function that returns the path.
        remarks: on skipped files, one sentence each.
    """

    images: Mapping[str, Fetch]
    remarks: Sequence[str] = ()


def are_cases(arguments: Sequence[str]) -> bool:
    """Whether arguments of ``find_images`` name cases of the study only, and no file or folder."""
    return not any(map(os.path.lexists, arguments))


def find_images(arguments: Sequence[str], study: StudyCases, dimension: int) -> ImageList:
    """Images that arguments of a command name.

    Args:
        arguments: files, folders, and ids of cases of the study; none: all cases of the study.
        study: its cases.
        dimension: of the task. In 3D a folder of DICOM slices is one image.

    Raises:
        NotFound: no such file, folder or case; no image.
        Conflict: two images have the same id.
    """
    if not arguments:
        ids = study.ids()
        if not ids:
            raise NotFound("the study has no case; name the images to predict")
        return ImageList({case: _fetch_case(study, case) for case in ids})
    images: dict[str, Fetch] = {}
    origins: dict[str, str] = {}
    remarks: list[str] = []
    for argument in arguments:
        if os.path.lexists(argument):
            found = list_images(Path(argument), dimension)
            if not found.files:
                reasons = "; ".join(sentences(found.remarks)) or f"expected {' '.join(IMAGES)}"
                raise NotFound(f"{argument}: no image in this folder: {reasons}")
            remarks += sentences(found.remarks, f"{argument.rstrip('/')}/")
            fetches = {case: _of_path(path) for case, path in found.files.items()}
        elif argument in study.ids():
            fetches = {argument: _fetch_case(study, argument)}
        else:
            raise NotFound(f"{argument}: no such file or folder, and no case of the study has this id")
        if twice := sorted(fetches.keys() & images.keys()):
            raise Conflict(
                f"{argument}: image {twice[0]!r} is also in {origins[twice[0]]}; rename one, or predict them one after"
                " the other, each with its own --output"
            )
        images |= fetches
        origins |= dict.fromkeys(fetches, argument)
    return ImageList(images, remarks)


def list_images(path: Path, dimension: int) -> Listing:
    """Images of a folder by id, or a single one.

    In 3D a folder of DICOM slices is one image, and so is each such subfolder at any depth, whose id is its path below
    ``path`` with "_" in place of "/". Otherwise files are listed as in a study (``imaging.folder.list_folder``).
    """
    if dimension == 2 or not path.is_dir():
        return list_folder(path)
    series = list(_series_folders(path))
    if path in series and not _other_images(path):
        return Listing({case_id(path.resolve().name): path}, [])
    files, remarks = {}, []
    listed = list_folder(path)
    for case, file in listed.files.items():
        files[case] = file
    for folder in series:
        if folder == path:
            continue
        parts = folder.relative_to(path).parts
        case = case_id("_".join(parts))
        if case in files:
            raise Conflict(f"{folder}: its id {case!r} is also that of {files[case]}; rename one of them")
        files[case] = folder
    read = {folder.relative_to(path).parts[0] for folder in series if folder != path}
    remarks = [remark for remark in listed.remarks if remark.name not in read]
    if path in series:
        remarks.append(Remark(path.name, "DICOM slices beside other images are read one by one; move them to a folder"))
    return Listing(files, remarks)


def _series_folders(path: Path) -> Iterator[Path]:
    """Folders with DICOM files directly in them, sorted."""
    for folder, subfolders, files in os.walk(path):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if any(_is_dicom(Path(folder, name)) for name in sorted(files) if not name.startswith(".")):
            yield Path(folder)


def _other_images(folder: Path) -> bool:
    """Whether a folder has images that are no DICOM files."""
    return any(split_name(file.name, IMAGES)[1].lower() not in ("", ".dcm") for file in folder.iterdir())


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(HEAD_BYTES))
    except OSError:
        return False


def _of_path(path: Path) -> Fetch:
    return lambda: path


def _fetch_case(study: StudyCases, case: str) -> Fetch:
    return lambda: study.path(case)
