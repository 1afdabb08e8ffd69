"""Slices and masks with equal pixels, in radiological orientation."""

from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import UserError
from samstudent.imaging.case import CaseImage
from samstudent.imaging.grid import Grid
from samstudent.server.review_page.pictures import Cache, Cropped, Shown, Slice, picture, runs
from samstudent.task import ImageSection

WINDOW = ImageSection(intensity="window", low=0, high=255)


def shown(pixels: NDArray[np.float32], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Shown:
    """Of pixels (y, x) or (z, y, x); spacing: x, y, z."""
    return Shown.of(CaseImage(pixels[None], Grid.of(pixels.shape, np.diag([*spacing, 1.0]))), WINDOW)


def drawn(case: Shown, where: Slice) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture(case, where))))


def decoded(lengths: list[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    values = np.concatenate([np.full(n, i % 2, dtype=bool) for i, n in enumerate(lengths)])
    return values.reshape(size)


def test_radiograph_is_shown_unchanged() -> None:
    film = np.arange(200, dtype=np.float32).reshape(10, 20)
    assert np.array_equal(drawn(shown(film), Slice(None, None, 512)), film.astype(np.uint8))


def test_large_radiograph_is_reduced_to_the_requested_size() -> None:
    film = np.zeros((900, 600), np.float32)
    film[300:600, 200:400] = 255
    small = drawn(shown(film), Slice(None, None, 90))
    assert small.shape == (90, 60)
    assert small[45, 30] == 255 and small[10, 10] == 0


def test_volume_slices_have_radiological_orientation() -> None:
    volume = np.zeros((4, 5, 6), np.float32)
    volume[3, 4, 5] = 255  # head, front, right: canonical axes rise to these
    case = shown(volume)
    for axis, index in (("z", 3), ("y", 4), ("x", 5)):
        slice_ = drawn(case, Slice(axis, index, 512))
        # Across x the front is on the left.
        assert slice_[0, 0] == 255 and slice_.sum() == 255, axis
        assert drawn(case, Slice(axis, 0, 512)).sum() == 0


def test_thick_slices_are_stretched_to_square_pixels() -> None:
    volume = np.zeros((4, 5, 6), np.float32)
    assert drawn(shown(volume, (1, 1, 3)), Slice("x", 0, 512)).shape == (12, 5)
    assert drawn(shown(volume, (1, 1, 3)), Slice("z", 0, 512)).shape == (5, 6)


def test_masks_are_aligned_with_their_picture() -> None:
    rng = np.random.default_rng(0)
    volume = (rng.random((7, 9, 11)) > 0.6).astype(np.float32) * 255
    volume[:2] = 0
    mask, case = Cropped.of(volume > 0), shown(volume)
    assert mask is not None and mask.content.shape[0] == 5
    for axis, index in (("z", 4), ("y", 8), ("x", 0)):
        where = Slice(axis, index, 512)
        lengths = runs(mask, where, case.shape, case.spacing)
        assert np.array_equal(decoded(lengths, where.extent(case.shape, case.spacing)), drawn(case, where) > 0)
    assert runs(mask, Slice("z", 0, 512), case.shape, case.spacing) == []


def test_a_reduced_mask_stays_in_place() -> None:
    film = np.zeros((400, 200), bool)
    film[100:300, 0:100] = True
    mask = Cropped.of(film)
    assert mask is not None
    small = decoded(runs(mask, Slice(None, None, 40), film.shape, (1.0, 1.0)), (40, 20))
    assert small[10:30, :10].all() and small.sum() == 200
    assert Cropped.of(film & False) is None


def test_a_mask_from_the_first_to_the_last_pixel() -> None:
    mask = Cropped.of(np.ones((4, 5), bool))
    assert mask is not None and runs(mask, Slice(None, None, 64), (4, 5), (1.0, 1.0)) == [0, 20]


def test_fullest_slice_is_found_for_each_axis() -> None:
    volume = np.zeros((6, 6, 6), bool)
    volume[1:4, 2, 2:5] = True
    volume[3, 2:5, 2:5] = True
    mask = Cropped.of(volume)
    assert mask is not None and mask.fullest() == {"z": 3, "y": 2, "x": 3}


@pytest.mark.parametrize(
    ("shape", "axis", "index", "size", "text"),
    [
        ((5, 6), "z", 0, 512, "single image"),
        ((4, 5, 6), "w", 0, 512, "one of z, y, x"),
        ((4, 5, 6), "z", 4, 512, "from 0 to 3 along z"),
        ((4, 5, 6), "x", -1, 512, "from 0 to 5 along x"),
        ((4, 5, 6), "z", None, 512, "from 0 to 3 along z"),
        ((5, 6), None, None, 5, "size"),
        ((5, 6), None, None, 100_000, "size"),
    ],
)
def test_invalid_planes_are_refused(
    shape: tuple[int, ...], axis: str | None, index: int | None, size: int, text: str
) -> None:
    with pytest.raises(UserError, match=text):
        Slice.checked(shape, axis, index, size)


def test_concurrent_requests_read_an_image_once() -> None:
    cache, reads = Cache(100), []

    def read() -> tuple[str, int]:
        reads.append(1)
        time.sleep(0.05)
        return "value", 10

    threads = [threading.Thread(target=lambda: cache.get("key", read)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1 and cache.get("key", read) == "value"


def test_cache_keeps_recently_used_items() -> None:
    cache = Cache(100)
    for key in ("a", "b"):
        cache.get(key, lambda: (1, 40))
    cache.get("a", lambda: (2, 40))
    cache.get("c", lambda: (1, 40))
    assert cache.get("a", lambda: (2, 40)) == 1
    assert cache.get("b", lambda: (2, 40)) == 2
    with pytest.raises(ZeroDivisionError):
        cache.get("d", lambda: (1 // 0, 1))
    assert cache.get("d", lambda: (3, 1)) == 3
