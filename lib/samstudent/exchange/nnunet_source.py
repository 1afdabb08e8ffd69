"""Reader of nnU-Net's raw format: ``dataset.json``, ``imagesTr``, ``labelsTr``, ``imagesTs`` (v2, and v1 as Decathlon).

Format: nnU-Net, documentation/dataset_format.md and region_based_training.md. A case has one file for each channel,
``<case>_0000.nii.gz``, ``<case>_0001.nii.gz``, ..., and one label map. A region is a structure of several values, so
structures that overlap are not lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samstudent.errors import NotFound, UserError
from samstudent.exchange.map_labels import MapLabel
from samstudent.exchange.source import Source, SourceCase, unique_cases
from samstudent.imaging.file_names import case_id
from samstudent.imaging.value_names import HIGHEST_VALUE

FORMAT = "nnunet"
DATASET = "dataset.json"
#: Name of the label whose pixels nnU-Net leaves out of training.
IGNORE_LABEL = "ignore"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_DEFAULT_ENDING = ".nii.gz"


@dataclass(frozen=True)
class Description:
    """Content of a ``dataset.json``.

    Attributes:
        path: the file.
        regions: values of each structure.
        ignore: value of pixels that are not annotated; None: no such value.
        channels: names of the channels.
        ending: extension of all images and labels.
        listed: case -> files of its images and label, where the file lists them; else empty.
    """

    path: Path
    regions: Mapping[str, tuple[int, ...]]
    ignore: int | None
    channels: tuple[str, ...]
    ending: str
    listed: Mapping[str, tuple[tuple[Path, ...], Path]]


def is_nnunet(folder: Path) -> bool:
    """Whether a folder is a data set in this format."""
    return (folder / DATASET).is_file() and any((folder / name).is_dir() for name in ("imagesTr", "labelsTr"))


def read_description(path: Path) -> Description:
    """Read a ``dataset.json``.

    Raises:
        NotFound: no such file.
        UserError: not valid; the message names the key.
    """
    if not path.is_file():
        raise NotFound(f"{path}: no such file; a data set of nnU-Net has one beside imagesTr/ and labelsTr/")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(labels := content.get("labels"), dict):
        raise UserError(f'{path}: labels: expected {{"background": 0, "NAME": 1, ...}}')
    regions, ignore = _regions(labels, f"{path}: labels")
    channels = content.get("channel_names", content.get("modality"))
    if not isinstance(channels, dict) or not channels:
        raise UserError(f'{path}: channel_names: expected {{"0": "CT"}}')
    ending = content.get("file_ending", _DEFAULT_ENDING)
    if not isinstance(ending, str) or not ending.startswith("."):
        raise UserError(f"{path}: file_ending: expected an extension like .nii.gz, not {ending!r}")
    names = tuple(str(channels[key]) for key in sorted(channels, key=_number))
    return Description(path, regions, ignore, names, ending, _listed(content.get("dataset"), path))


def read_nnunet(folder: Path, channel: str | None = None) -> Source:
    """Read a data set; no image or label is decoded.

    Cases of ``labelsTs`` are test cases; those of ``imagesTs`` without a label are unlabelled.

    Args:
        folder: the data set, e.g. ``nnUNet_raw/Dataset004_Hippocampus``.
        channel: name or number (from 0) of the only channel to take; None: all.

    Raises:
        NotFound, UserError: as ``read_description``; no such channel; no case.
    """
    description = read_description(folder / DATASET)
    chosen = None if channel is None else _channel(channel, description)
    labels = {name: _files(folder / name, description.ending) for name in ("labelsTr", "labelsTs")}
    images = {name: _images(folder / name, description) for name in ("imagesTr", "imagesTs")}
    if description.listed:
        images["imagesTr"] = {case: files for case, (files, _) in description.listed.items()}
        labels["labelsTr"] = {case: label for case, (_, label) in description.listed.items()}
    cases = []
    for part in ("Tr", "Ts"):
        for case in sorted({*images[f"images{part}"], *labels[f"labels{part}"]}):
            files, label = images[f"images{part}"].get(case, ()), labels[f"labels{part}"].get(case)
            cases.append(_case(case, files, label, description, chosen, is_test=part == "Ts" and label is not None))
    if not cases:
        raise UserError(f"{folder}: no case ending in {description.ending} in imagesTr/ or labelsTr/")
    has_regions = any(len(values) > 1 for values in description.regions.values())
    return Source(FORMAT, (folder,), unique_cases(cases), has_regions, tuple(description.regions))


def _case(
    name: str, files: tuple[Path, ...], label: Path | None, description: Description, chosen: int | None, is_test: bool
) -> SourceCase:
    problem = None
    expected = len(description.channels)
    if len(files) not in (0, 1, expected):
        problem = f"has {len(files)} files of {expected} channels ({', '.join(description.channels)})"
    elif chosen is not None and len(files) > 1:
        files = (files[chosen],)
    found = None
    if label is not None:
        found = MapLabel(label, description.regions, description.ignore, f"labels of {description.path}")
    return SourceCase(case_id(name), files, found, is_test, f"{name}{description.ending}", problem)


def _regions(labels: Mapping[str, Any], place: str) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Values of each structure, and the value to ignore. In nnU-Net v1 the keys are values."""
    is_v1 = all(isinstance(value, str) for value in labels.values())
    regions: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items():
        name, found = (value, [key]) if is_v1 else (key, value if isinstance(value, list) else [value])
        numbers = [int(each) for each in found if str(each).isdecimal() and int(each) <= HIGHEST_VALUE]
        if len(numbers) < len(found):
            raise UserError(f'{place}: expected {{"background": 0, "NAME": 1, ...}}, not {key!r}: {value!r}')
        if any(numbers):
            regions[name.strip()] = (*regions.get(name.strip(), ()), *numbers)
    ignore = regions.pop(IGNORE_LABEL, None)
    if ignore is not None and len(ignore) > 1:
        raise UserError(f"{place}: {IGNORE_LABEL}: expected one value, not {list(ignore)}")
    if not regions:
        raise UserError(f"{place}: names no structure beside the background")
    return regions, ignore[0] if ignore else None


