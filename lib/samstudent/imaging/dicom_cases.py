"""Cases in the DICOM files of a folder and its subfolders: a case for each series, or in 2D for each image.

Documented in docs/how-to/dicom-folders.md.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samstudent.imaging.channel_cases import SeriesCase, series_as_channels
from samstudent.imaging.dicom_heads import DicomHead, dicom_files
from samstudent.imaging.file_names import PART_OF, case_id, split_name
from samstudent.imaging.image_paths import frame_path, series_path
from samstudent.imaging.remarks import Remark


@dataclass
class DicomCases:
    """Cases of a folder.

    Attributes:
        files: case id -> path of the image (``image_paths``).
        remarks: on left-out files and series; names are paths below the listed folder.
        volumes: the volumes among them.
    """

    files: dict[str, Path] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    volumes: list[SeriesCase] = field(default_factory=list)

    def add(self, case: str, path: Path, name: str) -> None:
        if any("\ud800" <= sign <= "\udfff" for sign in str(path)):
            # The server's list is JSON, which cannot hold such names.
            self.remarks.append(Remark(name, "the name is not valid UTF-8; rename it", is_fault=True))
        elif case in self.files:
            self.remarks.append(Remark(name, f"left out: its id {case!r} is also that of another; rename one", True))
        else:
            self.files[case] = path


def subfolder_cases(root: Path, subfolder: Path, dimension: int | None) -> DicomCases:
    """Cases in the DICOM files of a subfolder, at any depth.

    Args:
        root: the listed folder.
        subfolder: one of its subfolders.
        dimension: of the task. 3: each series that is a volume. 2: each image, and each frame of a clip. None: each
            volume, and each image of the other series.
    """
    found = DicomCases()
    for folder in _folders(root, subfolder, found):
        files = list(dicom_files(folder))
        if dimension == 2:
            _add_images(found, root, folder, files)
        else:
            _add_volumes(found, root, folder, files, dimension)
    return found


def loose_slices(root: Path) -> list[tuple[Path, DicomHead]]:
    """DICOM files of one image each that lie directly in a folder."""
    return [(file, head) for file, head in dicom_files(root) if head.frames == 1 and not head.fault]


def as_channels(found: DicomCases, root: Path, channels: Mapping[str, str]) -> DicomCases:
    """Cases whose channels are the series of one study, for a task with named channels."""
    files, remarks = series_as_channels(found.volumes, root, channels)
    return DicomCases(files, found.remarks + remarks)


def is_series(folder: Path) -> bool:
    """Whether the images that lie directly in a folder are one volume."""
    found = DicomCases()
    usable = _usable(found, folder, list(dicom_files(folder)))
    return len({head.series for _, head in usable}) == 1 and _is_volume(usable)


def loose_volumes(root: Path, slices: Collection[tuple[Path, DicomHead]]) -> DicomCases:
    """Volumes among the slices that lie directly in a folder, for a 3D task: ``series_<Series Number>``."""
    found = DicomCases()
    _add_volumes(found, root, root, list(slices), 3)
    return found


def clip_cases(file: Path, head: DicomHead, case: str) -> Iterator[tuple[str, Path]]:
    """(case id, path) of each frame of a clip; of a file with one image the file itself.

    Args:
        file: the file.
        head: its facts.
        case: id of the file.
    """
    if head.frames == 1:
        yield case, file
    else:
        for frame in range(head.frames):
            yield f"{case}{'-' if PART_OF in case else PART_OF}{frame + 1:04}", frame_path(file, frame)


def _folders(root: Path, subfolder: Path, found: DicomCases) -> Iterator[Path]:
    """A folder and those below it; those that cannot be read get a remark."""

    def note(error: OSError) -> None:
        text = f"cannot be read: {error.strerror}; change its permissions"
        found.remarks.append(Remark(os.path.relpath(error.filename, root), text, is_fault=True))

    seen: set[tuple[int, int]] = set()  # a link may lead to a folder above
    for folder, subfolders, _ in os.walk(subfolder, followlinks=True, onerror=note):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != "__MACOSX")
        yield Path(folder)


def _usable(found: DicomCases, root: Path, files: Sequence[tuple[Path, DicomHead]]) -> list[tuple[Path, DicomHead]]:
    """The images among files; the others get a remark."""
    usable = []
    for file, head in files:
        name = str(file.relative_to(root))
        if head.fault:
            found.remarks.append(Remark(name, head.fault, is_fault=True))
        elif head.no_image:
            found.remarks.append(Remark(name, f"skipped: {head.no_image}"))
        elif head.is_localizer:
            found.remarks.append(Remark(name, "skipped: a localizer"))
        else:
            usable.append((file, head))
    return usable


def _add_images(found: DicomCases, root: Path, folder: Path, files: Sequence[tuple[Path, DicomHead]]) -> None:
    for file, head in _usable(found, root, files):
        stem = split_name(file.name, (".dcm",))[0]
        for case, path in clip_cases(file, head, f"{_id_of(root, folder)}{PART_OF}{stem}"):
            found.add(case_id(case), path, str(file.relative_to(root)))


def _add_volumes(
    found: DicomCases, root: Path, folder: Path, files: Sequence[tuple[Path, DicomHead]], dimension: int | None
) -> None:
    usable = _usable(found, root, files)
    series: dict[str, list[tuple[Path, DicomHead]]] = {}
    for file, head in usable:
        series.setdefault(head.series, []).append((file, head))
    volumes = {uid: members for uid, members in series.items() if _is_volume(members)}
    numbers = Counter(members[0][1].number for members in volumes.values())
    for uid, members in series.items():
        file, head = members[0]
        name = str(file.relative_to(root))
        if uid not in volumes:
            if dimension is None:
                _add_images(found, root, folder, members)
            else:
                kind = "a single image" if len(members) == 1 and head.frames == 1 else "images without positions"
                found.remarks.append(Remark(name, f"skipped: {kind}, no volume as in the task (dimension: 3)"))
            continue
        own = head.number if head.number and numbers[head.number] == 1 else uid
        base = _id_of(root, folder)
        case = base if len(volumes) == 1 and base else f"{base or 'series'}_{own}"
        if not uid and (len(series) > 1 or folder == root):
            text = "no Series Instance UID, beside other files; move each series to a folder"
            found.remarks.append(Remark(name, text, is_fault=True))
            continue
        path = folder if len(series) == 1 and folder != root else series_path(folder, uid)
        found.add(case_id(case), path, str(folder.relative_to(root)) if path == folder else name)
        found.volumes.append(SeriesCase(path, folder, head.study, head.description or folder.name))


def _is_volume(members: Sequence[tuple[Path, DicomHead]]) -> bool:
    """Whether a series has a stack of images. Its reader leaves out others, e.g. a capture without a position."""
    return sum(head.frames for _, head in members if head.is_placed) > 1


def _id_of(root: Path, folder: Path) -> str:
    return "_".join(folder.relative_to(root).parts)
