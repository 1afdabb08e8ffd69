"""Functions of the jobs: each reads its parameters and the folders of the jobs that it needs, and writes its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from samstudent.engine.store import ContentStore, content_key
from samstudent.imaging.case import for_sam
from samstudent.pseudolabels.out_of_fold import spread_out
from samstudent.pseudolabels.teacher import Teacher
from samstudent.research.cases import LazyCases
from samstudent.research.experiment import baselines, nnunet, ours
from samstudent.research.experiment.measure import measure, number, quality_rows
from samstudent.research.experiment.plan import Job
from samstudent.research.setting import Setting
from samstudent.rounds.scoring import MAX_TRAIN_DICE_CASES, train_dice
from samstudent.sam.model import SamModel
from samstudent.sam.registry import load_backend
from samstudent.student.predict import Student, binarize
from samstudent.student.training import MeanTeacher, TrainedStudent, TrainingOptions, train_student
from samstudent.task import SamSection
from samstudent.util.files import atomic_write
from samstudent.util.progress import Progress, Report, StepReport

MODEL, RESULT, TRAINING, ROWS = "model.pt", "result.json", "training.json", "pseudo_labels.json"


@dataclass(frozen=True)
class JobRun:
    """Context of one job's function.

    Attributes:
        setting: setting of the experiment.
        job: the job.
        report: callback for the progress.
    """

    setting: Setting
    job: Job
    report: Report

    @property
    def params(self) -> Mapping[str, Any]:
        """Parameters of the job."""
        return self.job.params

    @property
    def folder(self) -> Path:
        """The job's own folder."""
        return self.job.folder(self.setting.work)

    def needed(self, name: str) -> Path | None:
        """Folder of a needed job by its role; None: the job needs no such job."""
        job = self.job.needs.get(name)
        return None if job is None else job.folder(self.setting.work)


@dataclass(frozen=True)
class JobWork:
    """Work of an engine: one job with its key."""

    setting: Setting
    job: Job

    def is_done(self, key: str) -> bool:
        """Whether the job has been done."""
        return (self.job.folder(self.setting.work) / "done.json").is_file()

    def __call__(self, key: str, report: Report) -> None:
        """Do the job and mark it as done."""
        run = JobRun(self.setting, self.job, report)
        run.folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        KINDS[self.job.kind](run)
        content = {"kind": self.job.kind, "seconds": round(time.monotonic() - started, 2)}
        atomic_write(run.folder / "done.json", json.dumps(content))


@dataclass(frozen=True)
class EmbedImages:
    """Work of an engine: SAM's embeddings of 2D images, into the cache of all jobs. Keys: see ``key_of``.

    Attributes:
        setting: setting of the experiment.
        ids: key -> case id.
    """

    setting: Setting
    ids: Mapping[str, str]

    def is_done(self, key: str) -> bool:
        """Whether the image has been embedded."""
        return key in self._marks

    def __call__(self, key: str, report: Report) -> None:
        """Embed an image."""
        image = self.setting.cases.image(self.ids[key])
        pixels = for_sam(image, self.setting.task.image)
        self.setting.embedding_cache.embed(sam_of(self.setting.task.sam), pixels)
        self._marks.write(key, "")

    @property
    def _marks(self) -> ContentStore:
        return ContentStore(self.setting.embeddings / "done", "")

    @staticmethod
    def key_of(setting: Setting, id: str) -> str:
        """Key of a case: digest of its content and of SAM."""
        return content_key(setting.cases.prepared(id).key, setting.task.sam.model_dump(mode="json"))


def train(run: JobRun) -> None:
    """Train a student, ``model.pt``, and measure its Dice on training labels."""
    params, cases, task = run.params, run.setting.cases, run.setting.task
    readers = [partial(cases.training_case, id) for id in params["labelled"]]
    if (pseudo := run.needed("pseudo")) is not None:
        labels, weights = cases.pseudo_labels(pseudo), np.ones(len(task.names))
        readers += [
            partial(labels.training_case, cases.prepared(id, hidden=True), "raw", weights)
            for id in json.loads((pseudo / ROWS).read_text())["trains"]
        ]
    start = run.needed("start")
    unlabelled = [cases.unlabelled_case(id) for id in params.get("unlabelled", [])]
    options = TrainingOptions(
        params["steps"],
        params["seed"],
        start=None if start is None else start / MODEL,
        on_step=StepReport(run.report, "training"),
        teacher=MeanTeacher(unlabelled) if unlabelled else None,
    )
    trained = train_student(LazyCases(readers), task, run.folder / MODEL, options)
    student = Student.load(run.folder / MODEL, task)
    known = map(cases.labelled, spread_out(params["labelled"], MAX_TRAIN_DICE_CASES))
    write_training(run.folder, trained, train_dice(student, known, task))


