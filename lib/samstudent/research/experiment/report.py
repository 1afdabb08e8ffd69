"""Results of an experiment as JSON, and as one HTML file with tables, curves and pictures."""

from __future__ import annotations

import io
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from samstudent.errors import UserError
from samstudent.imaging.case import for_sam
from samstudent.pseudolabels.case import binarize
from samstudent.pseudolabels.policy import skip_reason_of
from samstudent.research.experiment import summary, work
from samstudent.research.experiment.methods import METHODS
from samstudent.research.experiment.plan import Job, Options, Setting
from samstudent.research.html import installed_versions, percent, points, render
from samstudent.research.pictures import Panel, case_panels, fullest_slice, reliability_picture
from samstudent.research.report import Picture, best_median_worst
from samstudent.rounds.scoring import not_converged
from samstudent.student.predict import Student
from samstudent.util.files import atomic_write

#: Longest side of a case's picture, in pixels of the image.
_PICTURE = 512


def write_results(
    setting: Setting, options: Options, jobs: Mapping[str, Job], failed: Mapping[str, str]
) -> dict[str, Any]:
    """Collect what the jobs left and write ``results.json`` and ``report.html``; the JSON's content comes back."""
    measured = [job for key, job in jobs.items() if job.kind == "evaluate" and key not in failed]
    results = [json.loads(work.result_path(setting.output, job.params).read_text()) for job in measured]
    lines = summary.table(results)
    main = "ours" if any(r["method"] == "ours" for r in results) else "labels"
    learnt = _learnt(setting, jobs, failed)
    content: dict[str, Any] = {
        "command": options.command,
        "when": time.strftime("%Y-%m-%d %H:%M %Z"),
        "versions": installed_versions(),
        "options": options.as_json(),
        "task": setting.task.model_dump(mode="json"),
        "cases": {
            "labelled": {str(n): setting.labelled(n) for n in sorted(set(options.labels))},
            "unlabelled": {str(n): len(setting.rest(n)) for n in sorted(set(options.labels))},
            "all": len(setting.labelled(None)),
            setting.split: list(setting.test),
        },
        "failed": [{"job": jobs[key].label, "why": why} for key, why in failed.items()],
        "table": [asdict(line) for line in lines],
        "pairs": [asdict(pair) for pair in summary.pairs(results, main)],
        "quality": [asdict(found) for found in _qualities(setting, jobs, failed, results)],
        "learnt": learnt,
        "warnings": _not_converged(results)
        + [f"{label}: {told}" for label, found in learnt.items() if (told := skip_reason_of(found["record"]))],
        "seconds": _seconds(setting, jobs),
        "results": results,
    }
    atomic_write(setting.output / "results.json", json.dumps(_plain(content), indent=1))
    try:
        pictures = _pictures(setting, measured, results, main)
    except UserError as error:
        # Of an older version of the program: the figures are there, the network is another.
        content["failed"].append({"job": "pictures", "why": str(error)})
        pictures = []
    write_report(setting.output / "report.html", setting, content, lines, pictures)
    return content


def _not_converged(results: Sequence[summary.Result]) -> list[str]:
    """Which students that learned from human labels alone have not learnt even these."""
    found = []
    for r in results:
        if r["method"] in ("labels", "all") and r.get("fit") is not None and (told := not_converged(r["fit"])):
            labels = "all" if r["labels"] is None else r["labels"]
            found.append(f"{r['method']}, {labels} labels, seed {r['seed']}: {told} (--steps)")
    return found


def write_report(
    path: Path,
    setting: Setting,
    content: Mapping[str, Any],
    lines: Sequence[summary.Line],
    pictures: Sequence[Picture] = (),
) -> None:
    """Write the HTML report.

    Args:
        content: of results.json.
        lines: of ``summary.table``.
        pictures: of cases.
    """
    labels = sorted({line.labels for line in lines if line.labels is not None})
    by_key = {(line.method, line.labels): line for line in lines}
    methods = list(dict.fromkeys(line.method for line in lines))
    reliable = {
        f"{q['cases']}, {q['labels']} labels": q["reliability"]
        for q in content["quality"]
        if q["reliability"] and q["method"] == "ours"
    }
    html = render(
        "experiment.html",
        title=f"{setting.task.name}: {len(methods)} methods, {_enumerate(labels)} labels",
        content=content,
        setting=setting,
        labels=labels,
        methods=methods,
        meanings={name: METHODS[name].meaning for name in methods if name in METHODS},
        line=lambda method, n: by_key.get((method, n)) or by_key.get((method, None)),
        seeds=sorted({seed for line in lines for seed in line.seeds}),
        findings=findings(content["pairs"], lines),
        curves=learning_curves(lines) if lines else None,
        reliability=reliability_picture(reliable) if reliable else None,
        pictures=pictures,
        nan=math.nan,
    )
    atomic_write(path, html)


