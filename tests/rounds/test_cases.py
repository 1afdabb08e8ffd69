"""What pseudo labels say of structures that are not there."""

from __future__ import annotations

import numpy as np
import pytest

from samstudent.pseudolabels.quality_filter import absence_prior
from samstudent.rounds.cases import discount_absences
from samstudent.student.data import TrainingCase


def case(id: str, present: tuple[bool, bool], human: bool) -> TrainingCase:
    masks = np.zeros((2, 4, 4), dtype=bool)
    masks[np.array(present)] = True
    nothing, weights = np.zeros_like(masks), np.array([0.8, 0.8], dtype=np.float32)
    return TrainingCase(id, np.zeros((1, 4, 4), dtype=np.float32), masks, nothing, weights, human)


def test_absence_is_believed_as_far_as_labelled_cases_show_it() -> None:
    present = np.array([[True, False], [True, False], [True, True]])
    assert absence_prior(present) == pytest.approx([1 - 4 / 5, 1 - 2 / 5])


def test_without_labelled_cases_it_is_even() -> None:
    assert absence_prior(np.zeros((0, 2), dtype=bool)) == pytest.approx([0.5, 0.5])


def test_only_absences_of_the_named_cases_are_discounted() -> None:
    cases = [case("h1", (True, False), True), case("h2", (True, False), True)]
    cases += [case("sam", (False, True), False), case("raw", (False, True), False)]
    one, two, sam, raw = discount_absences(cases, {"sam"})
    for unchanged in (one, two, raw):
        assert unchanged.weights == pytest.approx([0.8, 0.8])
    assert sam.weights == pytest.approx([0.8 * (1 - 3 / 4), 0.8])
