"""Store of prepared cases on disk: each image and label is decoded once.

Training reads each case when it is drawn (a few milliseconds), so that memory does not grow with the number of cases.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from samstudent import __version__
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.imaging.grid_json import grid_from_json, grid_to_json
from samstudent.student.training_case import CaseLabel, TrainingCase, prepare_case
from samstudent.task import Task
from samstudent.util.files import atomic_write

#: Keys of the task that a prepared case depends on.
_TASK_KEYS = {"dimension", "structures", "overlap", "unmentioned", "image", "student"}


@dataclass(frozen=True)
class CaseContent:
    """Digests that identify the content of a case.

    Attributes:
        image: SHA-256, hex, of the content of the image file (``rounds.trained.content_of``).
        label: SHA-256, hex, of the human label's file; None: there is no human label.
        names: ``names[v - 1]`` is the structure of value v of the label; None: the task's values, or the file names
            them.
        checked: False: the label is a pseudo label that was accepted for its estimated Dice, and no person has seen it.
    """

    image: str
    label: str | None = None
    names: tuple[str, ...] | None = None
    checked: bool = True


class CaseSource(Protocol):
    """Source of a case: files, a datastore, an experiment's folder. It is pickled for worker processes."""

    @property
    def id(self) -> str: ...

    def content(self) -> CaseContent:
        """Digests of the files, which are fetched first where they are remote.

        Raises:
            UserError, OSError: the files are not available.
        """

    def read(self, task: Task) -> tuple[CaseImage, LabelledMasks | None]:
        """Decode the image and, where there is one, the human label.

        Raises:
            UserError, OSError: one of them cannot be read, or the label annotates none of the task's structures.
        """


@dataclass(frozen=True)
class PreparedCase:
    """A case in a ``CaseStore``.

    Attributes:
        id: of the case.
        content: digests of image and label.
        key: name of its file in the store, without ending.
    """

    id: str
    content: CaseContent
    key: str


