from __future__ import annotations

from typing import Any

import pytest

from samstudent.errors import UserError
from samstudent.rounds.options import TrainOptions
from samstudent.task import Steps
from support.drawn import small_task


@pytest.mark.parametrize(
    ("request_", "steps"),
    [
        ({}, "auto"),
        ({"max_epochs": 0}, "auto"),  # what clients send back for the default
        ({"steps": "auto", "max_epochs": 3}, "auto"),
        ({"max_epochs": 3}, 150),
        ({"steps": 7, "max_epochs": 3}, 7),
    ],
)
def test_steps_of_a_request(request_: dict[str, Any], steps: Steps) -> None:
    task = small_task(training={"steps": "auto"})
    assert TrainOptions.of(request_, task).round_options(task, "cpu").steps == steps


def test_default_number_of_epochs_means_the_steps_of_the_task() -> None:
    task = small_task(training={"steps": 60})
    assert TrainOptions.of({"max_epochs": 2}, task).round_options(task, "cpu").steps == 60


@pytest.mark.parametrize("steps", ["often", 0, -5, 2_000_000])
def test_impossible_steps_are_refused(steps: object) -> None:
    with pytest.raises(UserError, match="train request: steps"):
        TrainOptions.of({"steps": steps}, small_task())
