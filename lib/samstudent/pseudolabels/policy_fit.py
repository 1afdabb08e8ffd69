"""Fit of the labeling policy of a round to out-of-fold predictions of its labelled cases.

In this order: weight of the embedding heads, adaptation of SAM's decoder, recipe of each structure, and quality model
(docs/explanation/pseudo-labels.md).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent import __version__
from samstudent.errors import UserError
from samstudent.imaging.case import CaseImage
from samstudent.metrics import dice_where_known, mean_of
from samstudent.pseudolabels.ablations import FULL, Ablations
from samstudent.pseudolabels.case import mix
from samstudent.pseudolabels.ensemble_offset import EstimatedMasks, ensemble_offset, expected_ensemble_dice
from samstudent.pseudolabels.labelling import refine_and_estimate
from samstudent.pseudolabels.out_of_fold import (
    CrossFittedPredictor,
    LearningCases,
    OutOfFoldCase,
    common_axis,
    examples_of,
    read_each,
    size_of,
    spread_out,
    with_axis,
)
from samstudent.pseudolabels.policy import ADAPTED_FILE, POLICY_FILE, LabelingPolicy, needs_sam, valid_for
from samstudent.pseudolabels.quality_features import ShapeStatistics
from samstudent.pseudolabels.quality_model import QualityModel
from samstudent.pseudolabels.recipe_choice import RecipeChoice, StructureChoice
from samstudent.pseudolabels.recipe_evaluation import RecipeEvaluator, choose_recipes
from samstudent.sam.adapt import adapt
from samstudent.sam.adapt_run import AdaptationOptions
from samstudent.sam.adapted import Adaptation, load_adapted, save_adapted, with_weights
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.model import SamModel
from samstudent.student.predict import binarize
from samstudent.task import Steps, Task
from samstudent.util.files import atomic_write

logger = logging.getLogger(__name__)

#: Candidate weights of the embedding heads; among equally good ones the first is chosen.
HEAD_WEIGHTS = (0.5, 0.0, 0.25, 0.75, 1.0)
#: Unlabelled cases for the fit of the ensemble offset: smallest and largest number, and approximate number of their
#: structures. SAM is run on each once for every fold and once more.
_LEAST, _MOST, _STRUCTURES = 5, 20, 160

#: Called with the name of a step, the number of units done, and the number of all.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FitOptions:
    """Options of the fit of a policy.

    Attributes:
        seed: of adaptation, choice and cross-validation.
        steps: optimisation steps of the students, or ``auto``; the adaptation of SAM takes a part of them. None: the
            task's.
        ablations: parts that are left out.
        inputs: ``policy_inputs`` of the same arguments, recorded for ``reuse_policy``; None: not recorded.
        progress: called with the progress.
        unchecked: ids of cases whose label is a pseudo label that no person has seen; the quality model is not fitted
            to them, as their estimates would confirm themselves.
    """

    seed: int = 0
    ablations: Ablations = FULL
    inputs: str | None = None
    progress: Progress = lambda part, done, total: None
    steps: Steps | None = None
    unchecked: frozenset[str] = frozenset()


def fit_policy(
    teacher: CrossFittedPredictor,
    cases: LearningCases,
    task: Task,
    sam: CachedSam,
    folder: Path,
    options: FitOptions = FitOptions(),
) -> LabelingPolicy:
    """Fit a policy on the labelled cases of ``teacher.folds`` and write it into ``folder``.

    Args:
        teacher: cross-fitted models.
        cases: labelled cases, and the unlabelled ones of ``cases_for_offset``. Without unlabelled cases, estimates of
            quality are those of a fold's models, too low for the ensemble.
        task: the task.
        sam: the plain SAM.
        folder: for ``policy.json`` and the adapted weights.
        options: seed, ablations and progress.

    Raises:
        UserError: no labelled case can be read.
    """
    valid = valid_for(task, sam.backend)
    labelled = [OutOfFoldCase.of(*found, teacher, task) for found in read_each(sorted(teacher.folds), cases.read)]
    if not labelled:
        raise UserError("no labelled case can be read any more")
    task = with_axis(task, common_axis(labelled, task))
    policy = _fit_to_labels(labelled, task, sam, folder, options)
    if policy.quality is not None:
        offset, compared = _fit_offset(policy, teacher, cases.unlabelled, sam, options.progress)
        policy = replace(policy, ensemble_offset=offset, record={**policy.record, "ensemble_offset": compared})
    content = policy.as_json() | {"valid_for": valid, "inputs": options.inputs}
    atomic_write(folder / POLICY_FILE, json.dumps(content, indent=1))
    return policy


def cases_for_offset(unlabelled: Sequence[str], task: Task) -> list[str]:
    """Unlabelled cases for the fit of the ensemble offset, evenly spread over the list; few volumes, as each of their
    slices may have to be embedded."""
    most = _LEAST if task.dimension == 3 else min(_MOST, max(_LEAST, _STRUCTURES // len(task.names)))
    return spread_out(unlabelled, most)


def policy_inputs(
    teacher: CrossFittedPredictor,
    labels: Mapping[str, Any],
    task: Task,
    backend: SamModel,
    options: FitOptions,
    unlabelled: int = 0,
) -> str:
    """SHA-256, hex, of everything that ``fit_policy`` depends on.

    Args:
        teacher: as of ``fit_policy``; images and masks count by its version, too.
        labels: case id -> digests of its human label, as JSON.
        task: the task.
        backend: the plain SAM.
        options: seed and ablations are used.
        unlabelled: number of unlabelled images. Their ids do not count, as any images serve and new ones arrive daily.
    """
    parts = [__version__, teacher.version, dict(teacher.folds), dict(labels), valid_for(task, backend), options.seed]
    parts += [unlabelled, options.ablations.as_json()]
    parts += [backend.embedding_digest, options.steps or task.training.steps]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def reuse_policy(
    earlier: Iterable[Path], inputs: str, folder: Path, task: Task, backend: SamModel
) -> LabelingPolicy | None:
    """A policy that was fitted to the same inputs, copied into ``folder``; None: there is no complete one.

    Args:
        earlier: folders of ``fit_policy``; the first with the same inputs is used.
        inputs: ``policy_inputs`` of the current fit.
        folder: for the copy.
        task: the task.
        backend: the plain SAM.
    """
    for other in earlier:
        try:
            text = (other / POLICY_FILE).read_text(encoding="utf-8")
            if json.loads(text)["inputs"] != inputs:
                continue
            LabelingPolicy.load(other, task, backend)
            for file in other.glob("*.safetensors"):
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / file.name)
        except (OSError, ValueError, LookupError, TypeError):  # UserError is a ValueError
            continue
        # Last, as in ``fit_policy``: a folder with this file is complete.
        atomic_write(folder / POLICY_FILE, text)
        return LabelingPolicy.load(folder, task, backend)
    return None


def _fit_to_labels(
    cases: Sequence[OutOfFoldCase], task: Task, sam: CachedSam, folder: Path, options: FitOptions
) -> LabelingPolicy:
    """Policy without the ensemble offset."""
    ablations = options.ablations
    head_weight, dice = best_head_weight(cases, task)
    own = dice[f"{head_weight:g}"]
    adaptation = _adapt(cases, head_weight, task, sam, options) if ablations.adapt_sam else None
    adapted, of_fold = None, None
    if adaptation is not None and adaptation.used:
        save_adapted(folder / ADAPTED_FILE, adaptation, sam.backend)
        adapted = load_adapted(folder / ADAPTED_FILE, sam.backend)
        of_fold = {fold: with_weights(sam.backend, weights) for fold, weights in adaptation.folds.items()}
    evaluator = RecipeEvaluator(cases, task, head_weight, sam, of_fold)
    choice = RecipeChoice({name: StructureChoice(task.recipe) for name in task.names})
    if ablations.choose_recipe:
        progress = partial(options.progress, "choosing recipes")
        choice = choose_recipes(evaluator, fusion=ablations.fusion, progress=progress)
    quality = None
    if ablations.estimate_quality:
        options.progress("fitting the quality model", 0, 1)
        complete = np.array([case.truth.complete for case in cases])
        statistics = ShapeStatistics.of((case.truth.masks for case in cases), complete)
        uses_sam = needs_sam(task, head_weight, choice)
        rows = evaluator.quality_rows(choice.recipes, statistics, uses_sam)
        checked = [row for row in rows if row.case not in options.unchecked]
        quality = QualityModel.fit(checked, statistics, options.seed)
        options.progress("fitting the quality model", 1, 1)
    record = {
        "cases": len(cases),
        "oof_dice": None if np.isnan(own) else own,
        "head_weights": dice,
        "adaptation": None if adaptation is None else adaptation.record(),
        "quality": None if quality is None else dict(quality.report),
        "ensemble_offset": None,
    }
    return LabelingPolicy(task, head_weight, choice, quality, adapted=adapted, record=record)


def _adapt(
    cases: Sequence[OutOfFoldCase], head_weight: float, task: Task, sam: CachedSam, options: FitOptions
) -> Adaptation:
    """SAM's decoder trained on the labels."""
    examples = [part for case in cases for part in examples_of(case, head_weight, task, sam, len(cases))]
    training = AdaptationOptions.for_training(options.steps or task.training.steps)
    return adapt(sam.backend, examples, task.recipe, options.seed, training, partial(options.progress, "adapting SAM"))


