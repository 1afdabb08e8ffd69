"""Adaptation of a click decoder to a site's labels, used where it is better on labelled cases left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from samstudent.metrics import mean_and_error
from samstudent.sam.adapted import Weights
from samstudent.sam.click_training import ClickExample, ClickRun, ClickTrainingOptions, next_click
from samstudent.sam.decode import dice
from samstudent.sam.model import SamBackend, SamModel
from samstudent.sam.prompts import Mask, Prompt

#: Smallest number of labelled cases: some train, the others compare.
MIN_CASES = 6
#: Share of the cases that compare, and their largest number.
_LEFT_OUT, _MOST_LEFT_OUT = 1 / 3, 12
#: Clicks after which the Dice counts.
COUNTED = (1, 2, 3, 5)
#: Largest number of structures of a case that are compared.
_STRUCTURES = 4


@dataclass(frozen=True, eq=False)
class ClickAdaptation:
    """Result of ``adapt_clicks``.

    Attributes:
        weights: of prompt encoder and mask decoder, trained on all cases; empty where ``used`` is False.
        before, after: mean Dice over 1, 2, 3 and 5 clicks on the left-out cases; nan where nothing was compared.
        gain: mean paired difference of the two over cases.
        error: standard error of ``gain``.
        used: whether the adapted decoder is better: the gain exceeds its standard error.
        reason: one line for users about ``used``.
        cases: ids of the cases that trained it.
    """

    weights: Weights = field(repr=False)
    before: float
    after: float
    gain: float
    error: float
    used: bool
    reason: str
    cases: list[str]

    def record(self) -> dict[str, Any]:
        """Everything but the weights, for JSON; None instead of nan."""
        content = {key: value for key, value in vars(self).items() if key != "weights"}
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value for key, value in content.items()
        }


def adapt_clicks(
    decoder: SamModel,
    examples: Mapping[str, Sequence[ClickExample]],
    options: ClickTrainingOptions,
    seed: int,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> ClickAdaptation:
    """Train a click decoder on human labels: on two thirds of the cases, then, if it is better on the others, on all.

    Args:
        decoder: the initial decoder; not changed.
        examples: case id -> image, or slices of a volume.
        options: of the training.
        seed: of the split, of order and clicks.
        on_step: called with the number of steps done and that of all.

    Raises:
        UserError: a loss that is not finite.
    """
    order = [str(case) for case in np.random.default_rng(seed).permutation(sorted(examples))]
    if len(order) < MIN_CASES:
        reason = f"{len(order)} labelled cases with a mask: {MIN_CASES} are needed for the comparison"
        return ClickAdaptation({}, math.nan, math.nan, math.nan, math.nan, False, reason, [])
    left_out = order[: min(round(len(order) * _LEFT_OUT), _MOST_LEFT_OUT)]
    trained = order[len(left_out) :]

    def run(cases: Sequence[str], number: int) -> ClickRun:
        made = ClickRun(decoder, [e for case in cases for e in examples[case]], options, [seed, number])
        made.train(options.steps, lambda step, _: on_step(number * options.steps + step, 2 * options.steps))
        return made

    first = run(trained, 0)
    before, after = (
        np.array([mean_dice(sam, examples[case]) for case in left_out]) for sam in (decoder, first.backend)
    )
    gain, error = mean_and_error(after - before)
    reason = f"a gain of {gain:.4f} with a standard error of {error:.4f} on {len(left_out)} left-out cases"
    used = gain > error
    weights = run(order, 1).weights() if used else {}
    figures = (float(before.mean()), float(after.mean()), gain, error)
    return ClickAdaptation(weights, *figures, used, reason, sorted(order) if used else [])


def mean_dice(decoder: SamBackend, examples: Sequence[ClickExample]) -> float:
    """Mean Dice after the ``COUNTED`` clicks of a user who clicks where the mask is most wrong."""
    found = []
    for example in examples:
        mask_of = partial(_mask, decoder, example)
        for index in some_masks(example):
            curve = dice_by_clicks(mask_of, example, index, max(COUNTED))
            found += [curve[count - 1] for count in COUNTED]
    return float(np.mean(found))


def dice_by_clicks(mask_of: Callable[[Prompt], Mask], example: ClickExample, index: int, count: int) -> list[float]:
    """Dice after each of ``count`` clicks of a user who clicks where the mask is most wrong.

    Args:
        mask_of: returns the mask bool (y, x) of a prompt.
        example, index: image and number of its mask.
        count: number of clicks.
    """
    truth = example.masks[index]
    mask, found = np.zeros_like(truth), list[float]()
    points: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for _ in range(count):
        point, is_positive = next_click(truth, mask)
        points[is_positive].append(point)
        mask = mask_of(Prompt(None, tuple(points[True]), tuple(points[False])))
        found.append(dice(mask, truth))
    return found


def _mask(decoder: SamBackend, example: ClickExample, prompt: Prompt) -> Mask:
    return decoder.decode(example.embedding, prompt).logits > 0


def some_masks(example: ClickExample) -> list[int]:
    """Numbers of some of the masks, the same at every call."""
    return [int(i) for i in np.random.default_rng(0).permutation(len(example.masks))[:_STRUCTURES]]
