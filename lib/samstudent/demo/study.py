"""Study of the demo: images for the server, and true masks for the simulated annotator."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

from samstudent.demo import phantom
from samstudent.errors import NotFound, UserError
from samstudent.imaging.file_names import LABELS, row_id
from samstudent.imaging.folder import list_folder
from samstudent.task import Task
from samstudent.util.progress import Report, no_report

#: Hold-out cases of the synthetic study. Fewer than ``fair.MIN_HELD``: with more, the champion is part of the teacher,
#: and its embedding head takes minutes.
PHANTOM_HOLDOUT = 4


@dataclass(frozen=True)
class DemoStudy:
    """Study of the demo.

    Attributes:
        folder: study folder of the server, or folder of the images that are in the PACS.
        truth: label files by case id, outside of ``folder``.
        train: ids of the training cases, in the order of ``train_order``.
        holdout: ids of the hold-out cases.
        bits: whether label files are bit masks (folder labels_overlap/): bit v-1 is the structure of value v.
    """

    folder: Path
    truth: dict[str, Path]
    train: list[str]
    holdout: list[str]
    bits: bool


def make_phantom_study(output: Path, cases: int, seed: int, report: Report = no_report) -> DemoStudy:
    """Study of synthetic radiographs in ``output``: ``cases`` training cases and the hold-out."""
    source = output / "phantoms"
    phantom.make_study(source, cases + PHANTOM_HOLDOUT, seed, holdout=PHANTOM_HOLDOUT, report=report)
    return prepare_study(source, output, cases)


def prepare_study(source: Path, output: Path, limit: int) -> DemoStudy:
    """Study with the images of a labelled folder, copied to ``output/study``.

    Args:
        source: folder with ``images/``, ``labels/`` (label maps or .seg.nrrd) or ``labels_overlap/`` (one bit per
            structure), and ``split.csv`` (id, split, train_order). Rows ``val`` are the hold-out, ``test`` is not used.
        output: folder of the demo.
        limit: maximum number of training cases, the first by ``train_order``.

    Raises:
        NotFound: a folder or the split is missing. UserError: a case of the split has no image or no label.
    """
    labels, bits = source / "labels", False
    if not labels.is_dir():
        labels, bits = source / "labels_overlap", True
    for needed in (source / "images", labels, source / "split.csv"):
        if not needed.exists():
            raise NotFound(f"{needed}: the demo needs images/, labels/ (or labels_overlap/) and split.csv in {source}")
    train, holdout = _read_split(source / "split.csv")
    train = train[:limit]
    images, truth = list_folder(source / "images").files, list_folder(labels, LABELS).files
    folder = output / "study"
    folder.mkdir(parents=True, exist_ok=True)
    for case in [*train, *holdout]:
        if case not in images or case not in truth:
            raise UserError(f"{source / 'split.csv'}: case {case!r} has no image or no label in {source}")
        shutil.copyfile(images[case], folder / images[case].name)
    with (folder / "split.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split"])
        writer.writerows([[case, "train"] for case in train] + [[case, "val"] for case in holdout])
    return DemoStudy(folder, truth, train, holdout, bits)


def check_empty(output: Path) -> None:
    """Create an empty output folder; the files of an earlier demo are removed.

    Raises:
        UserError: the folder contains other files.
    """
    if output.exists() and any(output.iterdir()):
        if not (output / ".samstudent-demo").exists():
            raise UserError(f"{output}: not empty, and not the output of an earlier demo; choose another --output")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / ".samstudent-demo").touch()


def _read_split(path: Path) -> tuple[list[str], list[str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [row | {"id": row_id(row["id"])} if "id" in row else row for row in rows]
    if not rows or not {"id", "split"} <= set(rows[0]):
        raise UserError(f"{path}: required columns are id and split; train_order is optional")
    train = [row for row in rows if row["split"] == "train"]
    train.sort(key=lambda row: int(row.get("train_order") or 0))
    holdout = [row["id"] for row in rows if row["split"] == "val"]
    if not train or not holdout:
        raise UserError(f"{path}: at least one row 'train' and one row 'val' are required")
    return [row["id"] for row in train], holdout


def task_with(task: Task, steps: int | None, every_labels: int) -> Task:
    """Task with the schedule of the demo, without further rounds on the same labels.

    Args:
        task: original task.
        steps: training steps; None: those of the task.
        every_labels: number of new labels after which the schedule starts a round.
    """
    changes: dict[str, object] = {
        "schedule": task.schedule.model_copy(update={"every_labels": every_labels, "at": None, "repeat": False})
    }
    if steps is not None:
        changes["training"] = task.training.model_copy(update={"steps": steps})
    return task.model_copy(update=changes)
