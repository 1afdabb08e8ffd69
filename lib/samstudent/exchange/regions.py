"""Structures that overlap as one label map: a value for each combination, as in nnU-Net's regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError

#: Largest value of a label map that is written.
HIGHEST = 65535


class RegionValues:
    """Values of the combinations of structures in the labels of a data set.

    Value i is structure i alone, as in the task; combinations of several structures have the values above, in the order
    of their first occurrence. Nothing is lost: the values of a structure are those of all combinations that contain it.

    Args:
        count: number of structures.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._values: dict[tuple[int, ...], int] = {}

    @property
    def overlaps(self) -> bool:
        """Whether structures have shared a pixel so far."""
        return bool(self._values)

    @property
    def highest(self) -> int:
        """Highest value in use."""
        return self.count + len(self._values)

    def combinations(self) -> list[tuple[int, ...]]:
        """Indices (base 0) of the structures of each combination, in the order of their values."""
        return list(self._values)

    def encode(self, masks: NDArray[np.bool_]) -> NDArray[np.uint16]:
        """Label map uint16 (*spatial) of masks bool (S, *spatial).

        Raises:
            UserError: more combinations than a label map has values.
        """
        values = np.zeros(masks.shape[1:], dtype=np.uint16)
        for index, mask in enumerate(masks, 1):
            values[mask] = index
        shared = masks.sum(axis=0) > 1
        columns, inverse = np.unique(masks[:, shared], axis=1, return_inverse=True)
        numbers = [self._value(tuple(np.flatnonzero(column).tolist())) for column in columns.T]
        if numbers:
            values[shared] = np.array(numbers, dtype=np.uint16)[inverse.ravel()]
        return values

    def regions(self) -> list[list[int]]:
        """Values of each structure, ascending."""
        return [
            [index + 1, *(value for members, value in self._values.items() if index in members)]
            for index in range(self.count)
        ]

    def _value(self, members: tuple[int, ...]) -> int:
        value = self._values.setdefault(members, self.highest + 1)
        if value >= HIGHEST:
            raise UserError(f"more than {HIGHEST} combinations of structures; a label map has no more values")
        return value


def masks_of(values: NDArray[Any], regions: Mapping[str, Sequence[int]], names: Sequence[str]) -> NDArray[np.bool_]:
    """Masks of a label map with regions.

    Args:
        values: (*spatial).
        regions: values of each structure by name.
        names: structures of the result; those without values are empty.

    Returns:
        bool (S, *spatial).
    """
    masks = np.zeros((len(names), *values.shape), dtype=bool)
    for mask, name in zip(masks, names, strict=True):
        for value in regions.get(name, ()):
            mask |= values == value
    return masks
