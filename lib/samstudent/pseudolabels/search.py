"""Search for the recipe that serves each structure best, on labelled cases whose predictions are honest.

SAM's decoder costs time, what is made of its answer costs nothing. So a trial decodes all structures of all cases once
in one configuration (``space.Cell``), and every source (SAM's mask, fused with the student's in several shares, at the
border only) is scored on the same logits. All structures choose from all that was tried. Which they choose is decided
in ``choice``; why it is done so, in docs/explanation/recipe-search.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.pseudolabels.bench import Bench, OutOfFoldSlice
from samstudent.pseudolabels.choice import Evidence, HonestGain, Verdict, decide, honest_gain
from samstudent.pseudolabels.space import Cell, Space
from samstudent.sam.model import SamBackend
from samstudent.task import Recipe

#: Of the trials asked for, how many may be asked of the sampler: repetitions and what changes no prompt are free.
_ASKS = 4


@dataclass(frozen=True)
class StructureChoice:
    """What was found for one structure. Dice is the mean over cases, false alarms counting 0; None without cases.

    Attributes:
        recipe: the chosen one.
        dice: with it.
        plain: with the base recipe, the plain decoder and SAM's own mask.
        student: of the student's mask as it is.
        best: the highest of all that was tried; it flatters, having been picked.
        gain: estimated difference of the chosen to the student, in Dice, drawn towards that of all structures.
        standard_error: of ``gain``.
        margin: the same difference of the best recipe, which stands above ``gain`` where a simpler one was near enough.
        luck: what the best of so many would gain if none were better than the student.
        honest_gain: mean gain on folds left out of choosing; the noisiest of these numbers, and the only unbiased.
        cases: whose truth shows it.
        tried: recipes compared.
    """

    recipe: Recipe
    dice: float | None = None
    plain: float | None = None
    student: float | None = None
    best: float | None = None
    gain: float = 0.0
    standard_error: float | None = None
    margin: float = 0.0
    luck: float = 0.0
    honest_gain: float | None = None
    cases: int = 0
    tried: int = 0


@dataclass(frozen=True)
class Choice:
    """The recipe of each structure, and how it came about.

    Attributes:
        structures: name -> what was found.
        cases: how many were there; a volume is one.
        student: mean Dice over all cases and structures of the student's masks as they are.
        honest_gain: mean Dice that choosing adds to it on folds that were left out of choosing.
        standard_error: of ``honest_gain``.
        resolved: mean Dice of the chosen combination and of the student after overlaps are resolved ("chosen",
            "student"); empty where structures may overlap or all keep the student's mask.
        fallback: why all structures keep the student's mask whatever they chose; None: they take what they chose.
        trials: one per decoding configuration: its cell, the mean over structures of the best Dice, and how much of it
            had to be decoded (the rest was known from earlier trials).
        seconds: of each trial.
        seed: of samplers and resampling.
    """

    structures: dict[str, StructureChoice]
    cases: int
    student: float | None = None
    honest_gain: float | None = None
    standard_error: float | None = None
    resolved: dict[str, float] = field(default_factory=dict)
    fallback: str | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list, compare=False)
    seed: int = 0

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Structure -> recipe, as ``refine`` takes them."""
        return {name: structure.recipe for name, structure in self.structures.items()}

    def as_json(self) -> dict[str, Any]:
        """For the round's record."""
        content = asdict(self)
        for name, structure in self.structures.items():
            content["structures"][name]["recipe"] = structure.recipe.model_dump(mode="json")
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Choice:
        """What ``as_json`` gave."""
        structures = {
            name: StructureChoice(**{**entry, "recipe": Recipe.model_validate(entry["recipe"])})
            for name, entry in content["structures"].items()
        }
        return cls(**{**content, "structures": structures})


