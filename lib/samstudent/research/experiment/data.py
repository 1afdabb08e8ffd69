"""The folder of an experiment: which cases it has, how they are split, how a label is read, and a task for it."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from samstudent.errors import NotFound, UserError
from samstudent.imaging.annotations import LabelledMasks, read_label
from samstudent.imaging.case import CaseImage, read_image
from samstudent.imaging.folder import LABELS, list_folder, row_id
from samstudent.imaging.grid import Grid
from samstudent.imaging.labels import stored_values
from samstudent.imaging.structure_names import IGNORE, REJECTED
from samstudent.imaging.value_lookup import names_in_folder
from samstudent.imaging.value_names import sidecar_of
from samstudent.rounds.holdout import read_split
from samstudent.task import Task
from samstudent.util.files import sha256_file

#: Longer sides of 2D images are reduced to this many pixels, by means over areas: SAM looks at 1024 pixels or fewer, a
#: student at a few hundred, and 32 masks of a film of 3000 pixels would take a gigabyte.
LARGEST_SIDE = 1024
#: A student's image has this many pixels, unless that makes structures too small.
_PIXELS = 256**2
#: A structure narrower than this many pixels (square root of its area) asks for a larger student: a border drawn on
#: whole pixels is off by a quarter of a pixel, which costs a square w pixels wide about 1 / (2 w) of Dice.
_WIDTH = 20
#: The most that small structures may enlarge the image; time and memory grow as much.
_MOST = 2.25
#: Voxels of the student's sliding window, and of a whole volume, at most.
_WINDOW, _VOLUME = 64 * 96 * 96, 160**3
#: A student with five levels needs sides of two pixels on the lowest.
_SHORTEST = 32
#: Mean difference of red, green and blue, as a share of the range, from which on colour is more than a rendering.
_COLOUR = 0.03

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Folder:
    """A labelled folder.

    Attributes:
        path: has images/, labels/ or labels_overlap/, split.csv.
        images: case id -> image.
        labels: case id -> label file; a case may have none.
        bits: labels are of labels_overlap/: bit v - 1 of a pixel is structure v.
        split: case id -> train, val or test; only cases that have an image.
        order: train cases, in the order in which they are labelled.
        meaning: ``meaning[v - 1]`` is the structure that value v of a label map means; None: the task's own values.
    """

    path: Path
    images: Mapping[str, Path]
    labels: Mapping[str, Path]
    bits: bool
    split: Mapping[str, str]
    order: Sequence[str]
    meaning: tuple[str, ...] | None = None

    def labelled(self, split: Split) -> list[str]:
        """Cases of a part that have a label: the train cases in their order, others sorted."""
        ids = self.order if split == "train" else sorted(case for case, part in self.split.items() if part == split)
        return [case for case in ids if case in self.labels]

    def read(self, case: str, task: Task) -> tuple[CaseImage, LabelledMasks | None]:
        """The image and its label, both reduced to ``LARGEST_SIDE``; None without a label."""
        image = read_image(self.images[case], task.dimension)
        label = None
        if case in self.labels:
            beside = None if self.bits else names_in_folder(self.labels[case])
            names = self.meaning if beside is None else beside
            label = read_label(self.labels[case], task, image.grid, names=names, bits=self.bits)
        return reduce_case(image, label)

    def stamp(self, cases: Sequence[str]) -> str:
        """A digest that changes when these cases or the content of their files do.

        Times of change say less: a folder that was copied or unpacked again is still the same experiment.
        """
        digest = hashlib.sha256()
        for case in cases:
            label = self.labels.get(case)
            named = [beside] if label and (beside := sidecar_of(label)).is_file() else []
            for file in (self.images[case], label, *named):
                content = _content(file, file.stat().st_mtime_ns) if file else None
                digest.update(f"{case}|{file and file.name}|{content}\n".encode())
        return digest.hexdigest()


@cache
def _content(file: Path, changed: int) -> str:
    """Digest of a file; a folder is stamped twice, for its task and for its cases, and its images may be gigabytes."""
    return sha256_file(file)


def open_folder(path: Path, overlap: bool | None = None, seed: int = 0) -> Folder:
    """Look at a folder.

    Args:
        overlap: True: labels_overlap/ where it is there, else labels/; False: the other way round; None: as True.
        seed: of the order of train cases that have no ``train_order``.

    Raises:
        NotFound: no such folder, or one of its parts is missing.
        UserError: split.csv cannot be understood.
    """
    for needed in (path, path / "images", path / "split.csv"):
        if not needed.exists():
            raise NotFound(
                f"{needed}: not there. An experiment needs images/, labels/ or labels_overlap/, and a split.csv with "
                "the columns id,split,train_order"
            )
    kinds = ["labels", "labels_overlap"] if overlap is False else ["labels_overlap", "labels"]
    kind = next((k for k in kinds if (path / k).is_dir()), None)
    if kind is None:
        raise NotFound(f"{path}: has neither labels/ nor labels_overlap/")
    images, labels = list_folder(path / "images").files, list_folder(path / kind, LABELS).files
    rows = read_split(path / "split.csv")
    split = {case: part for row, part in rows.items() if (case := _case_of(row, images)) is not None}
    if not split:
        raise UserError(f"{path / 'split.csv'}: none of its ids is an image in {path / 'images'}")
    order = _train_order(path / "split.csv", images, seed)
    if not any(case in labels for case in order):
        raise UserError(f"{path}: no train case of split.csv has a label in {kind}/")
    return Folder(path, images, labels, kind == "labels_overlap", split, order)


def _case_of(row: str, images: Mapping[str, Path]) -> str | None:
    """A row may name a file ("0001.png") where the case is "0001"."""
    if (case := row_id(row)) in images:
        return case
    return next((case for case, path in images.items() if path.name == row), None)


def _train_order(path: Path, images: Mapping[str, Path], seed: int) -> list[str]:
    """Train cases by train_order; those without one follow, in an order drawn from the seed."""
    numbered, others = [], []
    for row in csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), skipinitialspace=True):
        case = _case_of(row["id"].strip(), images)
        if case is None or row["split"].strip() != "train":
            continue
        number = (row.get("train_order") or "").strip()
        if number:
            numbered.append((int(number), case))
        else:
            others.append(case)
    drawn = np.random.default_rng(seed).permutation(sorted(others))
    return list(dict.fromkeys([case for _, case in sorted(numbered)] + [str(case) for case in drawn]))


def reduce_case(image: CaseImage, label: LabelledMasks | None) -> tuple[CaseImage, LabelledMasks | None]:
    """A 2D case with its longest side reduced to ``LARGEST_SIDE``; smaller ones and volumes come back as they are.

    A pixel belongs to a structure that covers at least half of its area, and is unknown where any part of it is.
    """
    shape = image.grid.spatial_shape
    if image.grid.dimension == 3 or max(shape) <= LARGEST_SIDE:
        return image, label
    factor = LARGEST_SIDE / max(shape)
    size = (max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor)))
    grid = Grid.of(size, _affine([s * n / m for s, n, m in zip(image.grid.spacing, shape, size, strict=True)]))
    pixels = adaptive_avg_pool2d(torch.from_numpy(image.pixels), size).numpy()
    small = CaseImage(pixels, grid, image.window, image.path)
    if label is None:
        return small, None
    masks = _covered(label.masks, size, 0.5)
    if label.unknown is None:
        return small, LabelledMasks(masks)
    unknown = _covered(label.unknown, size, 1e-6)
    return small, LabelledMasks(masks & ~unknown, unknown)


def _covered(masks: NDArray[Any], size: tuple[int, int], least: float) -> NDArray[Any]:
    """Pixels of a smaller grid of which masks cover at least this share, bool (S, *size)."""
    reduced = np.zeros((len(masks), *size), dtype=bool)
    for target, mask in zip(reduced, masks, strict=True):
        if mask.any():
            covered = adaptive_avg_pool2d(torch.from_numpy(mask.astype(np.float32))[None], size)[0]
            target[...] = covered.numpy() >= least
    return reduced


def grid_of(shape: Sequence[int], spacing: Sequence[float]) -> Grid:
    """The grid of a canonical array, for cases that are kept without their file's geometry."""
    return Grid.of(shape, _affine(spacing))