def pseudo_label(run: JobRun) -> None:
    """Pseudo labels of cases by another method, and rows on their quality where labels are known."""
    cases, task = run.setting.cases, run.setting.task
    teacher = _teacher(run)
    refine, labels = MASKS[run.params["how"]](run), cases.pseudo_labels(run.folder)
    trains, rows = [], []
    for done, id in enumerate(run.params["ids"], 1):
        image = cases.image(id)
        probabilities = teacher.predict(image)
        masks = refine(image, probabilities)
        # A case without any mask would train the background everywhere, although structures may be present.
        if masks.any():
            labels.save_raw(cases.prepared(id, hidden=True), image, masks, {})
            trains.append(id)
        rows += quality_rows(id, cases.truth(id), binarize(probabilities, task), masks, task)
        run.report(Progress("pseudo labels", done, len(run.params["ids"])))
    atomic_write(run.folder / ROWS, json.dumps({"trains": trains, "targets": "masks", "rows": rows}))


def _teacher(run: JobRun) -> Student | Teacher:
    """The teacher of pseudo labels: a student, or those of a round, of which the full one becomes ``model.pt``."""
    task = run.setting.task
    if (teacher := run.needed("teacher")) is not None:
        return Student.load(teacher / MODEL, task)
    done = run.needed("round")
    assert done is not None
    students = ours.cross_fitted(done, task)
    assert students.full_student is not None
    shutil.copyfile(done / ours.FULL_STUDENT, run.folder / MODEL)
    return students


def product_round(run: JobRun) -> None:
    """One round of the product, ``model.pt``, and rows on the quality of its pseudo labels."""
    backend = sam_of(run.setting.task.sam, run.params["changes"].get("random_sam"))
    result, record = ours.run(run.setting, run.params, run.folder, run.needed("champion"), backend, run.report)
    write_training(run.folder, result.training, result.train_dice)
    atomic_write(run.folder / ROWS, json.dumps(record))


def write_training(folder: Path, training: TrainedStudent, dice: float) -> None:
    """Write how a student was trained, and its Dice on training labels."""
    content = training.as_json() | {"warning": training.warning, "dice": number(dice)}
    atomic_write(folder / TRAINING, json.dumps(content))


def run_nnunet(run: JobRun) -> None:
    """Train nnU-Net and keep its masks of the test cases."""
    params = run.params
    nnunet.run(run.setting.cases, params["labelled"], params["ids"], params["seed"], run.folder)


def evaluate(run: JobRun) -> None:
    """Measure a student on the cases of the split, into ``result.json``."""
    params, cases, task = run.params, run.setting.cases, run.setting.task
    folder = run.needed("student")
    assert folder is not None
    masks = nnunet.PREDICTIONS if (folder / nnunet.PREDICTIONS).is_dir() else None
    student = None if masks else Student.load(folder / MODEL, task)
    found = {}
    for done, id in enumerate(params["ids"], 1):
        image, truth = cases.labelled(id)
        if student is None:
            predicted = nnunet.prediction(folder / nnunet.PREDICTIONS, id, truth.masks.shape)
        else:
            predicted = binarize(student.predict(image), task)
        found[id] = measure(truth, predicted, image.grid.spacing)
        run.report(Progress("measuring", done, len(params["ids"])))
    recorded = folder / TRAINING
    result: dict[str, Any] = {key: params[key] for key in ("method", "labels", "seed", "split")}
    result |= {"structures": task.names, "training_seconds": json.loads((folder / "done.json").read_text())["seconds"]}
    # nnU-Net's has no such file.
    training = json.loads(recorded.read_text()) if recorded.is_file() else {}
    result["train_dice"] = training.get("dice")
    result["training"] = {key: training.get(key) for key in ("steps", "ending", "rise", "warning")}
    atomic_write(run.folder / RESULT, json.dumps(result | {"cases": found}, indent=1))


def sam_of(section: SamSection, random_seed: int | None = None) -> SamModel:
    """SAM of a task, built once in a process; with a seed its weights are shuffled."""
    return _sam(section.model_dump_json(), random_seed)


@lru_cache(maxsize=2)
def _sam(section: str, random_seed: int | None) -> SamModel:
    backend = load_backend(SamSection.model_validate_json(section))
    return backend if random_seed is None else ours.shuffled(backend, random_seed)


def _paper(run: JobRun) -> baselines.RefineMasks:
    return baselines.paper(run.setting.task, sam_of(run.setting.task.sam), run.setting.embedding_cache)


#: Masks of other methods by name.
MASKS: dict[str, Callable[[JobRun], baselines.RefineMasks]] = {
    "raw": lambda run: baselines.raw(run.setting.task),
    "largest": lambda run: baselines.largest(run.setting.task),
    "walker": lambda run: baselines.walker(run.setting.task),
    "paper": _paper,
}
KINDS: dict[str, Callable[[JobRun], None]] = {
    "student": train,
    "pseudo": pseudo_label,
    "round": product_round,
    "nnunet": run_nnunet,
    "evaluate": evaluate,
}
