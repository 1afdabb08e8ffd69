"""Reliability of synthetic estimates with known errors."""

from __future__ import annotations

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.pseudolabels.reliability import reliability


def test_reliability_of_perfect_constant_and_biased_estimates() -> None:
    true = np.linspace(0, 1, 200)
    perfect = reliability(true, true)
    assert (perfect["correlation"], perfect["calibration_error"]) == pytest.approx((1, 0))
    assert [point["dice"] for point in perfect["coverage"]] == pytest.approx([0.875, 0.75, 0.625, 0.5], abs=0.01)
    assert len(perfect["curve"]) == 10 and all(b["rows"] == 20 for b in perfect["curve"])
    biased = reliability(true * 0.5, true)
    assert biased["calibration_error"] == pytest.approx(0.25, abs=0.01)
    assert biased["coverage"][-1]["error"] == pytest.approx(0.25, abs=0.01)
    constant = reliability(np.full(200, 0.5), true)
    assert constant["correlation"] is None
    few = reliability([0.2, 0.8], [0.8, 0.2])
    assert len(few["curve"]) == 1 and few["calibration_error"] == pytest.approx(0)
    assert perfect["noise"] == 0
    with pytest.raises(UserError, match="do not fit"):
        reliability([0.5], [])


def test_noise_is_the_calibration_error_of_perfect_estimates() -> None:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(60):
        estimated = rng.uniform(0.3, 0.7, 120)
        drawn.append(reliability(estimated, estimated + rng.normal(0, 0.1, 120)))
    error, noise = (np.mean([result[key] for result in drawn]) for key in ("calibration_error", "noise"))
    assert noise == pytest.approx(error, rel=0.1)