def _affine(spacing: Sequence[float]) -> NDArray[np.float64]:
    x_first = list(spacing)[::-1] + [1.0] * (3 - len(spacing))
    return np.diag([*x_first, 1.0])


def derive_task(folder: Folder, labelled: Sequence[str], size: Sequence[int] | None = None) -> tuple[Task, Folder]:
    """A task for a folder that comes with none, from its images and the first labelled cases.

    - Dimension: the images'. Colour only where red, green and blue really differ.
    - Structures: the values (or bits) found in the labels of all train cases, named by ``imaging.labels.json``,
      ``structures.txt`` or ``dataset.json`` if there is one, else ``structure_<value>``. Those of labels_overlap/ may
      overlap.
    - 2D student: the images' median aspect with about 256 x 256 pixels; up to 2.25 times as many where the smaller
      structures (lower quartile of the medians over ``labelled``) would be narrower than 20 pixels; never more than the
      images have.
    - 3D student: the median voxel size (coarser where a volume would exceed 160^3 voxels) and a window that holds the
      median volume, or as much of it as 64 x 96 x 96 voxels do.

    The rest are the task file's defaults.

    Args:
        labelled: cases whose labels may be looked at for sizes.
        size: takes the place of ``student.size``.

    Returns:
        The task, and the folder with the meaning of its label values.
    """
    values, names = _values(folder)
    given = _given_names(folder.path)
    if names is None:
        if folder.bits:
            # Bits are read by position: one below the highest that no case shows is a structure all the same.
            values = list(range(1, max(values) + 1))
        names = {value: given.get(value, f"structure_{value}") for value in values}
    dimension = read_image(folder.images[labelled[0]]).grid.dimension
    task = Task.model_validate(
        {
            "name": re.sub(r"[^A-Za-z0-9_-]", "_", folder.path.resolve().name).lstrip("_-")[:64] or "experiment",
            "description": f"derived from {folder.path.name}",
            "dimension": dimension,
            "structures": list(dict.fromkeys(names.values())),
            "overlap": folder.bits,
            "student": {"size": (64,) * dimension},
        }
    )
    # A value that no train case shows keeps its place, under a name that the task does not have.
    highest = max(names) if folder.bits else max(250, *names)
    meaning = tuple(names.get(value, f"unused {value}") for value in range(1, highest + 1))
    folder = Folder(folder.path, folder.images, folder.labels, folder.bits, folder.split, folder.order, meaning)
    cases = [folder.read(case, task) for case in labelled[:30]]
    content = task.model_dump(mode="json")
    content["image"]["channels"] = 3 if np.median([_colour(image.pixels) for image, _ in cases]) > _COLOUR else 1
    shapes = np.array([image.grid.spatial_shape for image, _ in cases], dtype=float)
    if task.dimension == 2:
        shares = [label.masks.reshape(len(label.masks), -1).mean(1) for _, label in cases if label is not None]
        content["student"]["size"] = size or student_size(np.median(shapes, 0), np.array(shares))
    else:
        spacing, window = student_window(shapes, np.array([image.grid.spacing for image, _ in cases]))
        content["student"] |= {"spacing": spacing, "size": size or window}
        content["training"]["batch_size"] = 4
    return Task.model_validate(content), folder


