"""Summary of the measured cases: means of each model, the paired comparison, and where two models differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from samstudent.metrics import mean_of
from samstudent.research.evaluation.measure import EvaluatedModel, MeasuredCase, Row
from samstudent.rounds.fair import Comparison, compare_fairly, table_of
from samstudent.rounds.round_record import DiceTable


@dataclass(frozen=True)
class Difference:
    """One structure of one case.

    Attributes:
        case, structure: their names.
        dice: of each model, 0 to 1; None: neither label nor mask has the structure.
    """

    case: str
    structure: str
    dice: tuple[float | None, ...]

    @property
    def change(self) -> float:
        """Dice of the second model less that of the first; where only one of them predicts a structure that the label
        lacks, the other one counts 1 (``fair.compare_fairly``)."""
        first, second = (1.0 if value is None else value for value in self.dice)
        return second - first


@dataclass(frozen=True)
class Distances:
    """Mean distances of one model over the cases with one unit; None: not measured.

    Attributes:
        model: its name.
        unit: "mm" or "pixels".
        cases: number of cases with this unit.
        mean, percentile_95: by structure, and "mean" over the structures.
    """

    model: str
    unit: str
    cases: int
    mean: DiceTable
    percentile_95: DiceTable


@dataclass(frozen=True)
class Summary:
    """Summary of an evaluation. All figures are of the cases that trained none of the models, if there is one.

    Attributes:
        structures: names of the structures.
        models: names of one model or two.
        cases: number of the cases of the figures.
        trained: number of the cases that trained a model.
        is_seen: whether the figures are of cases that trained a model, as there are no others.
        dice: for each model, mean Dice by structure, and "mean" over the structures.
        cases_of: number of cases that have a Dice of the first model, by structure.
        distances: surface distances of each model.
        comparison: second model less the first; None: one model, or no pair.
        differences: of two models by descending size; of one model its Dice in ascending order.
    """

    structures: Sequence[str]
    models: Sequence[str]
    cases: int
    trained: int
    is_seen: bool
    dice: dict[str, DiceTable]
    cases_of: dict[str, int]
    distances: Sequence[Distances]
    comparison: Comparison | None
    differences: Sequence[Difference]


def counted_cases(cases: Sequence[MeasuredCase]) -> list[MeasuredCase]:
    """Cases that trained none of the models; all, if there are no such cases."""
    return [case for case in cases if not case.trained] or list(cases)


def summarize(cases: Sequence[MeasuredCase], models: Sequence[EvaluatedModel], structures: Sequence[str]) -> Summary:
    """Summary of measured cases, at least one; of one model or two."""
    counted, names = counted_cases(cases), [model.name for model in models]
    dice = {name: {case.id: case.scores[name].dice for case in counted} for name in names}
    comparison = compare_fairly(dice[names[1]], dice[names[0]], structures) if len(names) == 2 else None
    rows = dice[names[0]].values()
    return Summary(
        structures=structures,
        models=names,
        cases=len(counted),
        trained=sum(bool(case.trained) for case in cases),
        is_seen=bool(counted[0].trained),
        dice={name: table_of(dice[name], structures) for name in names},
        cases_of={name: sum(row[index] is not None for row in rows) for index, name in enumerate(structures)},
        distances=[
            _distances(name, unit, [case for case in counted if case.unit == unit], structures)
            for unit in ("mm", "pixels")
            if any(case.unit == unit for case in counted)
            for name in names
        ],
        comparison=comparison,
        differences=_differences(counted, names, structures),
    )


def _distances(model: str, unit: str, cases: Sequence[MeasuredCase], structures: Sequence[str]) -> Distances:
    scores = [case.scores[model] for case in cases]
    mean, high = _table([s.distance for s in scores], structures), _table([s.distance_95 for s in scores], structures)
    return Distances(model, unit, len(cases), mean, high)


def _table(rows: Sequence[Row], structures: Sequence[str]) -> DiceTable:
    """Means by structure, and "mean" over the structures."""
    columns = {name: [row[index] for row in rows] for index, name in enumerate(structures)}
    means = {name: mean_of(value for value in column if value is not None) for name, column in columns.items()}
    means["mean"] = mean_of(means.values())
    return {name: None if value != value else value for name, value in means.items()}


def _differences(cases: Sequence[MeasuredCase], models: Sequence[str], structures: Sequence[str]) -> list[Difference]:
    found = []
    for case in cases:
        for index, structure in enumerate(structures):
            dice = tuple(case.scores[model].dice[index] for model in models)
            if any(value is not None for value in dice):
                found.append(Difference(case.id, structure, dice))
    if len(models) == 1:
        return sorted(found, key=lambda one: (one.dice[0] or 0.0, one.case))
    return sorted(found, key=lambda one: (-abs(one.change), one.case))


def as_json(summary: Summary) -> dict[str, Any]:
    """Plain values, without the list of differences, which the cases contain."""
    comparison = None if summary.comparison is None else _named(summary.comparison.as_json(), summary.models)
    return {
        "models": list(summary.models),
        "cases": summary.cases,
        "trained": summary.trained,
        "figures_of_training_cases": summary.is_seen,
        "dice": summary.dice,
        "cases_of": summary.cases_of,
        "distances": [vars(part) for part in summary.distances],
        "comparison": comparison,
    }


def _named(content: dict[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """A ``Comparison`` as JSON with the names of the models in place of champion and challenger."""

    def renamed(change: dict[str, Any]) -> dict[str, Any]:
        others = {key: value for key, value in change.items() if key not in ("challenger", "champion", "verdict")}
        return {"dice": {models[0]: change["champion"], models[1]: change["challenger"]}, **others}

    structures = {name: renamed(change) for name, change in content["structures"].items()}
    return {
        "second_minus_first": list(models),
        "mean": renamed(content["mean"]),
        "structures": structures,
        "level": content["level"],
        "resamples": content["resamples"],
    }
