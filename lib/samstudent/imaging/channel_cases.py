"""Registered sequences as channels of one case: files by the end of their names, DICOM series by their descriptions.

Documented in docs/how-to/channels.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samstudent.imaging.file_names import case_id
from samstudent.imaging.image_paths import channels_in, channels_path
from samstudent.imaging.remarks import Remark


@dataclass(frozen=True)
class SeriesCase:
    """A DICOM volume.

    Attributes:
        path: of the image.
        folder: with its files.
        study: Study Instance UID.
        description: Series Description; without one the name of the folder.
    """

    path: Path
    folder: Path
    study: str
    description: str


def files_as_channels(
    files: Mapping[str, Path], folder: Path, channels: Mapping[str, str]
) -> tuple[dict[str, Path], list[Remark]]:
    """Cases of the files of a folder, and remarks on incomplete ones.

    Files whose names end with the text of a channel (``a_T1.nii.gz``, ``a_T2.nii.gz``) are one case ("a"). Any other
    file must contain all channels (NIfTI with a fourth axis).

    Args:
        files: id -> file.
        folder: the folder.
        channels: name of a channel -> text; the case is ignored.
    """
    members: dict[str, dict[str, Path]] = {}
    cases: dict[str, Path] = {}
    for stem, file in files.items():
        ends = [name for name, text in channels.items() if _ends_with(stem, text)]
        if not ends:
            cases[stem] = channels_in(file, len(channels))
            continue
        name = max(ends, key=lambda name: len(channels[name]))
        members.setdefault(stem[: -len(channels[name].strip())], {})[name] = file
    remarks = []
    for base, found in members.items():
        case, names = case_id(base), [found[name].name for name in channels if name in found]
        if missing := [f"{name} ({base}{channels[name].strip()})" for name in channels if name not in found]:
            remarks.append(Remark(", ".join(names), f"no case: lacks {', '.join(missing)}", is_fault=True))
        elif case in cases:
            remarks.append(Remark(", ".join(names), f"left out: another file has the id {case!r}; rename one", True))
        else:
            _add(cases, remarks, case, [found[name] for name in channels], folder)
    return cases, remarks


def _ends_with(stem: str, text: str) -> bool:
    text = text.strip().casefold()
    return len(stem) > len(text) and stem.casefold().endswith(text)


def series_as_channels(
    series: Sequence[SeriesCase], root: Path, channels: Mapping[str, str]
) -> tuple[dict[str, Path], list[Remark]]:
    """Cases of DICOM series: those of one study whose descriptions contain the texts of the channels.

    Letters and digits are compared only. A description with the texts of several channels is the one of the longest:
    "T2 FLAIR" is FLAIR, not T2.

    Args:
        series: the volumes of a subfolder.
        root: the listed folder.
        channels: name of a channel -> text.
    """
    studies: dict[str, list[SeriesCase]] = {}
    for one in series:
        studies.setdefault(one.study, []).append(one)
    cases: dict[str, Path] = {}
    remarks: list[Remark] = []
    for members in studies.values():
        found: dict[str, list[SeriesCase]] = {}
        for one in members:
            name = _channel_of(one.description, channels)
            if name is None:
                text = f"left out: {one.description!r} contains no name of image.channels ({', '.join(channels)})"
                remarks.append(Remark(_below(one.path, root), text))
            else:
                found.setdefault(name, []).append(one)
        if not found:
            continue
        used = [one for group in found.values() for one in group]
        base = _common([one.folder for one in used])
        where = _below(base, root)
        if several := {name: group for name, group in found.items() if len(group) > 1}:
            name, group = next(iter(several.items()))
            listed = ", ".join(f"{one.description!r} ({_below(one.path, root)})" for one in group)
            text = f"no case: several series for {name}: {listed}; name it more precisely in image.channels"
            remarks.append(Remark(where, text, is_fault=True))
        elif missing := [name for name in channels if name not in found]:
            remarks.append(Remark(where, f"no case: no series for {', '.join(missing)}", is_fault=True))
        else:
            case = case_id("_".join(base.relative_to(root).parts) or "study")
            if case in cases:
                remarks.append(Remark(where, "left out: a second study in this folder; move it to its own", True))
            else:
                _add(cases, remarks, case, [found[name][0].path for name in channels], base)
    return cases, remarks


def _channel_of(description: str, channels: Mapping[str, str]) -> str | None:
    plain = _plain(description)
    fitting = [name for name, text in channels.items() if (wanted := _plain(text)) and wanted in plain]
    return max(fitting, key=lambda name: len(_plain(channels[name])), default=None)


def _plain(text: str) -> str:
    return re.sub(r"[\W_]", "", text).casefold()


def _common(folders: Sequence[Path]) -> Path:
    first = folders[0]
    return next(base for base in (first, *first.parents) if all(folder.is_relative_to(base) for folder in folders))


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _add(cases: dict[str, Path], remarks: list[Remark], case: str, paths: Sequence[Path], folder: Path) -> None:
    try:
        cases[case] = channels_path(paths, folder)
    except ValueError as error:
        remarks.append(Remark(paths[0].name, f"left out: {error}; rename it", is_fault=True))
