"""Quality features of synthetic shapes with known values."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.pseudolabels.quality_features import QualityFeatures, ShapeStatistics, quality_features_of
from samstudent.sam.results import Refinement, StructureResult
from support.drawn import shapes


def square(top: int, left: int, side: int = 10, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def refinement(masks: np.ndarray, coarse: np.ndarray | None = None, **result: Any) -> Refinement:
    coarse = masks if coarse is None else coarse
    numbers = {"predicted_iou": 0.8, "agreement": 0.7} | result
    results = [StructureResult("abc"[i], True, [], refined=True, **numbers) for i in range(len(masks))]
    empty = StructureResult("absent", False, [], None, None)
    results = [r if c.any() else empty for r, c in zip(results, coarse, strict=True)]
    return Refinement(masks=masks, coarse=coarse, structures=results, soft=masks.astype(np.float16))


def features_of(
    refined: Refinement, probabilities: np.ndarray, members: np.ndarray | None = None
) -> list[QualityFeatures | None]:
    """Against statistics of two labels that show the refined masks."""
    statistics = ShapeStatistics.of([refined.coarse] * 2)
    return quality_features_of(refined, probabilities, statistics, probabilities[None] if members is None else members)


def test_features_of_sam_are_copied_or_unknown() -> None:
    mask = square(5, 5)[None]
    probability = np.where(mask, 0.9, 0.1).astype(np.float32)
    (known,) = features_of(refinement(mask), probability)
    assert known is not None
    assert (known.predicted_iou, known.agreement) == (0.8, 0.7) and math.isnan(known.member_agreement)
    (unknown,) = features_of(refinement(mask, predicted_iou=None, agreement=None), probability)
    assert unknown is not None and math.isnan(unknown.predicted_iou) and math.isnan(unknown.agreement)


def test_an_absent_structure_has_no_features() -> None:
    masks = np.stack([square(5, 5), np.zeros((64, 64), bool)])
    present, absent = features_of(refinement(masks), masks.astype(np.float32))
    assert present is not None and absent is None


def test_expected_dice_is_computed_from_probabilities() -> None:
    mask = square(20, 20)[None]
    (sure,) = features_of(refinement(mask), mask.astype(np.float32))
    (doubtful,) = features_of(refinement(mask), np.where(mask, 0.5, 0.0).astype(np.float32))
    (twice,) = features_of(refinement(mask), (mask | square(40, 40)[None]).astype(np.float32))
    assert sure is not None and doubtful is not None and twice is not None
    assert sure.expected_dice == 1 and doubtful.expected_dice == pytest.approx(2 * 50 / 150)
    assert twice.expected_dice == pytest.approx(2 / 3)


def test_agreement_of_students_and_embedding_heads() -> None:
    mask, half = square(5, 5), square(5, 10)  # they share half of their pixels
    members = np.stack([mask, half])[:, None].astype(np.float32)
    (found,) = features_of(refinement(mask[None]), members.mean(0), members)
    assert found is not None and found.member_agreement == 0.5
    (neither,) = features_of(refinement(mask[None]), members[0], np.zeros((2, 1, 64, 64), np.float32))
    assert neither is not None and neither.member_agreement == 0


def test_features_use_the_coarse_mask_if_the_mask_of_sam_is_empty() -> None:
    coarse = square(5, 5)[None]
    (found,) = features_of(refinement(np.zeros_like(coarse), coarse), coarse.astype(np.float32))
    assert found is not None and found.expected_dice == 1


def test_unusual_position_and_size_have_high_values() -> None:
    statistics = ShapeStatistics.of([shapes(seed)[1] for seed in range(12)])
    usual = shapes(99)[1]
    size, position = statistics.compare(usual)
    assert (size < 2).all() and (position < 2).all()
    assert (statistics.compare(usual[::-1])[1] > 2.5).all()
    small = np.stack([square(20, 20, 3), usual[1]])
    assert statistics.compare(small)[0][0] > 2.5
    # Nothing is further away than the limit.
    assert statistics.compare(np.stack([square(63, 63, 1), usual[1]]))[0][0] == 6


def test_position_is_relative_to_other_structures() -> None:
    rng = np.random.default_rng(0)
    spots = [(10, 10), (10, 40), (40, 10), (40, 40)]

    def case(shift: tuple[int, ...], spots: list[tuple[int, int]]) -> np.ndarray:
        return np.stack([square(y + shift[0], x + shift[1], 8) for y, x in spots])

    statistics = ShapeStatistics.of([case(tuple(rng.integers(-2, 3, 2)), spots) for _ in range(10)])
    assert (statistics.compare(case((10, 10), spots))[1] < 0.5).all()
    swapped = statistics.compare(case((0, 0), [spots[1], spots[0], *spots[2:]]))[1]
    assert (swapped[:2] > 4).all() and (swapped[2:] < 4).all()
    # Two structures determine no common shift.
    two = ShapeStatistics.of([case(tuple(rng.integers(-2, 3, 2)), spots[:2]) for _ in range(10)])
    assert (two.compare(case((10, 10), spots[:2]))[1] > 2.5).all()


def test_statistics_exclude_the_case_itself() -> None:
    here, gone = square(5, 5)[None], np.zeros((1, 64, 64), bool)
    statistics = ShapeStatistics.of([here, here, square(40, 40, 20)[None]])
    assert statistics.without(2).compare(here)[0] < statistics.compare(here)[0]
    # A structure that no labelled case shows: its size and position are unknown, not infinite.
    for empty in (ShapeStatistics.of([gone]), ShapeStatistics.of([here]).without(0)):
        assert all(np.isnan(values).all() for values in empty.compare(here))


def test_statistics_exclude_unannotated_structures() -> None:
    truths = [shapes(seed)[1] for seed in range(4)]
    known = np.array([[True, True], [True, False], [True, False], [True, False]])
    statistics = ShapeStatistics.of(truths, known)
    assert np.isfinite(statistics.log_area).tolist() == known.tolist()
    assert np.isfinite(statistics.centroid).all(axis=2).tolist() == known.tolist()


def test_statistics_of_one_case_have_a_wide_spread() -> None:
    size, position = ShapeStatistics.of([square(20, 20)[None]]).compare(square(22, 22, 11)[None])
    assert size[0] < 1 and position[0] < 1


def test_features_of_volumes() -> None:
    mask = np.zeros((1, 8, 32, 32), bool)
    mask[0, 2:6, 10:20, 10:20] = True
    (found,) = features_of(refinement(mask), mask.astype(np.float32))
    assert found is not None
    assert (found.expected_dice, found.size, found.position) == pytest.approx((1, 0, 0), abs=1e-6)


def test_statistics_survive_json() -> None:
    statistics = ShapeStatistics.of([shapes(seed)[1] for seed in range(3)] + [np.zeros((2, 64, 64), bool)])
    again = ShapeStatistics.from_json(json.loads(json.dumps(statistics.as_json(), allow_nan=False)))
    for one, other in zip(statistics.compare(shapes(9)[1]), again.compare(shapes(9)[1]), strict=True):
        assert one == pytest.approx(other, abs=1e-3, nan_ok=True)


def test_invalid_arguments_are_named() -> None:
    with pytest.raises(UserError, match="at least one labelled case"):
        ShapeStatistics.of([])
    with pytest.raises(UserError, match="different numbers"):
        ShapeStatistics.of([np.ones((1, 4, 4), bool), np.ones((2, 4, 4), bool)])
    with pytest.raises(UserError, match="do not fit"):
        ShapeStatistics.of([np.ones((1, 4, 4), bool)]).compare(np.ones((2, 4, 4), bool))
