from __future__ import annotations

import numpy as np

from samstudent.pseudolabels.disputed import disputed


def squares() -> tuple[np.ndarray, np.ndarray]:
    refined, coarse = np.zeros((2, 12, 12), dtype=bool), np.zeros((2, 12, 12), dtype=bool)
    refined[0, 3:8, 3:8] = True
    coarse[0, 3:8, 3:9] = True
    refined[1, 2:4, 2:4] = coarse[1, 2:4, 2:4] = True
    return refined, coarse


def test_where_the_masks_differ_and_nowhere_else() -> None:
    found = disputed(*squares())
    expected = np.zeros((2, 12, 12), dtype=bool)
    expected[0, 3:8, 8] = True
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(disputed(*squares()[::-1]), expected)


def test_widened_within_the_structure_only() -> None:
    found = disputed(*squares(), width=1)
    expected = np.zeros((2, 12, 12), dtype=bool)
    expected[0, 2:9, 7:10] = True
    np.testing.assert_array_equal(found, expected)


def test_volumes() -> None:
    refined = np.zeros((1, 5, 5, 5), dtype=bool)
    refined[0, 2, 2, 2] = True
    assert disputed(refined, np.zeros_like(refined), width=1).sum() == 27
