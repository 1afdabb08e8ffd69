"""Run of ``samstudent evaluate``: models, cases, measurement, ``evaluation.json`` and ``report.html``."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samstudent import __version__
from samstudent.errors import UserError
from samstudent.inference.batch import reason_of
from samstudent.inference.round_model import RoundModel
from samstudent.research.evaluation.cases import EvaluationCases
from samstudent.research.evaluation.measure import EvaluatedModel, MeasuredCase, measure_case
from samstudent.research.evaluation.pictures import case_picture, chosen_cases
from samstudent.research.evaluation.report import Facts, training_statement, write_report
from samstudent.research.evaluation.summary import Summary, as_json, summarize
from samstudent.rounds.study import Study
from samstudent.rounds.trained import trained_of
from samstudent.sam.cache import EmbeddingCache
from samstudent.util.files import atomic_write
from samstudent.util.progress import Report, StepReport, no_report

RESULTS, REPORT = "evaluation.json", "report.html"
SERVED = "served"
_SAM = "+sam"


@dataclass(frozen=True)
class RunOptions:
    """Options of ``evaluate``.

    Attributes:
        command: arguments of the command line, for the report.
        report: called with the progress.
        on_failure: called with the id and the reason of each case that cannot be measured.
    """

    command: Sequence[str] = ()
    report: Report = no_report
    on_failure: Callable[[str, str], None] = lambda case, reason: None


@dataclass(frozen=True)
class Evaluation:
    """Result of ``evaluate``.

    Attributes:
        summary: means and comparison.
        failed: case id -> reason.
    """

    summary: Summary
    failed: dict[str, str]

    @property
    def statement(self) -> str:
        """Whether the measured cases trained the models."""
        return training_statement(self.summary)


def load_models(
    study: Study, names: Sequence[str], *, of_study: bool, device: str | None = None
) -> list[EvaluatedModel]:
    """Load the models of an evaluation; two models of one round share its student.

    Args:
        study: the study.
        names: ids of rounds, or "served", each alone (the student's own masks) or with "+sam" (refined by SAM); one or
            two of them.
        of_study: whether the images are of the study, so that their embeddings are stored there.
        device: as of ``RoundModel.load``.

    Raises:
        UserError: more than two, or the same twice. Others as of ``RoundModel.load``.
    """
    if not 1 <= len(names) <= 2:
        raise UserError(f"{len(names)} rounds: one is evaluated, or two are compared")
    cache = EmbeddingCache(study.embeddings.folder, stores=of_study)
    loaded: dict[str, RoundModel] = {}
    models: list[EvaluatedModel] = []
    for given in names:
        asked = given.removesuffix(_SAM)
        if asked not in loaded:
            loaded[asked] = RoundModel.load(study, None if asked == SERVED else asked, device=device, cache=cache)
        model = loaded.setdefault(loaded[asked].round_id, loaded[asked])
        refine = given.endswith(_SAM)
        name = model.round_id + (_SAM if refine else "")
        if any(other.name == name for other in models):
            raise UserError(f"{given}: {name} is named twice; name two different rounds, or one with and without +sam")
        models.append(EvaluatedModel(name, model, refine, trained_of(study.ledger, model.round_id)))
    return models


def evaluate(
    study: Study, models: Sequence[EvaluatedModel], cases: EvaluationCases, output: Path, options: RunOptions
) -> Evaluation:
    """Measure models on labelled cases, one after the other, and write results and report.

    Args:
        study: the study.
        models: one, or two to compare.
        cases: the cases.
        output: folder for ``evaluation.json`` and ``report.html``; created if missing.
        options: further options.

    Raises:
        UserError: no case can be measured.
    """
    task, failed = study.task, dict[str, str]()
    measured: list[MeasuredCase] = []
    progress = StepReport(options.report, "measuring")
    progress(0, len(cases.sources))
    for number, source in enumerate(cases.sources, 1):
        try:
            measured.append(measure_case(source, models, task, of_study=cases.of_study))
        except Exception as error:  # any error of a PACS, a disk or a decoder
            failed[source.id] = reason_of(error)
            options.on_failure(source.id, failed[source.id])
        progress(number, len(cases.sources), message=source.id)
    if not measured:
        raise UserError(f"no case can be measured: {next(iter(failed.values()))}")
    summary = summarize(measured, models, task.names)
    content = {
        "samstudent": __version__,
        "time": time.time(),
        "task": task.name,
        "cases_are": cases.description,
        "models": {model.name: _origin(model) for model in models},
        "structures": task.names,
        "summary": as_json(summary),
        "cases": [case.as_json() for case in measured],
        "failed": failed,
    }
    atomic_write(output / RESULTS, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    by_id, of_id = {source.id: source for source in cases.sources}, {case.id: case for case in measured}
    chosen = chosen_cases(measured, models)
    pictures, drawing = [], StepReport(options.report, "drawing pictures")
    for number, (case, reason) in enumerate(chosen.items(), 1):
        pictures.append(case_picture(by_id[case], reason, of_id[case], models, task))
        drawing(number, len(chosen), message=case)
    facts = Facts(
        shlex.join(options.command) if options.command else "samstudent evaluate",
        task.name,
        cases.description,
        {model.name: _described(model, study) for model in models},
        failed,
    )
    write_report(output / REPORT, summary, facts, pictures)
    return Evaluation(summary, failed)


def _origin(model: EvaluatedModel) -> dict[str, Any]:
    """Versions of a model, as JSON."""
    sam = dict(model.model.refiner.facts) if model.refine else None
    return {"round": model.model.round_id, "student": model.model.student.version, "sam": sam}


def _described(model: EvaluatedModel, study: Study) -> str:
    record = study.ledger.get(model.model.round_id)
    pseudo = f" and {record.pseudo_used.n} pseudo labels" if record.pseudo_used.n else ""
    text = f"student {model.model.student.version[:12]} of {len(record.labels_used)} human labels{pseudo}"
    if not model.refine:
        return text
    facts = model.model.refiner.facts
    recipes = "the task's recipe" if facts["recipes"] == "task" else f"the recipes of {facts['recipes']}"
    return f"{text}; masks refined by SAM ({facts['backend']}) with {recipes}"
