"""``results.json`` of an experiment: the command, versions, cases, tables, and every measurement."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from samstudent.errors import UserError
from samstudent.research.experiment import summary, work
from samstudent.research.experiment.case_pictures import case_pictures
from samstudent.research.experiment.plan import ExperimentOptions, Job
from samstudent.research.experiment.report import write_report
from samstudent.research.html import Picture, installed_versions
from samstudent.research.setting import Setting
from samstudent.rounds.scoring import not_converged
from samstudent.task import BOX_MODELS, multiple
from samstudent.util.files import atomic_write

#: Work of a kind of job, for the report.
_WORK = {
    "student": "training students", "pseudo": "making pseudo labels of other methods", "round": "rounds of the product",
    "nnunet": "nnU-Net", "evaluate": "measuring",
}  # fmt: skip


def write_results(
    setting: Setting, options: ExperimentOptions, jobs: Mapping[str, Job], failed: Mapping[str, str]
) -> dict[str, Any]:
    """Collect the results of the jobs and write ``results.json`` and ``report.html``.

    Args:
        setting, options: setting and options of the experiment.
        jobs: jobs by key.
        failed: key of a failed job -> reason.

    Returns:
        The content of results.json.
    """
    done = {key: job for key, job in jobs.items() if key not in failed}
    measured = [job for job in done.values() if job.kind == "evaluate"]
    results = [json.loads((job.folder(setting.work) / work.RESULT).read_text()) for job in measured]
    main = "ours" if any(r["method"] == "ours" for r in results) else "labels"
    numbers = sorted(set(options.labels))
    rounds = _rounds(setting, done)
    content: dict[str, Any] = {
        "command": options.command,
        "when": time.strftime("%Y-%m-%d %H:%M %Z"),
        "versions": installed_versions(),
        "options": asdict(options) | {"folder": options.folder.as_json()},
        "task": setting.task.model_dump(mode="json"),
        "steps": multiple(2, setting.steps),
        "cases": {
            "labelled": {str(n): setting.labelled(n) for n in numbers},
            "unlabelled": {str(n): len(setting.rest(n)) for n in numbers},
            "all": len(setting.labelled(None)),
            setting.split: list(setting.test),
        },
        "failed": [{"job": jobs[key].label, "reason": reason} for key, reason in failed.items()],
        "table": [asdict(line) for line in summary.table(results)],
        "pairs": [asdict(pair) for pair in summary.pairs(results, main)],
        "quality": [asdict(found) for found in _qualities(setting, measured)],
        "rounds": rounds,
        "published": None if options.published is None else asdict(options.published),
        "warnings": [*options.notes, *_warnings(setting, results, rounds)],
        "seconds": _seconds(setting, done),
        "results": results,
    }
    content = plain(content)
    atomic_write(setting.output / "results.json", json.dumps(content, indent=1))
    pictures: Sequence[Picture] = []
    try:
        pictures = case_pictures(setting, measured, results, main)
    except UserError as error:
        # Models of an older version with another network: only the pictures are missing.
        content["failed"].append({"job": "pictures", "reason": str(error)})
    write_report(setting.output / "report.html", content, pictures)
    return content


def _warnings(setting: Setting, results: Sequence[summary.Result], rounds: Mapping[str, Any]) -> list[str]:
    """Warnings on students that did not fit their labels or had not converged, on the paper's recipe with a SAM that it
    does not suit, and on rounds without pseudo labels."""
    found = []
    if setting.task.sam.backend in BOX_MODELS and any(r["method"] == "paper" for r in results):
        found.append(
            f"paper: {setting.task.sam.backend} was trained with boxes only. The second stage of the recipe prompts it "
            "with points, from which it makes poor masks; a checkpoint of SAM (sam.backend: vit_h) is what the recipe "
            "was published with"
        )
    for r in results:
        low = None
        if r["method"] in ("labels", "all") and r["train_dice"] is not None:
            low = not_converged(r["train_dice"], r["training"]["ending"])
        labels = "all" if r["labels"] is None else r["labels"]
        found += [
            f"{r['method']}, {labels} labels, seed {r['seed']}: {why}" for why in (low, r["training"]["warning"]) if why
        ]
    return found + [f"{label}: {record['skip_reason']}" for label, record in rounds.items() if record["skip_reason"]]


def _rounds(setting: Setting, jobs: Mapping[str, Job]) -> dict[str, Any]:
    """Record of each round of the product by its label, without single pseudo labels."""
    records = {
        job.label: json.loads((job.folder(setting.work) / work.ROWS).read_text())
        for job in jobs.values()
        if job.kind == "round"
    }
    return {
        label: {k: v for k, v in record.items() if k not in ("rows", "trains")} for label, record in records.items()
    }


def _qualities(setting: Setting, measured: Sequence[Job]) -> list[summary.Quality]:
    """Quality of the pseudo labels of each method that makes some, all seeds together."""
    rows: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    targets: dict[tuple[str, int], set[str]] = defaultdict(set)
    for job in measured:
        student = job.needs["student"]
        source = student if student.kind == "round" else student.needs.get("pseudo")
        if source is not None:
            which = job.params["method"], job.params["labels"]
            record = json.loads((source.folder(setting.work) / work.ROWS).read_text())
            rows[which] += record["rows"]
            targets[which].add(record["targets"] or "nothing")
    found = [summary.quality(*which, some, ", ".join(sorted(targets[which]))) for which, some in rows.items()]
    return [quality for quality in found if quality is not None]


def _seconds(setting: Setting, jobs: Mapping[str, Job]) -> dict[str, dict[str, float]]:
    """Number of jobs and their total seconds, by kind."""
    found: dict[str, dict[str, float]] = {}
    for job in jobs.values():
        entry = found.setdefault(_WORK[job.kind], {"jobs": 0, "seconds": 0.0})
        entry["jobs"] += 1
        entry["seconds"] += json.loads((job.folder(setting.work) / "done.json").read_text())["seconds"]
    return found


def plain(value: Any) -> Any:
    """JSON values: None for nan, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
