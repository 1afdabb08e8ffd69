"""Labelled folder: its cases, their split, and the reader of images and labels."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from samstudent.engine.store import content_key
from samstudent.errors import NotFound, UserError
from samstudent.imaging.annotations import LabelledMasks, read_label
from samstudent.imaging.case import CaseImage, read_image
from samstudent.imaging.file_names import LABELS, row_id
from samstudent.imaging.folder import list_folder, stamp_of
from samstudent.imaging.grid import Grid
from samstudent.imaging.value_lookup import names_in_folder
from samstudent.rounds.case_store import CaseContent
from samstudent.rounds.holdout import read_split
from samstudent.rounds.trained import content_of
from samstudent.task import Task

#: Largest side of 2D images in pixels; larger ones are reduced by means over areas: SAM's input has 1024 pixels or
#: fewer, a student's a few hundred, and 32 masks of a radiograph of 3000 pixels would take a gigabyte.
LARGEST_SIDE = 1024

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Folder:
    """A labelled folder.

    Attributes:
        path: folder with images/, labels/ or labels_overlap/, and split.csv.
        images: case id -> image.
        labels: case id -> label file; a case may have none.
        bits: labels are of labels_overlap/: bit v - 1 of a pixel is structure v.
        split: case id -> train, val or test; only cases that have an image.
        order: train cases in the order of labelling.
        value_names: ``value_names[v - 1]`` is the structure of value v of a label map; None: the values of the task.
    """

    path: Path
    images: Mapping[str, Path]
    labels: Mapping[str, Path]
    bits: bool
    split: Mapping[str, str]
    order: Sequence[str]
    value_names: tuple[str, ...] | None = None

    def labelled(self, split: Split) -> list[str]:
        """Cases of a part that have a label: the train cases in their order, others sorted."""
        ids = self.order if split == "train" else sorted(case for case, part in self.split.items() if part == split)
        return [case for case in ids if case in self.labels]

    def case(self, id: str) -> FolderCase:
        """Source of a case. Its files are read for their digests, once in a process."""
        image, label = self.images[id], self.labels.get(id)
        digest = _digest(image, stamp_of(image))
        if label is None:
            return FolderCase(id, image, None, self.bits, CaseContent(digest))
        content = _digest(label, stamp_of(label))
        names = None if self.bits else names_in_folder(label)
        names = self.value_names if names is None else names
        return FolderCase(
            id, image, label, self.bits, CaseContent(digest, ("bits " if self.bits else "") + content, names)
        )

    def digest(self, ids: Sequence[str]) -> str:
        """Digest of ids and files of some cases, independent of the folder's path and of times of change."""
        return content_key([[id, *asdict(self.case(id).digests).values()] for id in ids])


@dataclass(frozen=True)
class FolderCase:
    """Source of one case (``rounds.case_store.CaseSource``).

    Attributes:
        id: id of the case.
        image, label: files; None: no label.
        bits: the label has a bit for each structure, see ``Folder.bits``.
        digests: digests of the files, and names of the label values.
    """

    id: str
    image: Path
    label: Path | None
    bits: bool
    digests: CaseContent

    def without_label(self) -> FolderCase:
        """The same image without its label, for methods that must not use it."""
        return FolderCase(self.id, self.image, None, self.bits, CaseContent(self.digests.image))

    def content(self) -> CaseContent:
        """Digests of the files, taken when the folder was opened."""
        return self.digests

    def read(self, task: Task) -> tuple[CaseImage, LabelledMasks | None]:
        """Image and label, both reduced to ``LARGEST_SIDE``; None: no label."""
        image = read_image(self.image, task.dimension)
        label = None
        if self.label is not None:
            label = read_label(self.label, task, image.grid, names=self.digests.names, bits=self.bits)
        return reduce_case(image, label)


@cache
def _digest(file: Path, stamp: object) -> str:
    """Digest of an image's or label's content; ``stamp``: of its files, so that a changed one is read again."""
    return content_of(file)


