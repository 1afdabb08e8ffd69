"""Listing of a folder: its images or labels by case id, and remarks on the skipped files. One rule for all commands and
the server, documented in docs/how-to/own-data.md.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samstudent.errors import NotFound, UserError
from samstudent.imaging.channel_cases import files_as_channels
from samstudent.imaging.dicom_cases import as_channels, clip_cases, loose_slices, loose_volumes, subfolder_cases
from samstudent.imaging.dicom_heads import dicom_head, image_files
from samstudent.imaging.file_names import IMAGES, LABELS, SEGMENTATION, case_id, printable, split_name, why_no_id
from samstudent.imaging.image_paths import channels_in
from samstudent.imaging.listed_names import listed_by_server, server_list
from samstudent.imaging.remarks import Remark

#: Suffix of our files beside label maps (``value_names``).
VALUE_NAMES = ".values.json"
#: Files of file managers and office programs; never an image.
_LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx"}
_FLAT = "images other than DICOM lie flat, in the study folder or in its images/"
_OURS = re.compile(r"split\.csv|datastore_v2.*\.json|labels(-.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Listing:
    """The content of a folder.

    Attributes:
        files: case id -> file, in the order of their names.
        remarks: on skipped files and on names, in the order of names.
    """

    files: dict[str, Path]
    remarks: list[Remark]


def list_folder(
    folder: Path,
    extensions: Sequence[str] = IMAGES,
    listed: Mapping[str, str] | None = None,
    dimension: int | None = None,
    channels: Mapping[str, str] | None = None,
) -> Listing:
    """List the images or the labels of a folder. In subfolders only DICOM images are read (``dicom_cases``).

    Files of file managers (``._x``, ``.DS_Store``, ``Thumbs.db``, ``__MACOSX`` ...) and the study's own files are
    skipped without a remark; all other skipped files have one. A file that cannot be read is skipped, too. Of the
    content of files only the headers of DICOM files are read.

    Args:
        folder: a folder, or a single file, which is then the only case.
        extensions: ``IMAGES``, ``LABELS`` or others, lower case, in order of preference: of several files with the same
            id the first is taken. Series and frames of DICOM files are found with ``IMAGES`` only.
        listed: case id -> file name that the server uses, which has priority; None: from the study's
            ``datastore_v2.json`` where it is needed.
        dimension: of the task, 2 or 3: of DICOM files each image is a case, or each volume; None: each volume, and each
            image of the other series.
        channels: named channels of the task with their texts (``ImageSection.sequences``): files and DICOM series are
            grouped to cases (``channel_cases``).

    Raises:
        NotFound: the file or folder does not exist.
        UserError: the folder cannot be read.
    """
    takes_dicom = tuple(extensions) == IMAGES
    if not folder.is_dir():
        case, file = case_id(split_name(folder.name, extensions)[0]), _existing(folder)
        if channels:
            return Listing({case: channels_in(file, len(channels))}, [])
        return Listing(_frames(case, file, dimension) if takes_dicom else {case: file}, [])
    slices = loose_slices(folder) if takes_dicom and dimension == 3 else []
    in_volumes = {file.name for file, _ in slices}
    found: dict[str, list[os.DirEntry[str]]] = {}
    remarks: list[Remark] = []
    in_dicom = [loose_volumes(folder, slices)] if slices else []
    for item in _scan(folder):
        stem, extension = split_name(item.name, extensions)
        if _is_left_behind(item.name) or (extensions is not LABELS and _OURS.fullmatch(item.name)):
            continue
        if item.name in in_volumes:
            continue
        remark = _passed_over(item, stem, extension, extensions)
        if takes_dicom and os.path.isdir(item.path) and not item.name.startswith(".") and item.name != "images":
            cases = subfolder_cases(folder, Path(item.path), dimension)
            in_dicom.append(cases)
            if remark is None and not (cases.files or cases.remarks):
                remark = Remark(item.name, f"subfolder without DICOM images is not read: {_FLAT}")
        if remark is not None:
            remarks.append(remark)
        elif extension and not item.name.startswith("."):
            found.setdefault(case_id(stem), []).append(item)
    files: dict[str, Path] = {}
    for case, items in found.items():
        names = [item.name for item in items]
        if len(names) > 1:
            if listed is None:
                listed = listed_by_server(folder)
            name = _preferred(names, extensions, listed.get(case))
            remarks.append(_same_id(case, names, name))
        else:
            name = names[0]
        files |= _frames(case, folder / name, dimension) if takes_dicom else {case: folder / name}
        if case != unicodedata.normalize("NFC", split_name(name, extensions)[0]):
            remarks.append(Remark(name, f"taken as {case!r}: {why_no_id(split_name(name, extensions)[0])}"))
    if channels:
        files, lacking = files_as_channels(files, folder, channels)
        remarks += lacking
        in_dicom = [as_channels(cases, folder, channels) for cases in in_dicom]
    for cases in in_dicom:
        remarks += cases.remarks
        for case, path in cases.files.items():
            if files.setdefault(case, path) != path:
                name = str(path.relative_to(folder))
                remarks.append(Remark(name, f"left out: {files[case].name} has its id {case!r}; rename one", True))
    return Listing(files, sorted(remarks, key=lambda remark: remark.name))


def _frames(case: str, file: Path, dimension: int | None) -> dict[str, Path]:
    """A file, or the frames of a DICOM clip; in 2D of each file with several frames."""
    if dimension != 3 and split_name(file.name, IMAGES)[1].lower() == ".dcm":
        head = dicom_head(file)
        if head and not head.no_image and not head.fault and (dimension == 2 or not head.is_placed):
            return dict(clip_cases(file, head, case))
    return {case: file}


def images_folder(study: Path, extensions: Sequence[str] = IMAGES) -> Path:
    """Folder of a study's images: the one in the server's list, else ``images/`` unless the study folder itself
    contains images."""
    images_dir = server_list(study).get("images_dir")
    if isinstance(images_dir, str) and (study / images_dir).is_dir():
        return study if images_dir == "." else study / images_dir
    if (study / "images").is_dir() and not list_folder(study, extensions).files:
        return study / "images"
    return study


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """(time of the last change in ns, bytes, inode): differs after a change of the file; None: no such file.

    Of an image of several files the latest time, the sum of bytes and the number of files.
    """
    try:
        files = image_files(path)
        statuses = [file.stat() for file in files]
    except OSError:
        return None
    if files == [path]:
        return statuses[0].st_mtime_ns, statuses[0].st_size, statuses[0].st_ino
    if not files:
        return None
    return max(s.st_mtime_ns for s in statuses), sum(s.st_size for s in statuses), len(files)


# ---- one entry of a folder ----


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return sorted(items, key=lambda item: item.name)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read: {error.strerror}") from error


def _existing(file: Path) -> Path:
    if not os.path.lexists(file):
        raise NotFound(f"{file}: no such file or folder")
    return file


def _is_left_behind(name: str) -> bool:
    """Whether a file is skipped without a remark: temporary, hidden (unless it may be a hidden image) or of a tool."""
    if name.startswith((".~", "._", ".tmp-")) or name.endswith(VALUE_NAMES) or name.lower() in _LEFT_BEHIND:
        return True
    return name.startswith(".") and not split_name(name, LABELS)[1]


def _passed_over(item: os.DirEntry[str], stem: str, extension: str, extensions: Sequence[str]) -> Remark | None:
    """Remark on an entry that is not listed; None: it is listed."""
    kind = "label" if extensions is LABELS else "image"
    try:
        mode = item.stat().st_mode
    except OSError as error:
        return Remark(item.name, _why_unreadable(item, error), is_fault=bool(extension))
    if stat.S_ISDIR(mode):
        return _subfolder(item, kind, extensions)
    if item.name.startswith("."):
        return Remark(item.name, f"hidden by the dot in front, so no {kind}; rename it if it is one")
    if not extension:
        return _no_extension(item, mode, kind, extensions)
    if not stat.S_ISREG(mode):
        return Remark(item.name, "no regular file, but a pipe, socket or device; remove it", is_fault=True)
    if not os.access(item.path, os.R_OK):
        return Remark(item.name, "this user may not read it; change its permissions", is_fault=True)
    if any("\ud800" <= c <= "\udfff" for c in stem):
        # The server's list is JSON, which cannot hold such names.
        return Remark(item.name, "the name is not valid UTF-8; rename it", is_fault=True)
    return None


def _why_unreadable(item: os.DirEntry[str], error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a circular link; remove it"
    if error.errno == errno.ENOENT and item.is_symlink():
        return f"a link to {printable(os.readlink(item.path))}, which does not exist; correct or remove it"
    return f"cannot be read: {error.strerror}; change its permissions or remove it"


def _subfolder(item: os.DirEntry[str], kind: str, extensions: Sequence[str]) -> Remark | None:
    try:
        with os.scandir(item.path) as inside:
            names = [i.name for i in inside if not _is_left_behind(i.name)]
    except OSError:
        names = []
    endings = [split_name(name, extensions)[1].lower() for name in names]
    if tuple(extensions) == IMAGES and item.name != "images":
        endings = [ending for ending in endings if ending != ".dcm"]  # read as DICOM cases
    count = sum(map(bool, endings))
    if kind == "label":
        return Remark(item.name, f"subfolder with {count} labels is not read") if count else None
    if item.name == "images" and not count:
        return None
    if not count and tuple(extensions) == IMAGES:
        return None
    where = _FLAT
    if item.name == "images":
        where = "images that lie in the study folder itself come first; move all to one of both"
    return Remark(item.name, f"subfolder with {count} images is not read: {where}")


def _no_extension(item: os.DirEntry[str], mode: int, kind: str, extensions: Sequence[str]) -> Remark:
    if item.name.lower().endswith(SEGMENTATION):
        return Remark(item.name, "a segmentation, not an image; labels belong in labels/final")
    if item.name.upper() == "DICOMDIR":
        return Remark(item.name, "the table of contents of a medium; the folders beside it are read")
    # DICOM files are often named by a UID or a number alone.
    if stat.S_ISREG(mode) and not re.search(r"\.[A-Za-z]\w*$", item.name) and _is_dicom(item.path):
        return Remark(item.name, "a DICOM file without extension is not read; rename it to end in .dcm")
    return Remark(item.name, f"no {kind} by its name, which should end in one of {' '.join(extensions)}")


def _is_dicom(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


# ---- several files with one id ----


def _preferred(names: Sequence[str], extensions: Sequence[str], listed: str | None) -> str:
    if listed in names:
        return str(listed)
    return min(names, key=lambda name: (list(extensions).index(split_name(name, extensions)[1].lower()), name))


def _same_id(case: str, names: Sequence[str], used: str) -> Remark:
    others = ", ".join(printable(name) for name in names)
    return Remark(used, f"is used, because several files are called {case!r}: {others}; rename or remove all but one")
