"""Rounds of a simulation: train, measure, select, for every strategy and seed.

All results are files, so a killed run continues where it stopped, and several processes may work on one output folder:
each locks the strategy and seed that it works on.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console

from samstudent.active_learning.scores import disagreement_score, entropy_score
from samstudent.active_learning.state import Tables
from samstudent.imaging.case import for_sam
from samstudent.metrics import dice_table
from samstudent.research.experiment.methods import Planner
from samstudent.research.experiment.plan import Job
from samstudent.research.experiment.work import MODEL, JobWork, sam_of
from samstudent.research.setting import Setting
from samstudent.research.simulation.choice import NEEDS, Scores, first_cases, pick
from samstudent.research.simulation.options import Simulation
from samstudent.research.simulation.report import write_results
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import coarse_masks
from samstudent.sam.refiner import Refiner
from samstudent.student.predict import Student, binarize
from samstudent.util.files import atomic_write
from samstudent.util.progress import no_report

console = Console()


def simulate(options: Simulation) -> dict[str, Any]:
    """Do the runs that are not done yet, and write ``results.json`` and ``report.html``.

    Returns:
        The content of results.json.

    Raises:
        UserError: options that do not fit the folder; a folder or task that cannot be read.
    """
    work = options.folder.output / "work"
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / "prepare.lock"):
        runs = Runs(options.setting(), options)
        runs.prepare()
    elsewhere = 0
    for seed in options.seeds:
        for strategy in options.strategies:
            try:
                with FileLock(work / f"{strategy}-s{seed}.lock", timeout=0):
                    runs.run(strategy, seed)
            except Timeout:
                elsewhere += 1
    if elsewhere:
        console.print(f"{elsewhere} runs are in progress in another process; repeat the command later for all results")
    with FileLock(work / "report.lock"):
        return write_results(options, runs.setting)


class Runs:
    """Runs of strategies on one folder. Strategies share students with equal training cases."""

    def __init__(self, setting: Setting, options: Simulation) -> None:
        self.setting = setting
        self.options = options
        self.cases = setting.labelled(None)
        self.planner = Planner(setting)
        self._vectors: dict[str, NDArray[np.float32]] = {}

    @cached_property
    def sam(self) -> SamBackend:
        """SAM of the task, loaded at the first use."""
        return sam_of(self.setting.task.sam)

    def prepare(self) -> None:
        """Prepare all cases."""
        for case in (*self.cases, *self.setting.test):
            self.setting.cases.store.add(self.setting.cases.source(case))

    def run(self, strategy: str, seed: int) -> None:
        """One strategy with one seed, from the first cases to the last round; a file for each round."""
        labelled = first_cases(self.cases, self.options.start, seed)
        for number in range(self.options.rounds + 1):
            path = self.options.folder.output / "results" / f"{strategy}-s{seed}-r{number}.json"
            # Sorted: the same cases give the same student in any order of selection.
            job = self.planner.student_on(sorted(labelled), seed)
            stored = _stored(path, job.key)
            if stored is None:
                folder = self._student(job)
                result: dict[str, Any] = {
                    "strategy": strategy,
                    "seed": seed,
                    "round": number,
                    "key": job.key,
                    "labelled": labelled,
                }
                result |= self._measured(folder)
                stored = result | {"next": self._next(strategy, labelled, seed, number, folder)}
                atomic_write(path, json.dumps(stored, indent=1))
                console.print(
                    f"{strategy}, seed {seed}: {len(labelled)} labels, Dice {stored['dice']:.3f}",
                    highlight=False,
                )
            labelled = [*labelled, *stored["next"]]

    def _student(self, job: Job) -> Path:
        """Folder of a trained student."""
        folder = job.folder(self.setting.work)
        # Another process may need the same student, e.g. the first of a seed.
        folder.mkdir(parents=True, exist_ok=True)
        work = JobWork(self.setting, job)
        with FileLock(folder / "student.lock"):
            if not work.is_done(job.key):
                work(job.key, no_report)
        return folder

    def _measured(self, folder: Path) -> dict[str, Any]:
        """Dice of a student on the split: mean over structures, and of each structure."""

        def measure() -> dict[str, Any]:
            student = Student.load(folder / MODEL, self.setting.task)
            truths, predictions = [], []
            for case in self.setting.test:
                image, truth = self.setting.cases.labelled(case)
                truths.append(truth.masks)
                predictions.append(truth.known_part(binarize(student.predict(image), self.setting.task)))
            *structures, total = dice_table(truths, predictions, self.setting.task.names)
            return {
                "dice": total.dice_with_false_positives,
                "paper_dice": total.mean,
                "structures": {row.name: row.dice_with_false_positives for row in structures},
            }

        return _once(folder / "dice.json", measure)

    def _next(self, strategy: str, labelled: Sequence[str], seed: int, number: int, folder: Path) -> list[str]:
        """Cases that the strategy selects next; none after the last round."""
        if number == self.options.rounds:
            return []
        pool = [case for case in self.cases if case not in set(labelled)]
        rng = np.random.default_rng([seed, number, zlib.crc32(strategy.encode())])
        scores = self._scores(NEEDS.get(strategy, set()), pool, folder)
        return pick(strategy, pool, labelled, scores, self.options.batch, rng)

    def _scores(self, needs: set[str], pool: Sequence[str], folder: Path) -> Scores:
        found: dict[str, dict[str, Any]] = {}
        for kind in sorted(needs - {"vectors"}):
            found[kind] = _once(folder / f"{kind}.json", partial(self._scored, kind, pool, folder))
        vectors = {case: self._vector(case) for case in self.cases} if "vectors" in needs else {}
        known = {
            kind: {case: value for case, value in found.get(kind, {}).items() if value is not None}
            for kind in ("entropy", "disagreement", "predicted")
        }
        return Scores(Tables(known["entropy"], known["disagreement"], vectors), known["predicted"])

    def _scored(self, kind: str, pool: Sequence[str], folder: Path) -> dict[str, Any]:
        """A score of every case by the student in the folder."""
        task = self.setting.task
        student = Student.load(folder / MODEL, task)
        found: dict[str, Any] = {}
        for case in pool:
            image = self.setting.cases.image(case)
            probabilities = student.predict(image)
            if kind == "entropy":
                found[case] = entropy_score(probabilities, task.overlap)
            elif kind == "predicted":
                coarse = coarse_masks(probabilities, task.recipe)
                found[case] = np.flatnonzero(coarse.reshape(len(coarse), -1).any(axis=1)).tolist()
            else:
                refiner = Refiner.for_task(task, self.sam, self.setting.embedding_cache)
                refined = refiner.refine(probabilities, for_sam(image, task.image), image.grid.spacing)
                found[case] = disagreement_score(s.agreement for s in refined.structures)
        return found

    def _vector(self, case: str) -> NDArray[np.float32]:
        """SAM's embedding averaged over the image; of a volume over every eighth slice, as the server does."""
        if case not in self._vectors:
            pixels = for_sam(self.setting.cases.image(case), self.setting.task.image)
            slices = [pixels] if pixels.ndim == 3 else list(pixels[len(pixels) // 16 :: 8])
            pooled = [
                self.setting.embedding_cache.embed(self.sam, np.ascontiguousarray(part)).pooled() for part in slices
            ]
            self._vectors[case] = np.mean(pooled, axis=0, dtype=np.float32)
        return self._vectors[case]


def _stored(path: Path, key: str) -> dict[str, Any] | None:
    """Stored result of a round; None: missing, or of another student."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if content.get("key") == key and "next" in content else None


def _once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Content of a JSON file, created if missing."""
    if path.is_file():
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    content = make()
    atomic_write(path, json.dumps(content))
    return content
