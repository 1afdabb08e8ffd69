"""Where two answers on one case differ: nothing that is worth teaching."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation


def disputed(refined: NDArray[Any], other: NDArray[Any], width: int = 0) -> NDArray[Any]:
    """Regions to ignore in training: where two masks of a structure differ, each pixel widened by ``width``.

    Args:
        refined, other: bool (S, *spatial), e.g. SAM's masks and the coarse masks that it was prompted with.
        width: pixels along each axis by which the region is widened (diagonal neighbours count as one).

    Returns:
        bool (S, *spatial).
    """
    differ = np.asarray(refined ^ other, dtype=bool)
    if width == 0:
        return differ
    footprint = np.ones((1, *(2 * width + 1,) * (differ.ndim - 1)), dtype=bool)
    return np.asarray(binary_dilation(differ, footprint))
