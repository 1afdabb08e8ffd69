"""Images for a prediction: files, folders of files, DICOM series, and cases of the study."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from samstudent.errors import Conflict, NotFound
from samstudent.imaging.dicom_cases import is_series
from samstudent.imaging.file_names import IMAGES, case_id
from samstudent.imaging.folder import Listing, list_folder
from samstudent.imaging.image_paths import ImagePath
from samstudent.imaging.remarks import sentences

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


def find_images(
    arguments: Sequence[str], study: StudyCases, dimension: int, channels: Mapping[str, str] | None = None
) -> ImageList:
    """Images that arguments of a command name.

    Args:
        arguments: files, folders, and ids of cases of the study; none: all cases of the study.
        study: its cases.
        dimension: of the task. In 3D a folder of DICOM slices is one image.
        channels: named channels of the task with their texts (``list_folder``).

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
            found = list_images(Path(argument), dimension, channels)
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


def list_images(path: Path, dimension: int, channels: Mapping[str, str] | None = None) -> Listing:
    """Images of a folder by id, or a single one, as in a study (``imaging.folder.list_folder``).

    In 3D the folder itself may be a DICOM series; its id is the folder's name.
    """
    listing = list_folder(path, dimension=dimension, channels=channels)
    others = [file for file in listing.files.values() if ImagePath.of(file).place != path]
    if dimension == 3 and path.is_dir() and not channels and not others and is_series(path):
        return Listing({case_id(path.resolve().name): path}, [])
    return listing


def _of_path(path: Path) -> Fetch:
    return lambda: path


def _fetch_case(study: StudyCases, case: str) -> Fetch:
    return lambda: study.path(case)
