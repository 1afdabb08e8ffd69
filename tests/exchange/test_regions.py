"""Overlapping structures as one label map, and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from samstudent.exchange.regions import RegionValues, masks_of


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 3))
def test_masks_come_back_from_their_values(seed: int, count: int, labels: int) -> None:
    names = [f"s{index}" for index in range(count)]
    rng = np.random.default_rng(seed)
    drawn = [rng.random((count, 5, 4)) < 0.4 for _ in range(labels)]
    values = RegionValues(count)
    maps = [values.encode(masks) for masks in drawn]
    regions = dict(zip(names, values.regions(), strict=True))
    for masks, found in zip(drawn, maps, strict=True):
        assert (masks_of(found, regions, names) == masks).all()
    assert values.overlaps == any((masks.sum(0) > 1).any() for masks in drawn)
    used = {value for some in values.regions() for value in some}
    assert used == set(range(1, values.highest + 1))


def test_a_structure_alone_has_its_value_in_the_task() -> None:
    masks = np.zeros((3, 2, 2), dtype=bool)
    masks[0, 0, 0] = masks[2, 0, 1] = masks[1, 1] = masks[2, 1, 1] = True
    assert RegionValues(3).encode(masks).tolist() == [[1, 3], [2, 4]]
