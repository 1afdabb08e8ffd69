"""What pseudo labels are worth: the last row of issue 2's "To measure".

    python benchmarks/pseudo_labels.py --output pseudo_labels.json

Ultrasound, 30 labels (the first by train_order), one seed. Four students, each from fresh weights with the same number
of steps: on the 30 labels; on these and the first student's own masks of the other training images; on these and its
masks redrawn by SAM, gated and weighted by quality; on all labels. Dice on the test split, on which nothing was chosen.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from samstudent.evaluation.metrics import StructureScore, dice_per_structure, dice_table, mean_of
from samstudent.images import read_image
from samstudent.labels import read_masks
from samstudent.pseudolabels.case import PseudoLabel, own_masks, pseudo_label_case
from samstudent.pseudolabels.quality import training_weights
from samstudent.sam.backends import load_backend
from samstudent.sam.cache import EmbeddingCache
from samstudent.student.cases import discount_absences
from samstudent.student.data import TrainingCase, prepare_case
from samstudent.student.predict import Student
from samstudent.student.training import train_student
from samstudent.task import Task, load_task

console = Console()


class Data:
    """A folder with images/, labels/ and split.csv."""

    def __init__(self, folder: Path, task: Task, limit: int | None) -> None:
        self.folder, self.task = folder, task
        with (folder / "split.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        ordered = sorted((r for r in rows if r["split"] == "train"), key=lambda r: int(r["train_order"]))
        self.train = [r["id"] for r in ordered][:limit]
        self.test = [r["id"] for r in rows if r["split"] == "test"][:limit]

    def read(self, case: str) -> tuple[Any, Any]:
        """The image and its true masks."""
        image = read_image(self._path("images", case), self.task.dimension)
        return image, read_masks(self._path("labels", case), self.task, image.grid)

    def _path(self, kind: str, case: str) -> Path:
        return next(p for p in sorted((self.folder / kind).iterdir()) if p.name.split(".")[0] == case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "ultrasound"
    parser.add_argument("--data", type=Path, default=shared)
    parser.add_argument("--task", default="ultrasound")
    parser.add_argument("--labels", type=int, default=30)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--size", type=int, nargs="+", default=[192, 192], help="the student's, y x")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use only so many train and test images, to try the script")
    parser.add_argument("--work", type=Path, help="keeps models and embeddings; default: a temporary folder")
    parser.add_argument("--output", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    task = load_task(options.task)
    task = task.model_copy(update={"student": task.student.model_copy(update={"size": tuple(options.size)})})
    with tempfile.TemporaryDirectory() as temporary:
        result = run(options, task, Data(options.data, task, options.limit), options.work or Path(temporary))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1))


def run(options: argparse.Namespace, task: Task, data: Data, work: Path) -> dict[str, Any]:
    pool, rest = data.train[: options.labels], data.train[options.labels :]
    true = {case: (data.read(case)) for case in track(data.train, "reading", console=console)}
    human = {case: prepare_case(case, *true[case], task) for case in data.train}
    labelled = [human[case] for case in pool]

    def train(arm: str, cases: list[TrainingCase]) -> tuple[list[StructureScore], float]:
        path, started = work / f"{arm}.pt", time.monotonic()
        with Progress(console=console) as bar:
            job = bar.add_task(f"training: {arm} ({len(cases)} cases)", total=options.steps)
            train_student(
                cases, task, path, steps=options.steps, seed=options.seed,
                on_step=lambda step, steps, loss: bar.update(job, completed=step, total=steps),
            )  # fmt: skip
        return score(Student.load(path, task), data, task), time.monotonic() - started

    arms = {"labels only": train("labels only", labelled)}
    student = Student.load(work / "labels only.pt", task)
    backend, cache = load_backend(task.sam), EmbeddingCache(work / "embeddings")
    labels = {
        case: pseudo_label_case(true[case][0], student, backend, task, cache)
        for case in track(rest, "pseudo labels by student and SAM", console=console)
    }
    quality = describe(labels, {case: true[case][1] for case in rest}, task)
    raw = [prepare_case(c, true[c][0], labels[c].raw, task, human=False) for c in rest if labels[c].raw.any()]
    arms["+ raw pseudo labels"] = train("raw", labelled + raw)
    refined = [gated(c, true[c][0], labels[c], task) for c in rest if labels[c].masks.any()]
    trusted = discount_absences(labelled + refined, {case.id for case in refined})
    arms["+ SAM pseudo labels"] = train("sam", trusted)
    arms["all labels"] = train("all", list(human.values()))
    show(arms, task, f"{len(pool)} labels, {len(rest)} other images, {options.steps} steps, seed {options.seed}")
    figures = {arm: {s.name: {"mean": s.mean, "honest": s.honest} for s in rows} for arm, (rows, _) in arms.items()}
    return {"options": {k: str(v) for k, v in vars(options).items()}, "test": figures, "pseudo_labels": quality}


def gated(case: str, image: Any, label: PseudoLabel, task: Task) -> TrainingCase:
    weights = training_weights(label.info()["structures"], task)
    return prepare_case(case, image, label.masks, task, ignore=label.ignore, weights=weights, human=False)


def score(student: Student, data: Data, task: Task) -> list[StructureScore]:
    truths, answers = [], []
    for case in track(data.test, "testing", console=console, transient=True):
        image, truth = data.read(case)
        truths.append(truth)
        answers.append(own_masks(student.predict(image), task))
    return dice_table(truths, answers, task.names)


def describe(labels: dict[str, PseudoLabel], truths: dict[str, Any], task: Task) -> dict[str, Any]:
    """How good the pseudo labels are themselves, which nobody knows in a real study."""
    table = Table("structure", "raw", "raw where accepted", "SAM where accepted", "accepted", "rejected", "absent")
    result = {}
    for index, name in enumerate(task.names):
        status = {case: label.structures[index].status for case, label in labels.items()}
        raw = {case: dice_per_structure(truths[case], label.raw)[index] for case, label in labels.items()}
        kept = {case: dice_per_structure(truths[case], x.masks)[index] for case, x in labels.items()}
        figures = {
            "raw": mean_of(raw.values()),
            "raw_accepted": mean_of(raw[case] for case in raw if status[case] == "accepted"),
            "sam_accepted": mean_of(kept[case] for case in kept if status[case] == "accepted"),
        }
        counts = {s: list(status.values()).count(s) for s in ("accepted", "rejected", "absent")}
        table.add_row(name, *(f"{100 * v:.1f}" for v in figures.values()), *(str(n) for n in counts.values()))
        result[name] = {"dice": figures, "counts": counts}
    console.print("Pseudo labels against the truth, Dice in %", table)
    return result


def show(arms: dict[str, tuple[list[StructureScore], float]], task: Task, title: str) -> None:
    table = Table("student trained on", *task.names, "mean", "minutes", title=f"Test split, Dice in %. {title}")
    for arm, (rows, seconds) in arms.items():
        dice = {row.name: row.honest for row in rows}
        table.add_row(arm, *(f"{100 * dice[n]:.1f}" for n in [*task.names, "mean"]), f"{seconds / 60:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
