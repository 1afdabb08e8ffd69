"""Paths of images that are a part of a file or of a folder, or several of them.

``<folder>/series-<Series Instance UID>`` is one series of a folder with files of several, ``<file>/frame-<number>`` one
frame of a DICOM file, counted from 1. ``<folder>/{<path>,<path>}`` are the channels of one case,
``<file>/channels-<n>`` a file that contains n channels. No such file exists on the disk; readers get the files from
``image_files``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SERIES = re.compile(r"series-([0-9.]{1,64})")
_FRAME = re.compile(r"frame-(\d{1,9})")
_CHANNELS = re.compile(r"channels-(\d{1,3})")
_OPEN, _BETWEEN, _CLOSE = "/{", ",", "}"


@dataclass(frozen=True)
class ImagePath:
    """An image on the disk.

    Attributes:
        place: the file or folder; of several channels that of the first.
        series: Series Instance UID of the image's files in the folder; None: the folder has one series.
        frame: index of the frame in the file, from 0; None: all frames.
        count: number of channels that the file must contain; None: one image, grey or RGB.
        channels: paths of the channels; (): not several.
    """

    place: Path
    series: str | None = None
    frame: int | None = None
    count: int | None = None
    channels: tuple[Path, ...] = ()

    @classmethod
    def of(cls, path: Path) -> ImagePath:
        """The image that a path names: an existing file or folder, else a part of one."""
        if not path.exists():
            if (found := _SERIES.fullmatch(path.name)) and path.parent.is_dir():
                return cls(path.parent, series=found[1])
            if (found := _FRAME.fullmatch(path.name)) and path.parent.is_file():
                return cls(path.parent, frame=int(found[1]) - 1)
            if (found := _CHANNELS.fullmatch(path.name)) and path.parent.is_file():
                return cls(path.parent, count=int(found[1]))
            if members := members_of(str(path)):
                channels = tuple(Path(member) for member in members)
                return cls(cls.of(channels[0]).place, channels=channels)
        return cls(path)


def series_path(folder: Path, series: str) -> Path:
    """Path of one series of a folder with several."""
    return folder / f"series-{series}"


def frame_path(file: Path, frame: int) -> Path:
    """Path of a frame of a DICOM file; ``frame`` from 0."""
    return file / f"frame-{frame + 1:04}"


def channels_path(paths: Sequence[Path], folder: Path) -> Path:
    """Path of one case whose channels are several images below a folder.

    Raises:
        ValueError: a name has a sign that separates the channels.
    """
    names = [path.relative_to(folder).as_posix() for path in paths]
    if any(sign in name for name in names for sign in (_OPEN[1], _BETWEEN, _CLOSE)):
        raise ValueError(f"a name of a channel has one of {_OPEN[1]} {_BETWEEN} {_CLOSE}")
    return Path(f"{folder}{_OPEN}{_BETWEEN.join(names)}{_CLOSE}")


def channels_in(file: Path, count: int) -> Path:
    """Path of a file that contains this number of channels."""
    return file / f"channels-{count}"


def members_of(path: str) -> list[str]:
    """Paths of the channels in a path, or in a name below a folder; []: not several channels."""
    folder, found, names = path.rpartition(_OPEN)
    if not found and path.startswith(_OPEN[1]):
        folder, found, names = "", _OPEN, path[1:]
    if not found or not names.endswith(_CLOSE):
        return []
    return [f"{folder}/{name}" if folder else name for name in names[:-1].split(_BETWEEN)]


def shown_path(path: Path, index: int = 0) -> Path:
    """Image that clients load of several channels in files; other images themselves."""
    channels = ImagePath.of(path).channels
    return channels[index] if channels else path


def is_image_path(path: Path) -> bool:
    """Whether a path is an existing file or folder, or a part of one."""
    return ImagePath.of(path).place.exists()
