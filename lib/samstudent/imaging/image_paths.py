"""Paths of images that are a part of a file or of a folder: one series of several, one frame of several.

``<folder>/series-<Series Instance UID>`` is one series of a folder with files of several, ``<file>/frame-<number>`` one
frame of a DICOM file, counted from 1. No such file exists on the disk; readers get the files from ``image_files``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_SERIES = re.compile(r"series-([0-9.]{1,64})")
_FRAME = re.compile(r"frame-(\d{1,9})")


@dataclass(frozen=True)
class ImagePath:
    """An image on the disk.

    Attributes:
        place: the file or folder.
        series: Series Instance UID of the image's files in the folder; None: the folder has one series.
        frame: index of the frame in the file, from 0; None: all frames.
    """

    place: Path
    series: str | None = None
    frame: int | None = None

    @classmethod
    def of(cls, path: Path) -> ImagePath:
        """The image that a path names: an existing file or folder, else a part of one."""
        if not path.exists():
            if (found := _SERIES.fullmatch(path.name)) and path.parent.is_dir():
                return cls(path.parent, series=found[1])
            if (found := _FRAME.fullmatch(path.name)) and path.parent.is_file():
                return cls(path.parent, frame=int(found[1]) - 1)
        return cls(path)


def series_path(folder: Path, series: str) -> Path:
    """Path of one series of a folder with several."""
    return folder / f"series-{series}"


def frame_path(file: Path, frame: int) -> Path:
    """Path of a frame of a DICOM file; ``frame`` from 0."""
    return file / f"frame-{frame + 1:04}"


def is_image_path(path: Path) -> bool:
    """Whether a path is an existing file or folder, or a part of one."""
    return ImagePath.of(path).place.exists()
