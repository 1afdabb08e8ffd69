"""Weight of the champion in the teacher, by cases on which no model trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.imaging.annotations import LabelledMasks
from samstudent.pseudolabels.out_of_fold import spread_out
from samstudent.rounds.case_store import CaseStore, PreparedCase
from samstudent.rounds.scoring import (
    CHAMPION_WEIGHTS,
    CONVERGED,
    MAX_WEIGHT_CASES,
    not_converged,
    train_dice,
    weigh_champion,
)
from support.case_sources import DrawnSource
from support.drawn import case_image, shapes, small_task

TASK = small_task()


class Fake:
    """Student that predicts the true masks with probability ``sure``, or exchanges the structures."""

    def __init__(self, sure: float = 1.0, *, has_wrong_masks: bool = False) -> None:
        self.sure, self.has_wrong_masks, self.requests = sure, has_wrong_masks, 0

    def predict(self, image: Any, size: Any = None) -> Any:
        self.requests += 1
        masks = TRUTHS[image.pixels.tobytes()]
        return self.sure * (masks[::-1] if self.has_wrong_masks else masks).astype(np.float32)


TRUTHS: dict[bytes, Any] = {}


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    return CaseStore(tmp_path, TASK)


def cases(store: CaseStore, count: int) -> list[PreparedCase]:
    found = [store.add(DrawnSource(str(seed))) for seed in range(count)]
    for case in found:
        image, truth = store.labelled(case)
        TRUTHS[image.pixels.tobytes()] = truth.masks
    return found


def test_better_student_has_a_higher_weight(store: CaseStore) -> None:
    right, wrong = Fake(0.8), Fake(has_wrong_masks=True)
    for found, good in ((weigh_champion(wrong, right, cases(store, 3), store), {0.75, 1.0}),
                        (weigh_champion(right, wrong, cases(store, 3), store), {0.25, 0.0})):  # fmt: skip
        assert set(found) == set(CHAMPION_WEIGHTS)
        assert {weight for weight, dice in found.items() if dice == 1} == good
        assert all(found[weight] == 0 for weight in set(found) - good)
    assert weigh_champion(wrong, right, [], store) == {}


def test_only_a_sample_of_many_cases_is_predicted(store: CaseStore) -> None:
    champion = Fake()
    weigh_champion(Fake(), champion, cases(store, 3) * MAX_WEIGHT_CASES, store)
    assert champion.requests == MAX_WEIGHT_CASES


@pytest.mark.parametrize("has_wrong_masks", [False, True])
def test_a_student_that_has_not_converged_is_reported(has_wrong_masks: bool) -> None:
    pixels, masks = shapes(3)
    image = case_image(pixels)
    TRUTHS[image.pixels.tobytes()] = masks
    dice = train_dice(Fake(has_wrong_masks=has_wrong_masks), [(image, LabelledMasks(masks))], TASK)
    assert dice == (pytest.approx(0.0, abs=0.2) if has_wrong_masks else 1.0)
    message = not_converged(dice, "fixed")
    assert (message is not None and "training.steps" in message) if has_wrong_masks else message is None


def test_unknown_training_dice_is_not_reported() -> None:
    assert not_converged(CONVERGED, "fixed") is None
    assert not_converged(train_dice(Fake(), [], TASK), "fixed") is None


def test_dice_has_stopped_rising_where_it_is_low() -> None:
    assert not_converged(0.1, "converged") is None


def test_sample_is_spread_over_all_cases() -> None:
    assert spread_out(range(100), 4) == [0, 25, 50, 75]
    assert spread_out([1, 2], 4) == [1, 2] and spread_out([], 4) == []
