"""Orientation tag of photographs and scans: a number in the file for the direction of its rows and columns.

TIFF 6.0 and Exif 2.32 (4.6.4 A) define it alike, tag 274, 1 to 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Orientation -> whether to transpose, and which axes (y, x) to reverse afterwards.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def orientation_of(value: object) -> int:
    """Value of the tag; 1 (upright) for undefined numbers."""
    return value if isinstance(value, int) and value in _TURNS else 1


def orientation_note(orientation: int) -> str:
    """Note for users on an image with an orientation of 2 to 8."""
    return f"has orientation {orientation} (EXIF or TIFF tag): it is shown upright, and labels must be upright"


def swaps_axes(orientation: int) -> bool:
    """Whether the upright image has the file's height as width and its width as height."""
    return _TURNS[orientation][0]


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Array (y, x) or (y, x, channels) turned upright; contiguous.

    Args:
        array: as stored.
        orientation: 1 to 8.
    """
    transposed, *reversed_axes = _TURNS[orientation]
    if transposed:
        array = array.swapaxes(0, 1)
    return np.ascontiguousarray(np.flip(array, [axis for axis, turn in enumerate(reversed_axes) if turn]))
