"""Grid of a volume with a tilted gantry as clients have it: with perpendicular axes (``imaging.perpendicular``)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.dicom import geometry_of
from samstudent.imaging.formats import Stored
from samstudent.imaging.grid import Grid
from samstudent.imaging.perpendicular import is_tilted
from samstudent.imaging.resampling import to_grid


class TiltedVolumes:
    """Whether DICOM volumes are tilted; the headers of a volume are read once."""

    def __init__(self) -> None:
        self._known: dict[Hashable, bool] = {}

    def has(self, state: Hashable, volume: Callable[[], Path]) -> bool:
        """Whether a volume is tilted.

        Args:
            state: identifies the volume and its content.
            volume: returns its path; called if this state is new.

        Raises:
            UserError: the volume cannot be read.
        """
        if state not in self._known:
            self._known[state] = is_tilted(*geometry_of(volume()))
        return self._known[state]


def moved(masks: NDArray[np.bool_], grid: Grid, shown: Grid, label: Path) -> NDArray[np.bool_]:
    """Masks on the grid that clients have.

    Args:
        masks: bool (S, *grid.spatial_shape), canonical.
        grid: grid of the case.
        shown: grid of the clients' copy.
        label: file of the masks, for errors.

    Returns:
        bool (S, *shown.spatial_shape), canonical.
    """
    stored = Stored(grid.to_file(masks)[0], grid.shape, grid.affine)
    return to_grid(grid.to_file(masks), stored, shown, label).astype(bool)