def findings(pairs: Sequence[Mapping[str, Any]], lines: Sequence[summary.Line]) -> list[str]:
    """What the comparison of labels only with the main method says, a sentence for each number of labels."""
    sentences = []
    for pair in pairs:
        if {pair["method"], pair["other"]} != {"ours", "labels"}:
            continue
        low, high = pair["interval"]
        verdict = "above" if low > 0 else "below" if high < 0 else "no different within the interval from"
        line = next(x for x in lines if (x.method, x.labels) == ("ours", pair["labels"]))
        way = "" if math.isnan(line.closed) else f"; {100 * line.closed:.0f} % of the way to all labels"
        sentences.append(
            f"At {pair['labels']} labels, ours is {verdict} labels only: {points(pair['difference'])} points of Dice "
            f"(95 % interval {points(low)} to {points(high)}){way}."
        )
    return sentences


def learning_curves(lines: Sequence[summary.Line]) -> bytes:
    """Honest Dice over the number of labels, a curve for each method with its spread over seeds, as PNG."""
    figure = Figure(figsize=(8.4, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    methods = list(dict.fromkeys(line.method for line in lines if line.labels is not None))
    for number, method in enumerate(methods):
        own = sorted((x for x in lines if x.method == method and x.labels is not None), key=lambda x: x.labels or 0)
        # Side by side: bars of one number of labels would hide each other.
        shift = 1 + 0.02 * (number - (len(methods) - 1) / 2)
        axes.errorbar(
            [(x.labels or 0) * shift for x in own],
            [100 * x.honest[0] for x in own],
            [0 if math.isnan(x.honest[1]) else 100 * x.honest[1] for x in own],
            marker="o",
            ms=5 if method in ("ours", "labels") else 3.5,
            linewidth=2.2 if method == "ours" else 1.1,
            color="black" if method == "labels" else f"C{number % 10}",
            linestyle="--" if number >= 10 else "-",
            capsize=2,
            label=method,
        )
    for line in lines:
        if line.labels is None:
            mean, spread = (100 * v for v in line.honest)
            axes.axhline(mean, color="0.5", linestyle=":", linewidth=1.2, label=f"{line.method} labels")
            if not math.isnan(spread):
                axes.axhspan(mean - spread, mean + spread, color="0.5", alpha=0.12, linewidth=0)
    ticks = sorted({line.labels for line in lines if line.labels is not None})
    if len(ticks) > 1:
        axes.set_xscale("log")
    elif ticks:  # methods are drawn side by side, not from end to end
        axes.set_xlim(0.5 * ticks[0], 1.5 * ticks[0])
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set(xlabel="labelled cases", ylabel="Dice (%), mean and spread over seeds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return _png(figure)


def _qualities(
    setting: Setting, jobs: Mapping[str, Job], failed: Mapping[str, str], results: Sequence[summary.Result]
) -> list[summary.Quality]:
    """Of the pseudo labels of each method that makes some, seeds together."""
    rows: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    taught: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for key, job in jobs.items():
        if key in failed:
            continue
        if job.kind == "evaluate" and (pseudo := job.needs["student"].needs.get("pseudo")):
            source, which = pseudo, (job.params["method"], job.params["labels"], "unlabelled")
        elif job.kind == "trusted" and set(job.params["ids"]) <= set(setting.test):
            source, which = job, ("ours", len(job.params["labelled"]), "test")
        else:
            continue
        content = json.loads((setting.work_folder(source.kind, source.key) / "labels.json").read_text())
        rows.setdefault(which, []).extend(content["rows"])
        if which[2] == "unlabelled":
            taught[which].add("probabilities" if content.get("soft") else "masks")
    found = [(which, summary.quality(*which, some)) for which, some in rows.items()]
    return [replace(q, taught=", ".join(sorted(taught[which]))) for which, q in found if q is not None]


def _learnt(setting: Setting, jobs: Mapping[str, Job], failed: Mapping[str, str]) -> dict[str, Any]:
    """What each ``policy`` job found, by its label."""
    from samstudent.research.experiment.ours import describe

    return {
        job.label: describe(setting.work_folder(job.kind, key))
        for key, job in jobs.items()
        if job.kind == "policy" and key not in failed
    }


def _seconds(setting: Setting, jobs: Mapping[str, Job]) -> dict[str, dict[str, float]]:
    """By kind of job: how many, and seconds of all together."""
    words = {
        "prepare": "reading cases", "embed": "embedding images", "student": "training students",
        "students": "training students on folds", "heads": "training embedding heads",
        "head": "training the embedding head of the second round",
        "policy": "adaptation, choice of recipes, quality model",
        "nnunet": "nnU-Net", "pseudo": "making pseudo labels (others)", "trusted": "making pseudo labels (ours)",
        "evaluate": "measuring",
    }  # fmt: skip
    found: dict[str, dict[str, float]] = {}
    for key, job in jobs.items():
        path = setting.work_folder(job.kind, key) / "done.json"
        if path.is_file():
            entry = found.setdefault(words.get(job.kind, job.kind), {"jobs": 0, "seconds": 0.0})
            entry["jobs"] += 1
            entry["seconds"] += json.loads(path.read_text())["seconds"]
    return found


def _pictures(setting: Setting, measured: Sequence[Job], results: Sequence[summary.Result], main: str) -> list[Picture]:
    """The best, median and worst test case of the main method, of its fewest labels and first seed."""
    at = {(r["method"], r["labels"], r["seed"]): job for r, job in zip(results, measured, strict=True)}
    chosen = next((r for r in results if r["method"] == main), None)
    if chosen is None:
        return []
    n, seed, task = chosen["labels"], chosen["seed"], setting.task
    scores = dict(zip(chosen["cases"], [float(v) for v in _case_means(chosen)], strict=True))
    models = {}
    for method in dict.fromkeys(["labels", main]):
        if job := at.get((method, n, seed)):
            student = job.needs["student"]
            models[method] = Student.load(setting.work_folder(student.kind, student.key) / "model.pt", task)
    others = {r["method"]: r for r in results if (r["labels"], r["seed"]) == (n, seed)}
    pictures = []
    for word, case in best_median_worst(scores).items():
        image, truth = setting.store.image(case), setting.store.truth(case)
        assert truth is not None
        stacks = {"truth": truth.masks, **{m: binarize(student.predict(image), task) for m, student in models.items()}}
        shown = for_sam(image, task.image)
        if task.dimension == 3:
            z = fullest_slice([truth.masks], len(shown))
            shown, stacks = shown[z], {title: masks[:, z] for title, masks in stacks.items()}
        step = max(1, math.ceil(max(shown.shape[:2]) / _PICTURE))
        panels = [Panel("image")]
        for title, masks in stacks.items():
            figure = "" if title == "truth" else f": {percent(_case_mean(others[title], case))}"
            word_of = "labels only" if title == "labels" else title
            panels.append(Panel(f"{word_of}{figure}", masks[:, ::step, ::step]))
        caption = f"Case {case}; Dice in percent, mean over the structures that truth or answer show."
        png = case_panels(shown[::step, ::step], panels, task.names, height=3.0)
        pictures.append(Picture(f"{word} test case of {main}, {n} labels, seed {seed}".capitalize(), png, caption))
    return pictures


def _case_means(result: summary.Result) -> list[float]:
    dice = summary.dice_of(result)
    return [float(np.nanmean(row)) if np.isfinite(row).any() else math.nan for row in dice]


def _case_mean(result: summary.Result, case: str) -> float:
    return dict(zip(result["cases"], _case_means(result), strict=True))[case]


def _enumerate(numbers: Sequence[int]) -> str:
    words = [str(n) for n in numbers]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _plain(value: Any) -> Any:
    """For JSON, which has no nan."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="white")
    return stream.getvalue()
