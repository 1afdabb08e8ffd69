"""Orientation tags, compared with Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from samstudent.imaging.orientation import orientation_of, swaps_axes, upright

PICTURE = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [0, 3])
def test_orientation_is_applied_as_by_pillow(orientation: int, channels: int) -> None:
    array = np.dstack([PICTURE, PICTURE + 10, PICTURE + 20]) if channels else PICTURE
    image = Image.fromarray(array)
    image.getexif()[274] = orientation
    turned = upright(array, orientation)
    assert (turned == np.asarray(ImageOps.exif_transpose(image))).all()
    assert turned.flags.c_contiguous
    assert swaps_axes(orientation) == (turned.shape[:2] == (3, 2))


@pytest.mark.parametrize("value", [0, 9, -1, "6", None, 6.0])
def test_invalid_orientation_is_ignored(value: object) -> None:
    assert orientation_of(value) == 1