@dataclass(frozen=True)
class CaseStore:
    """Prepared cases of one task, a safetensors file each, named by a digest of everything that its content depends on.

    Attributes:
        folder: created when missing.
        task: its keys in ``_TASK_KEYS`` are part of the digest.
    """

    folder: Path
    task: Task

    def key_of(self, content: CaseContent) -> str:
        """SHA-256, hex, of the case's digests and the relevant keys of the task."""
        task = self.task.model_dump(mode="json", include=_TASK_KEYS)
        parts = [__version__, content.image, content.label, content.names, task]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def add(self, source: CaseSource) -> PreparedCase:
        """Decode, prepare and store a case, unless it is stored already.

        Raises: as ``CaseSource.content`` and ``read``.
        """
        content = source.content()
        case = PreparedCase(source.id, content, self.key_of(content))
        path = self._path(case)
        if path.is_file():
            with suppress(OSError):
                os.utime(path)
        else:
            image, label = source.read(self.task)
            atomic_write(path, _packed(image, label, self.task))
        return case

    def image(self, case: PreparedCase) -> CaseImage:
        """The decoded image, without its ``notes``."""
        with safe_open(self._path(case), framework="np") as file:
            meta = _meta(file)
            pixels = file.get_tensor("pixels").astype(np.float32)
            shape = pixels.shape[1:]
            padding = _unpack(file.get_tensor("padding"), shape) if "padding" in file.keys() else None  # noqa: SIM118
        window = None if meta["window"] is None else (float(meta["window"][0]), float(meta["window"][1]))
        path = None if meta["path"] is None else Path(meta["path"])
        windows = tuple(None if ends is None else (float(ends[0]), float(ends[1])) for ends in meta["windows"])
        return CaseImage(pixels, grid_from_json(meta["grid"]), window, path, padding, windows=windows)

    def truth(self, case: PreparedCase) -> LabelledMasks | None:
        """The human label on the image's canonical grid; None where there is none."""
        with safe_open(self._path(case), framework="np") as file:
            if "truth" not in file.keys():  # noqa: SIM118 (no mapping)
                return None
            shape = (len(self.task.names), *file.get_slice("pixels").get_shape()[1:])
            unknown = _unpack(file.get_tensor("unknown"), shape) if "unknown" in file.keys() else None  # noqa: SIM118
            return LabelledMasks(_unpack(file.get_tensor("truth"), shape), unknown)

    def labelled(self, case: PreparedCase) -> tuple[CaseImage, LabelledMasks]:
        """Image and human label of a labelled case.

        Raises:
            ValueError: it has no label.
        """
        truth = self.truth(case)
        if truth is None:
            raise ValueError(f"case {case.id} has no human label")
        return self.image(case), truth

    def training_case(self, case: PreparedCase) -> TrainingCase:
        """The case on the student's grid with its human label; weights are 0 without one."""
        with safe_open(self._path(case), framework="np") as file:
            found = {name: file.get_tensor(name) for name in _STUDENT_TENSORS if name in file.keys()}  # noqa: SIM118
        pixels = found["shown"].astype(np.float32)
        shape = (len(self.task.names), *pixels.shape[1:])
        empty = np.broadcast_to(np.False_, shape)
        if "taught" not in found:
            return TrainingCase(case.id, pixels, empty, empty, np.zeros(len(empty), dtype=np.float32), False)
        ignore = _unpack(found["ignore"], shape) if "ignore" in found else empty
        return TrainingCase(case.id, pixels, _unpack(found["taught"], shape), ignore, found["weights"], True)

    def presence(self, cases: Sequence[PreparedCase]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Structures that the human labels show, and structures that they annotate: bool (cases, S) each."""
        shown = np.zeros((len(cases), len(self.task.names)), dtype=bool)
        annotated = np.zeros_like(shown)
        for row, case in enumerate(cases):
            found = self.training_case(case)
            shown[row] = found.masks.reshape(len(found.masks), -1).any(1)
            annotated[row] = found.weights > 0
        return shown, annotated

    def prune(self, before: float) -> None:
        """Remove the cases that were last added before a time, of earlier rounds, tasks or versions.

        Args:
            before: seconds since 1970.
        """
        for path in self.folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()

    def keys(self) -> set[str]:
        """Keys of all stored cases."""
        return {path.stem for path in self.folder.glob("*.safetensors")}

    def _path(self, case: PreparedCase) -> Path:
        return self.folder / f"{case.key}.safetensors"


#: Tensors of ``CaseStore.training_case``.
_STUDENT_TENSORS = ("shown", "taught", "weights", "ignore")


def _packed(image: CaseImage, label: LabelledMasks | None, task: Task) -> bytes:
    """File content of a case: pixels and, as bits, masks on the image's grid; the student's input as float16."""
    masks = np.zeros((len(task.names), *image.grid.spatial_shape), dtype=bool) if label is None else label.masks
    ignore, weights = (None, None) if label is None else (label.ignore, label.annotated)
    prepared = prepare_case("", image, CaseLabel(masks, ignore, weights), task)
    tensors: dict[str, NDArray[Any]] = {"pixels": compact(image.pixels), "shown": prepared.image.astype(np.float16)}
    if image.padding is not None:
        tensors["padding"] = np.packbits(image.padding)
    if label is not None:
        tensors |= {"truth": np.packbits(label.masks), "taught": np.packbits(prepared.masks)}
        tensors["weights"] = prepared.weights
        if label.unknown is not None:
            tensors |= {"unknown": np.packbits(label.unknown), "ignore": np.packbits(prepared.ignore)}
    path = None if image.path is None else str(image.path)
    meta = {"grid": grid_to_json(image.grid), "window": image.window, "windows": image.windows, "path": path}
    return save(tensors, metadata={"case": json.dumps(meta)})


def compact(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels in the smallest of uint8, uint16, int16 and float32 without loss."""
    low, high = float(pixels.min()), float(pixels.max())
    for kind in (np.uint8, np.uint16, np.int16):
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            rounded = np.rint(pixels)
            if (rounded == pixels).all():
                return np.asarray(rounded.astype(kind))
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _meta(file: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.metadata()["case"])
    return content


def _unpack(bits: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