def best_head_weight(cases: Sequence[OutOfFoldCase], task: Task) -> tuple[float, dict[str, float]]:
    """The embedding heads' weight with the highest mean Dice, and the mean Dice of each candidate.

    The candidates are mixtures of the same two predictions: the Dice of the best is hardly optimistic, and none is
    simpler.
    """
    weights = HEAD_WEIGHTS if len(cases[0].members) > 1 else (0.0,)
    dice = [[dice_where_known(c.truth, binarize(mix(c.members, w), task)) for w in weights] for c in cases]
    means = [mean_of(np.array(dice)[:, i].ravel()) for i in range(len(weights))]
    best = weights[int(np.argmax(np.nan_to_num(means)))]
    return best, {f"{weight:g}": round(mean, 4) for weight, mean in zip(weights, means, strict=True)}


def _fit_offset(
    policy: LabelingPolicy,
    teacher: CrossFittedPredictor,
    images: Iterable[CaseImage],
    sam: CachedSam,
    progress: Progress,
) -> tuple[float, dict[str, Any]]:
    """Ensemble logit offset, and a record of the number of cases and structures."""
    task, folds = policy.task, sorted(set(teacher.folds.values()))
    estimates, expected, cases = list[float](), list[float](), 0
    total = len(images) if isinstance(images, Sized) else _MOST

    def refine(image: CaseImage, members: NDArray[Any]) -> tuple[EstimatedMasks, NDArray[Any]]:
        refined, probabilities, found = refine_and_estimate(image, members, policy, sam)
        values = [found[name].dice if found and name in found else np.nan for name in task.names]
        return EstimatedMasks(refined.masks, np.array(values)), probabilities

    for number, image in enumerate(images):
        progress("fitting the ensemble offset", number, max(number + 1, total))
        size, heads = size_of(image, task), policy.uses_sam
        try:
            ensemble, probabilities = refine(image, teacher.predict_members(image, size, heads=heads))
            each = [refine(image, teacher.predict_fold(fold, image, size, heads=heads))[0] for fold in folds]
        except UserError as error:
            # The same error in the labeling costs the label of this image only.
            logger.warning("%s: not used for the ensemble offset: %s", image.path, error)
            continue
        cases += 1
        estimates += ensemble.estimates.tolist()
        expected += expected_ensemble_dice(ensemble, each, probabilities).tolist()
    progress("fitting the ensemble offset", total, total)
    offset = ensemble_offset(np.array(estimates), np.array(expected))
    return offset, {"cases": cases, "structures": int(np.isfinite(estimates).sum())}
