"""Labels in files of their own: label maps whose values have names in a table, and files with named segments."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.exchange.regions import masks_of
from samstudent.exchange.source import SourceLabel, labelled_masks
from samstudent.imaging.annotations import LabelledMasks, read_label
from samstudent.imaging.grid import Grid
from samstudent.imaging.labels import has_segments, read_values, stored_values
from samstudent.imaging.structure_names import find_structure
from samstudent.imaging.value_lookup import names_beside
from samstudent.task import Task


@dataclass(frozen=True)
class MapLabel:
    """Label map of one case.

    Attributes:
        path: the label map.
        regions: values of each structure by its name; a value may belong to several structures.
        ignore: value of pixels whose structure is not known; None: no such value.
        table: origin of the names, for messages.
    """

    path: Path
    regions: Mapping[str, Sequence[int]]
    ignore: int | None = None
    table: str = "the table of values"

    def names(self) -> dict[str, int]:
        """Names of the table: an absent structure is named, too."""
        return dict.fromkeys(self.regions, 1)

    def read(self, task: Task, grid: Grid) -> LabelledMasks:
        """Masks of the task's structures; a pixel to ignore is unknown for all structures.

        Raises:
            UserError: cannot be read, or a value is not in the table.
        """
        values = read_values(self.path, grid)
        known = {value for some in self.regions.values() for value in some} | {0, self.ignore}
        _require_values(values, known, self.path, self.table)
        masks = masks_of(values, _by_structure(self.regions, task), task.names)
        unknown = None
        if self.ignore is not None and (ignored := values == self.ignore).any():
            unknown = np.broadcast_to(ignored, masks.shape)
        return labelled_masks(masks, self.regions, task, unknown)


@dataclass(frozen=True)
class BitLabel:
    """Label map of one case with a bit for each structure: bit v - 1 of a pixel is set where structure v is.

    Attributes:
        path: the label map.
        bits: value v -> name.
        table: origin of the names, for messages.
    """

    path: Path
    bits: Mapping[int, str]
    table: str = "the table of values"

    def names(self) -> dict[str, int]:
        return dict.fromkeys(self.bits.values(), 1)

    def read(self, task: Task, grid: Grid) -> LabelledMasks:
        """Masks of the task's structures. Raises UserError: cannot be read, or a bit is not in the table."""
        values = read_values(self.path, grid)
        if (values < 0).any():
            raise UserError(f"{self.path}: value {values.min()} is negative; expected bits of structures")
        values = values.astype(np.uint64)
        used = int(np.bitwise_or.reduce(values, axis=None))
        if unnamed := [bit + 1 for bit in range(used.bit_length()) if used >> bit & 1 and bit + 1 not in self.bits]:
            raise UserError(f"{self.path}: structure {unnamed[0]} (bit {unnamed[0] - 1}) is not in {self.table}")
        masks = np.zeros((len(task.names), *values.shape), dtype=bool)
        for value, name in self.bits.items():
            if (found := find_structure(name, task.names)) is not None:
                masks[task.structures[found] - 1] |= (values >> np.uint64(value - 1) & np.uint64(1)).astype(bool)
        return labelled_masks(masks, self.bits.values(), task)


@dataclass(frozen=True)
class NamedLabel:
    """Label file of one case whose segments have names (.seg.nrrd, DICOM SEG), or whose values have them beside it.

    Attributes:
        path: the label file.
    """

    path: Path

    @cached_property
    def _value_names(self) -> tuple[str, ...] | None:
        return None if has_segments(self.path) else names_beside(self.path)

    def names(self) -> dict[str, int]:
        """Names in the file; none for a DICOM SEG, whose segments may be identified by codes of the task alone."""
        if self._value_names is not None:
            return dict.fromkeys(filter(None, self._value_names), 1)
        return {} if self.path.suffix.lower() == ".dcm" else dict.fromkeys(stored_values(self.path)[1] or (), 1)

    def read(self, task: Task, grid: Grid) -> LabelledMasks:
        """Masks of the task's structures, read as those of a study. Raises UserError, OSError: cannot be read."""
        return read_label(self.path, task, grid, names=self._value_names)


def label_of(path: Path, table: Mapping[int, str] | None, table_name: str, *, bits: bool) -> SourceLabel:
    """Label of a file: by the names in it or beside it, else by a table.

    Args:
        path: the label file.
        table: value -> name; None: there is no table.
        table_name: file of the table, for messages.
        bits: the values are bits of the structures.

    Raises:
        UserError: cannot be read, or there are no names of its values.
        OSError: cannot be read.
    """
    if has_segments(path) or names_beside(path) is not None:
        return NamedLabel(path)
    if table is None:
        raise UserError(
            f"{path}: its values have no names; give a table by --values, e.g. a CSV with the columns value,structure"
        )
    if bits:
        return BitLabel(path, table, table_name)
    return MapLabel(path, regions_of(table), None, table_name)


def regions_of(table: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    """Values of each name of a table; several values may have one name."""
    regions: dict[str, tuple[int, ...]] = {}
    for value, name in sorted(table.items()):
        regions[name] = (*regions.get(name, ()), value)
    return regions


def _by_structure(regions: Mapping[str, Sequence[int]], task: Task) -> dict[str, list[int]]:
    """Values of the task's structures; several names may mean one structure."""
    found: dict[str, list[int]] = {}
    for name, values in regions.items():
        if (structure := find_structure(name, task.names)) is not None:
            found.setdefault(structure, []).extend(values)
    return found


def _require_values(values: NDArray[Any], known: Collection[int | None], path: Path, table: str) -> None:
    found = np.unique(values)
    if len(wrong := [value for value in found.tolist() if int(value) not in known]):
        raise UserError(f"{path}: value {int(wrong[0])} is not in {table}")