def _images(folder: Path, description: Description) -> dict[str, tuple[Path, ...]]:
    """Files of each case's channels, in their order."""
    found: dict[str, dict[int, Path]] = {}
    for stem, path in _files(folder, description.ending).items():
        parts = _CHANNEL.fullmatch(stem)
        case, number = (parts["case"], int(parts["channel"])) if parts else (stem, 0)
        found.setdefault(case, {})[number] = path
    return {case: tuple(files[number] for number in sorted(files)) for case, files in found.items()}


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Files with this ending by the name without it; files of file managers (hidden) are left out."""
    if not folder.is_dir():
        return {}
    listed = (path for path in sorted(folder.iterdir()) if path.name.endswith(ending) and not path.name.startswith("."))
    return {path.name[: -len(ending)]: path for path in listed}


def _listed(content: Any, path: Path) -> dict[str, tuple[tuple[Path, ...], Path]]:
    """Files of the cases that ``dataset.json`` lists by itself, in place of the folders."""
    if content is None:
        return {}
    try:
        return {
            str(case): (tuple(_below(path, file) for file in entry["images"]), _below(path, entry["label"]))
            for case, entry in content.items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f'{path}: dataset: expected {{"CASE": {{"images": [...], "label": ...}}}}') from error


def _below(dataset: Path, file: str) -> Path:
    return dataset.parent / file


def _channel(channel: str, description: Description) -> int:
    if channel in description.channels:
        return description.channels.index(channel)
    if channel.isdecimal() and int(channel) < len(description.channels):
        return int(channel)
    raise UserError(f"--channel {channel}: expected one of {_numbered(description.channels)}")


def _numbered(channels: Iterable[str]) -> str:
    return ", ".join(f"{number} ({name})" for number, name in enumerate(channels))


def _number(key: Any) -> int:
    return int(key) if str(key).isdecimal() else 0
