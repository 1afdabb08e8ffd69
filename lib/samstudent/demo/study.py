"""The demo's study: images the server may see, and the truth that only the annotator knows."""

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

#: Phantoms of the hold-out. Fewer than ``fair.MIN_HELD``: with as many, the champion would join the teacher, and its
#: embedding head alone takes minutes.
PHANTOM_HOLDOUT = 4


@dataclass(frozen=True)
class DemoStudy:
    """``folder`` is the server's study folder; ``truth`` maps case ids to label files outside of it."""

    folder: Path
    truth: dict[str, Path]
    train: list[str]
    holdout: list[str]
    #: True where the truth is a bit mask (folder labels_overlap/): bit v-1 is the structure of value v.
    bits: bool
    #: What the server is given as its study, where that is not ``folder``: a PACS's address.
    address: str | None = None


def make_phantom_study(output: Path, cases: int, seed: int, report: Report = no_report) -> DemoStudy:
    """Draw ``cases`` training films and those of the hold-out, then prepare the study from them."""
    source = output / "phantoms"
    phantom.make_study(source, cases + PHANTOM_HOLDOUT, seed, holdout=PHANTOM_HOLDOUT, report=report)
    return prepare_study(source, output, cases)


def prepare_study(source: Path, output: Path, limit: int) -> DemoStudy:
    """Copy the images of ``source`` to ``output/study``; labels stay where they are.

    Args:
        source: a folder with ``images/``, ``labels/`` (label maps or .seg.nrrd) or ``labels_overlap/`` (one bit per
            structure), and ``split.csv`` (id,split,train_order). Rows ``val`` become the hold-out; ``test`` is left out.
        output: the demo's folder.
        limit: at most this many training cases, the first by ``train_order``.

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
    """The demo never mixes with an earlier one's rounds: it asks for a fresh folder."""
    if output.exists() and any(output.iterdir()):
        if not (output / ".samstudent-demo").exists():
            raise UserError(f"{output}: is not empty and not an earlier demo; choose another --output")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / ".samstudent-demo").touch()


def _read_split(path: Path) -> tuple[list[str], list[str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [row | {"id": row_id(row["id"])} if "id" in row else row for row in rows]
    if not rows or not {"id", "split"} <= set(rows[0]):
        raise UserError(f"{path}: needs the columns id, split and, for the order of training cases, train_order")
    train = [row for row in rows if row["split"] == "train"]
    train.sort(key=lambda row: int(row.get("train_order") or 0))
    holdout = [row["id"] for row in rows if row["split"] == "val"]
    if not train or not holdout:
        raise UserError(f"{path}: needs at least one 'train' and one 'val' row")
    return [row["id"] for row in train], holdout


def task_with(task: Task, steps: int | None, every_labels: int) -> Task:
    """The demo's variant of a task: its own number of steps, and a schedule that starts after a few labels."""
    changes: dict[str, object] = {"schedule": task.schedule.model_copy(update={"every_labels": every_labels, "at": None})}
    if steps is not None:
        changes["training"] = task.training.model_copy(update={"steps": steps})
    return task.model_copy(update=changes)
