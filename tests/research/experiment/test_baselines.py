"""Pseudo labels of other methods."""

from __future__ import annotations

import numpy as np

from samstudent.research.experiment.baselines import largest_component, random_walk


def test_the_largest_component_is_kept() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:5, 2:5] = mask[10:18, 10:18] = True
    kept = largest_component(mask)
    assert kept.sum() == 64
    assert not largest_component(np.zeros((4, 4), bool)).any()


def test_a_random_walker_stops_at_the_border_of_the_image() -> None:
    grey = np.full((40, 40), 0.2)
    grey[10:30, 10:30] = 0.8
    probability = np.full((40, 40), 0.5)
    probability[14:26, 14:26], probability[:4] = 0.95, 0.02
    probability[-4:], probability[:, :4], probability[:, -4:] = 0.02, 0.02, 0.02
    walked = random_walk(grey, probability) >= 0.5
    assert (walked == (grey > 0.5)).mean() > 0.99
    assert not random_walk(grey, np.full((40, 40), 0.5)).any()