def student_size(shape: NDArray[Any], shares: NDArray[Any]) -> tuple[int, ...]:
    """``student.size`` of images of ``shape`` (y, x), see ``derive_task``.

    Args:
        shares: (cases, S) share of the image that each structure covers; 0: absent.
    """
    widths = [np.sqrt(np.median(column[column > 0]) * _PIXELS) for column in shares.T if column.any()]
    needed = (_WIDTH / np.percentile(widths, 25)) ** 2 if widths else 1.0
    pixels = min(_PIXELS * float(np.clip(needed, 1, _MOST)), float(np.prod(shape)))
    factor = (pixels / np.prod(shape)) ** 0.5
    return tuple(max(_SHORTEST, 16 * round(side * factor / 16)) for side in shape)


def student_window(shapes: NDArray[Any], spacings: NDArray[Any]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """``student.spacing`` in mm and ``student.size`` in voxels for volumes (cases, 3), see ``derive_task``."""
    spacing = np.median(spacings, 0)
    volume = np.median(shapes * spacings, 0) / spacing
    coarser = max(1.0, float(np.prod(volume) / _VOLUME)) ** (1 / 3)
    window = [max(_SHORTEST, 16 * int(np.ceil(n / 16))) for n in volume / coarser]
    while np.prod(window) > _WINDOW:
        window[int(np.argmax(window))] -= 16
    return tuple(round(float(s * coarser), 4) for s in spacing), tuple(window)


def _values(folder: Folder) -> tuple[list[int], dict[int, str] | None]:
    """Values above 0 (or numbers of bits) in the train labels, and their names where the files, or those beside them,
    tell them."""
    found: dict[int, str | None] = {}
    for case in folder.labelled("train"):
        values, names = stored_values(folder.labels[case])
        if names:
            drawn = [i for i, name in enumerate(names) if not name.lower().startswith((IGNORE, REJECTED))]
            values, names = values[drawn], [names[i] for i in drawn]
        if folder.bits:
            together = int(np.bitwise_or.reduce(values)) if len(values) else 0
            values = np.array([bit + 1 for bit in range(together.bit_length()) if together >> bit & 1])
        elif names is None and (beside := names_in_folder(folder.labels[case])) is not None:
            values = np.array([value for value in values if value])
            names = [beside[value - 1] for value in values]
        for i, value in enumerate(values):
            if names and names[i] not in found.values():
                # Cases may number the same structures differently; all of them are read by name.
                found[int(value) if int(value) not in found else max(found) + 1] = names[i]
            elif not names and value > 0:
                found.setdefault(int(value), None)
    if not found:
        raise UserError(f"{folder.path}: no label of a train case marks anything")
    if max(found) > 250 and len(found) > 250:
        raise UserError(f"{folder.path}: {len(found)} different label values; labels are maps of up to 250 structures")
    named = {value: name for value, name in sorted(found.items()) if name}
    return sorted(found), named if len(named) == len(found) else None


def _given_names(path: Path) -> dict[int, str]:
    """Names by value from labels.json, dataset.json (nnU-Net's or the Decathlon's form) or structures.txt."""
    for name in ("labels.json", "dataset.json"):
        if (path / name).is_file():
            try:
                content = json.loads((path / name).read_text(encoding="utf-8"))
                return _names_in(content.get("labels", content) if isinstance(content, dict) else content)
            except (ValueError, TypeError, AttributeError) as error:
                raise UserError(
                    f'{path / name}: expected {{"1": "name", ...}}, {{"name": 1, ...}} or ["name", ...]'
                ) from error
    if (path / "structures.txt").is_file():
        return _names_in((path / "structures.txt").read_text(encoding="utf-8").split("\n"))
    return {}


def _names_in(content: Any) -> dict[int, str]:
    if isinstance(content, list):
        pairs = list(enumerate(content, 1))
    else:
        pairs = [(int(k), v) if str(k).lstrip("-").isdigit() else (int(v), k) for k, v in content.items()]
    clean = {value: re.sub(r"[^A-Za-z0-9 _.\-]", "_", str(name).strip()).lstrip(" _.-")[:64] for value, name in pairs}
    return {value: name for value, name in clean.items() if value > 0 and name}


def _colour(pixels: NDArray[Any]) -> float:
    if len(pixels) == 1:
        return 0.0
    return float(np.ptp(pixels, axis=0).mean() / max(float(np.ptp(pixels)), 1e-6))
