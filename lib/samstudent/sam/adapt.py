"""Adaptation of SAM's mask decoder to the borders in a site's labels: training on human labels, from cached embeddings.

Prompts are those of refinement: the recipe's, from coarse masks of students that did not train on the case, with
jittered boxes, through all stages. Cross-validation on the labelled cases determines the number of steps, and whether
the result is used (docs/explanation/pseudo-labels.md).
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from samstudent.errors import UserError
from samstudent.metrics import mean_and_error
from samstudent.sam.adapt_run import AdaptationOptions, Run
from samstudent.sam.adapt_samples import Example, prompt_samples
from samstudent.sam.adapted import Adaptation, Weights
from samstudent.sam.decode import DecodePlan, decode_structures, dice
from samstudent.sam.model import SamModel
from samstudent.task import Recipe

logger = logging.getLogger(__name__)

#: Smallest number of labelled cases for the comparison with the plain SAM.
MIN_CASES = 3
#: Checkpoints of a run, at which the left-out fold is scored.
_CHECKPOINTS = 6
#: Number of checkpoints without improvement after which the runs stop.
_PATIENCE = 3
#: Largest number of structures that are scored at a checkpoint, over all folds: more would take longer than training.
_COMPARED = 120

#: (example, structure) -> Dice
Scores = dict[tuple[int, int], float]


def adapt(
    backend: SamModel,
    examples: Sequence[Example],
    recipe: Recipe,
    seed: int,
    options: AdaptationOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Adaptation:
    """Train SAM's mask decoder on human labels, and compare it with the plain one on left-out labelled cases.

    For each fold there is one run on the other folds, scored on the fold itself every sixth of the steps, until there
    is no further gain; then one run on all examples, for the best number of steps. ``backend`` is not changed.

    Args:
        backend: the plain SAM.
        examples: with the folds of the students that made the coarse masks.
        recipe: prompts from coarse masks; morphology, margin and stages are used.
        seed: of order and jitter.
        options: of the training.
        progress: called with the steps done and the number of all steps; skipped steps count as done.

    Raises:
        UserError: inconsistent shapes, or a loss that is not finite.
    """
    _check(examples)
    begun = time.monotonic()
    stages = recipe.stages_for(backend.name)
    labels = sorted({example.id for example in examples})
    folds = sorted({example.fold for example in examples})
    settings = {**asdict(options), "seed": seed, "stages": [list(s.prompts) for s in stages]}

    done, total = 0, (len(folds) + 1) * options.steps

    def result(reason: str, **found: Any) -> Adaptation:
        empty: dict[str, Any] = {"weights": {}, "folds": {}, "steps": 0, "used": False, "curve": []}
        empty |= dict.fromkeys(("plain", "adapted", "gain", "error"), math.nan)
        # To the millisecond: it distinguishes a repeated adaptation from one that a later round reuses.
        seconds = round(time.monotonic() - begun, 3)
        if progress:
            progress(total, total)
        return Adaptation(**(empty | found), reason=reason, labels=labels, settings=settings, seconds=seconds)

    if len(labels) < MIN_CASES or len(folds) < 2:
        return result(f"{len(labels)} labelled cases in {len(folds)} folds: {MIN_CASES} in 2 are needed")
    compared = _compared(examples, np.random.default_rng(seed))
    cases = len({examples[i].id for i, _ in compared})
    if cases < MIN_CASES:
        return result(f"students found labelled structures in {cases} cases: {MIN_CASES} are needed for the comparison")
    samples = [s for i, example in enumerate(examples) for s in prompt_samples(i, example, recipe, backend.name)]

    def score(sam: SamModel, structures_of: Sequence[tuple[int, int]]) -> Scores:
        """Dice of SAM's masks for the students' own prompts."""
        plan = DecodePlan(recipe, sam)
        structures: dict[int, list[int]] = defaultdict(list)
        for i, s in structures_of:
            structures[i].append(s)
        scores = {}
        for i, members in structures.items():
            example = examples[i]
            plans = [plan if s in members else None for s in range(len(example.truth))]
            decoded = decode_structures(example.coarse, example.embedding, plans)
            for s in members:
                found = decoded[s]
                scores[i, s] = 0.0 if found is None else dice(found.logits > 0, example.truth[s])
        return scores

    def on_step(*_: float) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    runs = {}
    for number, fold in enumerate(folds, 1):
        training = [s for s in samples if examples[s.example].fold != fold]
        if not any(s.is_positive for s in training):
            return result(f"without fold {fold} there is no labelled structure to train on")
        runs[fold] = Run(backend, examples, training, stages, options, [seed, number])
    checkpoints = sorted({math.ceil(options.steps * k / _CHECKPOINTS) for k in range(1, _CHECKPOINTS + 1)})
    scores: dict[int, Scores] = {0: score(backend, compared)}
    best, stale, best_weights = 0, 0, dict[int, Weights]()
    for step in checkpoints:
        # All folds in parallel, so that none trains long past the best checkpoint.
        scores[step] = {}
        for fold, run in runs.items():
            run.train(step, on_step)
            left_out = [(i, s) for i, s in compared if examples[i].fold == fold]
            scores[step] |= score(run.backend, left_out)
        if _mean(scores[step], examples) > _mean(scores[best], examples):
            best, stale, best_weights = step, 0, {fold: run.weights() for fold, run in runs.items()}
        else:
            stale += 1
        if stale == _PATIENCE:
            break
    runs.clear()

    curve = [_point(step, scores[step], examples) for step in scores]
    gain, error = _paired(scores[0], scores[best], examples)
    figures: dict[str, Any] = {"steps": best, "gain": gain, "error": error, "curve": curve}
    figures |= {"plain": _mean(scores[0], examples), "adapted": _mean(scores[best], examples)}
    if best == 0:
        return result(f"no checkpoint was better than the plain SAM on {cases} left-out cases", **figures)
    reason = f"a gain of {gain:.4f} with a standard error of {error:.4f} on {cases} left-out cases"
    if not gain > error:
        return result(reason, **figures)
    run = Run(backend, examples, samples, stages, options, [seed, 0])
    run.train(best, on_step)
    logger.info("SAM adapted to %d cases in %d steps: %s", len(labels), best, reason)
    return result(reason, weights=run.weights(), folds=best_weights, used=True, **figures)


def _compared(examples: Sequence[Example], rng: np.random.Generator) -> list[tuple[int, int]]:
    """(example, structure) of up to ``_COMPARED`` labelled structures that students found, from all cases in turn."""
    of_case: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for i, example in enumerate(examples):
        both = example.truth.any(axis=(1, 2)) & example.coarse.any(axis=(1, 2))
        of_case[example.id] += [(i, int(s)) for s in np.flatnonzero(both) if example.knows(int(s))]
    for members in of_case.values():
        rng.shuffle(members)
    order = [(turn, case) for case, members in of_case.items() for turn in range(len(members))]
    order.sort(key=lambda item: item[0])
    return [of_case[case][turn] for turn, case in order[:_COMPARED]]


def _by_case(scores: Scores, examples: Sequence[Example]) -> dict[str, float]:
    """Mean Dice of each case."""
    values: dict[str, list[float]] = defaultdict(list)
    for (i, _), value in scores.items():
        values[examples[i].id].append(value)
    return {case: float(np.mean(v)) for case, v in values.items()}


def _mean(scores: Scores, examples: Sequence[Example]) -> float:
    """Mean Dice over cases; a case of many slices counts as one."""
    return float(np.mean(list(_by_case(scores, examples).values())))


def _paired(before: Scores, after: Scores, examples: Sequence[Example]) -> tuple[float, float]:
    """Mean paired difference over cases, and its standard error."""
    plain, adapted = _by_case(before, examples), _by_case(after, examples)
    differences = np.array([adapted[case] - plain[case] for case in plain])
    return mean_and_error(differences)


def _point(step: int, scores: Scores, examples: Sequence[Example]) -> dict[str, Any]:
    """Record of a checkpoint."""
    folds = sorted({examples[i].fold for i, _ in scores})
    means = {f: _mean({k: v for k, v in scores.items() if examples[k[0]].fold == f}, examples) for f in folds}
    return {"step": step, "dice": _mean(scores, examples), "folds": means}


def _check(examples: Sequence[Example]) -> None:
    fold_of: dict[str, int] = {}
    for example in examples:
        if fold_of.setdefault(example.id, example.fold) != example.fold:
            raise UserError(f"{example.id}: its slices are in different folds")
        shape = (len(examples[0].truth), *example.embedding.image_size)
        if example.truth.shape != shape or example.coarse.shape != shape:
            raise UserError(
                f"{example.id}: masks of shapes {example.truth.shape} (truth) and {example.coarse.shape} (coarse), "
                f"but {shape[0]} structures on this embedding's image need {shape}"
            )