def search(
    cases: Sequence[OutOfFoldSlice],
    names: Sequence[str],
    overlap: bool,
    base: Recipe,
    backend: SamBackend,
    adapted: Mapping[int, SamBackend] | None = None,
    trials: int | None = 9,
    grid: bool = False,
    fusion: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Choice:
    """Choose a recipe for each structure.

    Args:
        cases: with honest predictions; without any, every structure takes the base recipe.
        names: of the S structures.
        overlap: whether structures may share pixels.
        base: the task file's recipe; threshold, smallest size and the border's width are not searched.
        backend: the plain SAM.
        adapted: for each fold the SAM adapted on the other folds.
        trials: configurations to decode. None: the whole space.
        grid: the paper's 864 configurations (for each decoder), whatever ``trials`` says.
        fusion: whether SAM's answer may be fused with the student's.
        seed: of sampler and resampling; equal arguments give equal choices.
        progress: called with configurations done and in all; of a whole space the number in all counts those that cost
            nothing.

    Raises:
        UserError: shapes do not fit each other, ``adapted`` lacks a fold, or no trial is allowed.
    """
    _check(cases, names, adapted)
    if trials is not None and trials < 1:
        raise UserError(f"a search needs at least one trial, not {trials}")
    if not cases:
        return Choice({name: StructureChoice(base) for name in names}, 0, seed=seed)
    space = Space.of(base, backend.name, adapted is not None, grid, fusion)
    bench = Bench(cases, backend, adapted)
    recipes, dice, records, seconds = try_recipes(space, bench, None if grid else trials, seed, progress)
    evidence = Evidence.of(dice, bench.shown)
    sam, few = space.rivals(recipes)
    verdicts = decide(evidence, seed, sam, few)
    honest = honest_gain(evidence, bench.folds, seed, sam, few)
    chosen = [recipes[verdict.recipe] for verdict in verdicts]
    fallback, resolved = None, {}
    if honest.gain < 0:
        fallback = "on folds left out of choosing, the chosen recipes are worse than the student"
    elif not overlap and any(recipe.source != "student" for recipe in chosen):
        resolved = {"chosen": bench.resolved(chosen), "student": bench.resolved([recipes[0]] * len(names))}
        if resolved["chosen"] < resolved["student"]:
            fallback = "where overlap is forbidden, the chosen recipes together are worse than the student"
    if fallback:
        verdicts = [Verdict(0, v.best, 0.0, 0.0, v.margin, v.luck) for v in verdicts]
    plain = recipes.index(space.recipe(space.first_cells()[0]))
    return Choice(
        _structures(names, recipes, evidence, verdicts, honest, plain),
        len(bench.folds),
        _number(evidence.dice[..., 0].sum() / max(evidence.valid.sum(), 1)),
        _number(honest.gain),
        _number(honest.standard_error),
        resolved,
        fallback,
        records,
        seconds,
        seed,
    )


def try_recipes(
    space: Space, bench: Bench, trials: int | None, seed: int, progress: Callable[[int, int], None] | None = None
) -> tuple[list[Recipe], NDArray[np.float64], list[dict[str, Any]], list[float]]:
    """Decode configurations and score all that can be made of them.

    Returns:
        Recipes, the simplest first; their Dice (n, S, C), nan where nothing is; and ``Choice.trials`` and ``.seconds``.
    """
    tried: list[tuple[Recipe, NDArray[np.float64]]] = [(r, bench.dice([r])[..., 0]) for r in space.students()]
    records, seconds = _try_cells(space, bench, tried, trials, seed, progress)
    tried.sort(key=lambda item: space.complexity(item[0]))
    return [recipe for recipe, _ in tried], np.stack([dice for _, dice in tried], axis=-1), records, seconds


def _try_cells(
    space: Space,
    bench: Bench,
    tried: list[tuple[Recipe, NDArray[np.float64]]],
    trials: int | None,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[dict[str, Any]], list[float]]:
    """Decode configurations until ``trials`` are paid for, or all; adds recipes with Dice (n, S) to ``tried``."""
    import optuna  # Late: it takes half a second.

    labels = space.labels()
    size = int(np.prod([len(values) for values in labels.values()]))
    records: list[dict[str, Any]] = []
    seconds: list[float] = []
    known: dict[tuple[str, ...], float] = {}

    def objective(trial: optuna.Trial) -> float:
        cell: Cell = {axis: trial.suggest_categorical(axis, values) for axis, values in labels.items()}
        key = tuple(cell.values())
        if key not in known:
            start, before = time.perf_counter(), bench.decoded
            sources = space.sources(space.recipe(cell))
            dice = bench.dice(sources)
            tried.extend((source, dice[..., index]) for index, source in enumerate(sources))
            means = Evidence.of(dice, bench.shown).means()
            known[key] = float(np.nanmean(means.max(axis=1))) if not np.isnan(means).all() else 0.0
            share = (bench.decoded - before) / max(bench.present, 1)
            records.append({"cell": cell, "dice": round(known[key], 6), "decoded": round(share, 6)})
            seconds.append(round(time.perf_counter() - start, 3))
            if progress:
                progress(*(len(records), size) if trials is None else (min(round(paid()), trials), trials))
        return known[key]

    def paid() -> float:
        return sum(float(record["decoded"]) for record in records)

    def enough(study: optuna.Study, _: Any) -> None:
        if trials is not None and (paid() > trials - 0.5 or len(records) == size):
            study.stop()

    loudness = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if trials is None:
            sampler: Any = optuna.samplers.GridSampler(labels, seed=seed)
            optuna.create_study(direction="maximize", sampler=sampler).optimize(objective, n_trials=size)
        else:
            first = space.first_cells()
            sampler = optuna.samplers.TPESampler(n_startup_trials=len(first), seed=seed)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            for cell in first:
                study.enqueue_trial(cell)
            study.optimize(objective, n_trials=_ASKS * trials, callbacks=[enough])
    finally:
        optuna.logging.set_verbosity(loudness)
    return records, seconds


def _structures(
    names: Sequence[str],
    recipes: Sequence[Recipe],
    evidence: Evidence,
    verdicts: Sequence[Verdict],
    honest: HonestGain,
    plain: int,
) -> dict[str, StructureChoice]:
    means, shown = evidence.means(), evidence.shown.sum(axis=0)
    return {
        name: StructureChoice(
            recipe=recipes[verdict.recipe],
            dice=_number(means[s, verdict.recipe]),
            plain=_number(means[s, plain]),
            student=_number(means[s, 0]),
            best=_number(means[s].max()),
            gain=round(verdict.gain, 6),
            standard_error=_number(verdict.standard_error),
            margin=round(verdict.margin, 6),
            luck=round(verdict.luck, 6),
            honest_gain=_number(honest.structures[s]),
            cases=int(shown[s]),
            tried=len(recipes),
        )
        for s, (name, verdict) in enumerate(zip(names, verdicts, strict=True))
    }


def _number(value: float) -> float | None:
    """For JSON, which knows neither nan nor infinity."""
    return round(float(value), 6) if np.isfinite(value) else None


def _check(cases: Sequence[OutOfFoldSlice], names: Sequence[str], adapted: Mapping[int, SamBackend] | None) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for case in cases:
        expected = (len(names), *case.embedding.image_size)
        if case.probabilities.shape != expected or case.truth.shape != expected:
            raise UserError(
                f"{case.id}: probabilities {case.probabilities.shape} and truth {case.truth.shape} must both be "
                f"{expected}, structures on the embedding's image size"
            )
        if shapes.setdefault(case.id, expected) != expected:
            raise UserError(f"{case.id}: slices of one volume must be of one size")
        if adapted is not None and case.fold not in adapted:
            raise UserError(f"{case.id}: there is no adapted SAM for its fold {case.fold}, only for {sorted(adapted)}")
