"""Prepared cases on disk: read once from the folder, then used by every job, one at a time, without decoding again.

A process never holds all cases: training reads each as it is drawn (some milliseconds), so memory does not grow with
the number of cases. Masks are kept as bits, the student's image as float16.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.research.experiment.data import Folder, grid_of
from samstudent.student.data import TrainingCase, prepare_case
from samstudent.task import Task
from samstudent.util.files import atomic_write


@dataclass(frozen=True)
class Store:
    """Cases of one folder for one task and student's grid."""

    path: Path
    task: Task

    def add(self, folder: Folder, case: str) -> None:
        """Prepare a case, unless it is there."""
        target = self._file(case)
        if target.is_file():
            return
        image, found = folder.read(case, self.task)
        known = found is not None
        label = found or LabelledMasks(np.zeros((len(self.task.names), *image.grid.spatial_shape), dtype=bool))
        prepared = prepare_case(case, image, label.masks, self.task, ignore=label.ignore, weights=label.annotated)
        tensors: dict[str, NDArray[Any]] = {
            "pixels": _compact(image.pixels),
            "truth": np.packbits(label.masks),
            "shown": prepared.image.astype(np.float16),
            "taught": np.packbits(prepared.masks),
            "weights": prepared.weights,
        }
        if label.unknown is not None:
            tensors |= {"unknown": np.packbits(label.unknown), "ignore": np.packbits(prepared.ignore)}
        meta = {"spacing": image.grid.spacing, "window": image.window, "known": known}
        atomic_write(target, save(tensors, metadata={"case": json.dumps(meta)}))

    def image(self, case: str) -> CaseImage:
        """The image as ``Folder.read`` gave it; of a file's geometry the spacing is left."""
        with safe_open(self._file(case), framework="np") as file:
            meta = json.loads(file.metadata()["case"])
            pixels = file.get_tensor("pixels").astype(np.float32)
        window = None if meta["window"] is None else (float(meta["window"][0]), float(meta["window"][1]))
        return CaseImage(pixels, grid_of(pixels.shape[1:], meta["spacing"]), window, self._file(case))

    def truth(self, case: str) -> LabelledMasks | None:
        """The label, or None where there is none."""
        with safe_open(self._file(case), framework="np") as file:
            if not json.loads(file.metadata()["case"])["known"]:
                return None
            shape = (len(self.task.names), *file.get_slice("pixels").get_shape()[1:])
            unknown = _unpack(file.get_tensor("unknown"), shape) if "unknown" in file.keys() else None  # noqa: SIM118
            return LabelledMasks(_unpack(file.get_tensor("truth"), shape), unknown)

    def known_case(self, case: str) -> tuple[CaseImage, LabelledMasks]:
        """The image of a labelled case and its label."""
        truth = self.truth(case)
        assert truth is not None
        return self.image(case), truth

    def training_case(self, case: str) -> TrainingCase:
        """The case with its human label."""
        shown = self._shown(case)
        with safe_open(self._file(case), framework="np") as file:
            found = {name: file.get_tensor(name) for name in ("taught", "weights", "ignore") if name in file.keys()}  # noqa: SIM118
        shape = (len(self.task.names), *shown.shape[1:])
        masks = _unpack(found["taught"], shape)
        ignore = _unpack(found["ignore"], shape) if "ignore" in found else np.zeros_like(masks)
        return TrainingCase(case, shown, masks, ignore, found["weights"], True)

    def pseudo_case(self, case: str, folder: Path, soft: bool = False) -> TrainingCase:
        """The case with the pseudo label that ``keep_pseudo`` wrote to the folder: its masks, their weights and what is
        ignored, or its probabilities."""
        shown = self._shown(case)
        with safe_open(folder / f"{case}.safetensors", framework="np") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        shape = (len(self.task.names), *shown.shape[1:])
        masks = _unpack(found["masks"], shape)
        if soft:
            weights = np.ones(len(masks), dtype=np.float32)
            return TrainingCase(case, shown, masks, np.zeros_like(masks), weights, False, found["soft"])
        ignore = _unpack(found["ignore"], shape) if "ignore" in found else np.zeros_like(masks)
        return TrainingCase(case, shown, masks, ignore, found["weights"], False)

    def unlabelled_case(self, case: str) -> TrainingCase:
        """The case with nothing known of it, as ``student.data.without_label``; its masks take no memory."""
        shown = self._shown(case)
        nothing = np.broadcast_to(np.False_, (len(self.task.names), *shown.shape[1:]))
        return TrainingCase(case, shown, nothing, nothing, np.zeros(len(nothing), dtype=np.float32), False)

    def presence(self, cases: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
        """bool (cases, S) each: which structures the labels show, and of which they say anything."""
        found = [self.training_case(case) for case in cases]
        shown = np.array([case.masks.reshape(len(self.task.names), -1).any(1) for case in found])
        return shown, np.array([case.weights > 0 for case in found])

    def _shown(self, case: str) -> NDArray[Any]:
        with safe_open(self._file(case), framework="np") as file:
            return np.asarray(file.get_tensor("shown").astype(np.float32))

    def _file(self, case: str) -> Path:
        return self.path / f"{case}.safetensors"


def keep_pseudo(folder: Path, case: TrainingCase) -> None:
    """Write a pseudo-labelled case's targets; its image is in the store."""
    tensors: dict[str, NDArray[Any]] = {
        "masks": np.packbits(case.masks),
        "weights": np.asarray(case.weights, dtype=np.float32),
    }
    if case.ignore.any():
        tensors["ignore"] = np.packbits(case.ignore)
    if case.soft is not None:
        tensors["soft"] = np.ascontiguousarray(case.soft, dtype=np.float16)
    atomic_write(folder / f"{case.id}.safetensors", save(tensors))


class StoredCases(Sequence[TrainingCase]):
    """Training cases that are read from disk whenever they are asked for."""

    def __init__(
        self, store: Store, human: Sequence[str], pseudo: Mapping[str, Path] | None = None, soft: bool = False
    ) -> None:
        """Args: cases with their human labels; case -> folder of its pseudo label; whether of these the probabilities
        are taught."""
        self.store, self.soft = store, soft
        self.entries: list[tuple[str, Path | None]] = [(case, None) for case in human]
        self.entries += list((pseudo or {}).items())

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> TrainingCase: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainingCase]: ...
    def __getitem__(self, index: int | slice) -> TrainingCase | list[TrainingCase]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        case, folder = self.entries[index]
        return self.store.training_case(case) if folder is None else self.store.pseudo_case(case, folder, self.soft)


def _compact(pixels: NDArray[Any]) -> NDArray[Any]:
    """In as few bytes as lose nothing."""
    low, high = float(pixels.min()), float(pixels.max())
    for kind in (np.uint8, np.uint16):
        if low >= 0 and high <= np.iinfo(kind).max:
            rounded = np.rint(pixels)
            if (rounded == pixels).all():
                return np.asarray(rounded.astype(kind))
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _unpack(bits: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