def open_folder(path: Path, overlap: bool | None = None, seed: int = 0, task: Task | None = None) -> Folder:
    """Open a labelled folder.

    Args:
        path: the folder.
        overlap: True: labels_overlap/ if it exists, else labels/; False: the other way round; None: as True.
        seed: seed for the order of train cases without ``train_order``.
        task: its dimension and channels decide which files are a case; None: see ``list_folder``.

    Raises:
        NotFound: no such folder, or one of its parts is missing.
        UserError: split.csv is not valid.
    """
    for needed in (path, path / "images", path / "split.csv"):
        if not needed.exists():
            raise NotFound(
                f"{needed}: not found. An experiment needs images/, labels/ or labels_overlap/, and a split.csv with "
                "the columns id,split,train_order"
            )
    kinds = ["labels", "labels_overlap"] if overlap is False else ["labels_overlap", "labels"]
    kind = next((k for k in kinds if (path / k).is_dir()), None)
    if kind is None:
        raise NotFound(f"{path}: has neither labels/ nor labels_overlap/")
    channels = None if task is None else task.image.sequences
    dimension = None if task is None else task.dimension
    images = list_folder(path / "images", dimension=dimension, channels=channels).files
    labels = list_folder(path / kind, LABELS).files
    rows = read_split(path / "split.csv")
    split = {case: part for row, part in rows.items() if (case := _case_of(row, images)) is not None}
    if not split:
        raise UserError(f"{path / 'split.csv'}: none of its ids is an image in {path / 'images'}")
    order = _train_order(path / "split.csv", images, seed)
    if not any(case in labels for case in order):
        raise UserError(f"{path}: no train case of split.csv has a label in {kind}/")
    return Folder(path, images, labels, kind == "labels_overlap", split, order)


def _case_of(row: str, images: Mapping[str, Path]) -> str | None:
    """Case of a row, which may be a file name ("0001.png" for the case "0001"); None: no such image."""
    if (case := row_id(row)) in images:
        return case
    return next((case for case, path in images.items() if path.name == row), None)


def _train_order(path: Path, images: Mapping[str, Path], seed: int) -> list[str]:
    """Train cases by train_order, then those without one in a random order by the seed."""
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
    """A 2D case with its longest side reduced to ``LARGEST_SIDE``; smaller ones and volumes are unchanged.

    A pixel belongs to a structure that covers at least half of its area; it is unknown if any part of it is.
    """
    shape = image.grid.spatial_shape
    if image.grid.dimension == 3 or max(shape) <= LARGEST_SIDE:
        return image, label
    factor = LARGEST_SIDE / max(shape)
    size = (max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor)))
    grid = Grid.of(size, _affine([s * n / m for s, n, m in zip(image.grid.spacing, shape, size, strict=True)]))
    pixels = adaptive_avg_pool2d(torch.from_numpy(image.pixels), size).numpy()
    small = CaseImage(pixels, grid, image.window, image.path, windows=image.windows)
    if label is None:
        return small, None
    masks = _covered(label.masks, size, 0.5)
    if label.unknown is None:
        return small, LabelledMasks(masks)
    unknown = _covered(label.unknown, size, 1e-6)
    return small, LabelledMasks(masks & ~unknown, unknown)


def _covered(masks: NDArray[Any], size: tuple[int, int], least: float) -> NDArray[Any]:
    """Pixels of a smaller grid that masks cover by at least this share of their area, bool (S, *size)."""
    reduced = np.zeros((len(masks), *size), dtype=bool)
    for target, mask in zip(reduced, masks, strict=True):
        if mask.any():
            covered = adaptive_avg_pool2d(torch.from_numpy(mask.astype(np.float32))[None], size)[0]
            target[...] = covered.numpy() >= least
    return reduced


def _affine(spacing: Sequence[float]) -> NDArray[np.float64]:
    x_first = list(spacing)[::-1] + [1.0] * (3 - len(spacing))
    return np.diag([*x_first, 1.0])
