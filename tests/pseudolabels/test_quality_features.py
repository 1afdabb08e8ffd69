"""QualityFeatures of drawn shapes with known answers."""

from __future__ import annotations

import dataclasses
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
    numbers = {"predicted_iou": 0.8, "agreement": 0.7, "stability": 0.9, "jitter": 0.6} | result
    results = [StructureResult("abc"[i], True, [], refined=True, **numbers) for i in range(len(masks))]
    empty = StructureResult("absent", False, [], None, None)
    results = [r if c.any() else empty for r, c in zip(results, coarse, strict=True)]
    soft = masks.astype(np.float16)
    return Refinement(masks=masks, coarse=coarse, structures=results, soft=soft)


def test_what_sam_said_is_passed_on_and_what_it_did_not_is_unknown() -> None:
    mask = square(5, 5)[None]
    probability = np.where(mask, 0.9, 0.1).astype(np.float32)
    (told,) = quality_features_of(refinement(mask), probability, None)
    assert told is not None
    assert (told.predicted_iou, told.agreement, told.stability, told.jitter) == (0.8, 0.7, 0.9, 0.6)
    assert all(math.isnan(v) for v in (told.ensemble, told.log_area, told.offset, told.arrangement, told.prevalence))
    silent = dict.fromkeys(("predicted_iou", "agreement", "stability", "jitter"))
    (untold,) = quality_features_of(refinement(mask, **silent), probability, None)
    assert untold is not None and all(math.isnan(getattr(untold, name)) for name in silent)


def test_an_absent_structure_has_no_signals() -> None:
    masks = np.stack([square(5, 5), np.zeros((64, 64), bool)])
    present, absent = quality_features_of(
        refinement(masks), masks.astype(np.float32), ShapeStatistics.of([masks, masks])
    )
    assert present is not None and absent is None


def test_what_the_students_probabilities_say() -> None:
    mask = square(20, 20)[None]
    (sure,) = quality_features_of(refinement(mask), mask.astype(np.float32), None)
    (doubtful,) = quality_features_of(refinement(mask), np.where(mask, 0.5, 0.0).astype(np.float32), None)
    assert sure is not None and doubtful is not None
    assert (sure.certainty, sure.expected, sure.entropy) == pytest.approx((1, 1, 0), abs=1e-3)
    # One bit for each of 10 x 10 pixels, none for the ring of one pixel around them.
    assert doubtful.entropy == pytest.approx(100 / 144, abs=1e-3)
    assert (doubtful.certainty, doubtful.expected) == pytest.approx((0.5, 2 * 50 / 150))


def test_a_doubled_structure_shows() -> None:
    mask = square(5, 5)[None]
    twice = (mask | square(40, 40)[None]).astype(np.float32)
    (one,) = quality_features_of(refinement(mask), mask.astype(np.float32), None)
    (two,) = quality_features_of(refinement(mask), twice, None)
    twice[0, 60, 5] = 1  # a speck is no third one
    (still_two,) = quality_features_of(refinement(mask), twice, None)
    assert one is not None and two is not None and still_two is not None
    assert (one.components, two.components, still_two.components) == (1, 2, 2)
    assert two.expected == pytest.approx(2 / 3)


def test_members_of_an_ensemble_agree_or_not() -> None:
    mask = square(5, 5)
    half = square(5, 10)  # shares half of its pixels with it
    members = np.stack([mask, mask, half])[:, None].astype(np.float32)
    (found,) = quality_features_of(refinement(mask[None]), members.mean(0), None, members)
    assert found is not None and found.ensemble == pytest.approx((1 + 0.5 + 0.5) / 3)
    (lonely,) = quality_features_of(refinement(mask[None]), members[0], None, members[:1])
    assert lonely is not None and math.isnan(lonely.ensemble)
    (unseen,) = quality_features_of(refinement(mask[None]), members[0], None, np.zeros((2, 1, 64, 64), np.float32))
    assert unseen is not None and unseen.ensemble == 0


def test_where_sam_drew_nothing_the_coarse_mask_is_judged() -> None:
    coarse = square(5, 5)[None]
    (found,) = quality_features_of(refinement(np.zeros_like(coarse), coarse), coarse.astype(np.float32), None)
    assert found is not None and found.certainty == 1


