"""Scores of predictions with known uncertainty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samstudent.active_learning.scores import disagreement_score, entropy_score


@pytest.mark.parametrize("overlap", [True, False])
def test_certain_predictions_have_no_entropy(overlap: bool):
    sure = np.zeros((2, 8, 8), dtype=np.float32)
    assert entropy_score(sure, overlap) == 0
    sure[0, 2:4] = 1
    assert entropy_score(sure, overlap) == pytest.approx(0, abs=1e-9)


def test_uniform_probabilities_have_maximum_entropy():
    assert entropy_score(np.full((3, 4, 4), 0.5, dtype=np.float32), overlap=True) == pytest.approx(1)
    assert entropy_score(np.full((3, 4, 4, 4), 0.25, dtype=np.float32), overlap=False) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("overlap", [True, False])
def test_certain_background_does_not_reduce_the_entropy(overlap: bool):
    small, large = np.zeros((1, 20, 20), np.float32), np.zeros((1, 200, 200), np.float32)
    small[0, :4, :4] = large[0, :4, :4] = 0.6
    assert entropy_score(small, overlap) == pytest.approx(entropy_score(large, overlap))
    assert entropy_score(large, overlap) > 0.9


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), min_size=1, max_size=3), st.booleans())
def test_entropy_is_normalised(values, overlap):
    assert 0 <= entropy_score(np.array(values, dtype=np.float32), overlap) <= 1


def test_disagreement_is_the_mean_over_prompted_structures():
    assert disagreement_score([None, None]) is None and disagreement_score([]) is None
    assert disagreement_score([1.0, None]) == 0
    assert disagreement_score([1.0, 0.0, None]) == pytest.approx(0.5)  # SAM drew nothing: nothing that agrees