def test_misplaced_and_missized_structures_stand_out_of_the_atlas() -> None:
    truths = [shapes(seed)[1] for seed in range(12)]
    atlas = ShapeStatistics.of(truths)
    usual = shapes(99)[1]
    area, offset, _ = atlas.compare(usual)
    assert (np.abs(area) < 2).all() and (offset < 2).all()
    swapped = usual[::-1]
    assert (atlas.compare(swapped)[1] > 2.5).all()
    small = np.stack([square(20, 20, 3), usual[1]])
    assert atlas.compare(small)[0][0] < -2.5
    # Nothing is further away than the limit.
    assert atlas.compare(np.stack([square(63, 63, 1), usual[1]]))[0][0] == -6


def test_arrangement_forgives_a_shifted_image_but_not_a_swap() -> None:
    rng = np.random.default_rng(0)
    spots = [(10, 10), (10, 40), (40, 10), (40, 40)]

    def case(shift: tuple[int, int], spots: list[tuple[int, int]]) -> np.ndarray:
        return np.stack([square(y + shift[0], x + shift[1], 8) for y, x in spots])

    atlas = ShapeStatistics.of([case(tuple(rng.integers(-2, 3, 2)), spots) for _ in range(10)])
    shifted = atlas.compare(case((10, 10), spots))
    assert (shifted[1] > 2.5).all() and (shifted[2] < 0.5).all()
    swapped = atlas.compare(case((0, 0), [spots[1], spots[0], *spots[2:]]))[2]
    assert (swapped[:2] > 4).all() and (swapped[2:] < 4).all()
    two = ShapeStatistics.of([case((0, 0), spots[:2])])
    assert np.isnan(two.compare(case((0, 0), spots[:2]))[2]).all()


def test_prevalence_and_the_case_left_out() -> None:
    here, gone = square(5, 5)[None], np.zeros((1, 64, 64), bool)
    atlas = ShapeStatistics.of([here, here, gone])
    assert atlas.prevalence == pytest.approx([3 / 5])
    assert atlas.without(2).prevalence == pytest.approx([3 / 4])
    # A structure that no labelled case shows: its size and place are unknown, not infinite.
    for empty in (ShapeStatistics.of([gone]), ShapeStatistics.of([here]).without(0)):
        area, offset, _ = empty.compare(here)
        assert np.isnan(area).all() and np.isnan(offset).all()


def test_one_labelled_case_makes_no_narrow_atlas() -> None:
    atlas = ShapeStatistics.of([square(20, 20)[None]])
    area, offset, _ = atlas.compare(square(22, 22, 11)[None])
    assert abs(area[0]) < 1 and offset[0] < 1


def test_volumes() -> None:
    mask = np.zeros((1, 8, 32, 32), bool)
    mask[0, 2:6, 10:20, 10:20] = True
    (found,) = quality_features_of(refinement(mask), mask.astype(np.float32), ShapeStatistics.of([mask] * 3))
    assert found is not None
    assert (found.components, found.certainty, found.log_area, found.offset) == pytest.approx((1, 1, 0, 0), abs=1e-6)


def test_atlas_and_signals_survive_json() -> None:
    atlas = ShapeStatistics.of([shapes(seed)[1] for seed in range(3)] + [np.zeros((2, 64, 64), bool)])
    again = ShapeStatistics.from_json(json.loads(json.dumps(atlas.as_json(), allow_nan=False)))
    for one, other in zip(atlas.compare(shapes(9)[1]), again.compare(shapes(9)[1]), strict=True):
        assert one == pytest.approx(other, abs=1e-3, nan_ok=True)
    signals = QualityFeatures(agreement=0.5, components=2.0)
    assert signals.as_json() == {"agreement": 0.5, "components": 2.0}
    assert QualityFeatures.from_json(signals.as_json()).as_json() == signals.as_json()
    assert {f.name for f in dataclasses.fields(QualityFeatures)} >= {"stability", "jitter", "prevalence"}


def test_faults_are_named() -> None:
    with pytest.raises(UserError, match="at least one labelled case"):
        ShapeStatistics.of([])
    with pytest.raises(UserError, match="different numbers"):
        ShapeStatistics.of([np.ones((1, 4, 4), bool), np.ones((2, 4, 4), bool)])
    with pytest.raises(UserError, match="do not fit"):
        ShapeStatistics.of([np.ones((1, 4, 4), bool)]).compare(np.ones((2, 4, 4), bool))
