"""``samstudent simulate``: active learning on a labelled folder, with the truth as annotator.

For every strategy and seed: a student learns from the labelled cases, the strategy chooses the next batch among the
others by what this student (and SAM) says of them, their labels are uncovered, and so on. The product's own code
chooses (``active_learning.strategies``, ``active_learning.scores``). All strategies of a seed start with the same drawn
cases.

What is measured is the area under the learning curve: the mean Dice on the split over the numbers of labels, by the
trapezoidal rule, in units of Dice. Two baselines go with it:

- ``random``: each case as likely.
- ``foreground``: two of three cases are drawn from those in which the current student sees a structure, which is drawn
  first, so that rare structures come as often as common ones; the third from all. This is the idea of nnActive's
  Foreground Aware Random (Lüth et al., TMLR 2025, arXiv 2511.19183), which no strategy there beat reliably. There
  patches are drawn and the annotator finds the foreground; here cases are, and the student has to.

Everything that is done lies in files, so a run that was killed goes on where it was, and several processes may work on
one output folder: each takes strategies and seeds that no other holds.
"""

from __future__ import annotations

import json
import shlex
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console
from scipy.integrate import trapezoid

from samstudent.active_learning.scores import disagreement_score, entropy_score
from samstudent.active_learning.state import Tables
from samstudent.active_learning.strategies import STRATEGIES, CasePool, select_case
from samstudent.errors import UserError
from samstudent.imaging.case import for_sam
from samstudent.metrics import dice_table
from samstudent.pseudolabels.case import binarize
from samstudent.research.experiment import work
from samstudent.research.experiment.command import _numbers
from samstudent.research.experiment.plan import Job, Options, Setting
from samstudent.research.experiment.run import make_setting
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import coarse_masks
from samstudent.sam.refiner import Refiner
from samstudent.sam.registry import load_backend
from samstudent.student.predict import Student
from samstudent.util.files import atomic_write
from samstudent.util.signals import stop

console = Console()

BASELINES = ("random", "foreground")
#: Share of ``foreground``'s draws from cases with a structure: nnActive's better variant draws 66 %.
FOREGROUND_SHARE = 2 / 3
#: What a strategy needs to be told of the cases: each costs time.
_NEEDS = {
    "foreground": {"seen"},
    "entropy": {"entropy"},
    "disagreement": {"disagreement"},
    "diversity": {"vectors"},
    "mixed": {"entropy", "disagreement", "vectors"},
}


@dataclass(frozen=True)
class Simulation:
    """What the user asked for; see ``samstudent simulate --help``."""

    folder: Path
    output: Path
    task: str | None = None
    strategies: tuple[str, ...] = (*BASELINES, *STRATEGIES)
    seeds: tuple[int, ...] = (0, 1, 2)
    start: int = 5
    batch: int = 5
    rounds: int = 4
    steps: int | None = None
    size: tuple[int, ...] | None = None
    pool: int | None = None
    test_cases: int | None = None
    split: str = "test"
    embeddings: Path | None = None
    command: str = ""


@dataclass(frozen=True)
class Scores:
    """What is known of the unlabelled cases.

    Attributes:
        tables: for the product's strategies.
        seen: case -> structures, by number, that the current student sees in it.
    """

    tables: Tables
    seen: Mapping[str, Sequence[int]]


def pick(
    strategy: str, pool: Sequence[str], labelled: Sequence[str], scores: Scores, count: int, rng: np.random.Generator
) -> list[str]:
    """The next cases to label, one after the other as an annotator asks for them.

    Args:
        strategy: one of ``BASELINES`` or ``active_learning.strategies.STRATEGIES``.
        pool: unlabelled cases.
        labelled: labelled ones.
        scores: of the pool.
        count: how many; fewer come back when the pool is smaller.
        rng: for all that is drawn.
    """
    chosen: list[str] = []
    for _ in range(min(count, len(pool))):
        rest = sorted(set(pool) - set(chosen))
        if strategy == "random":
            case = str(rng.choice(rest))
        elif strategy == "foreground":
            case = _with_foreground(rest, scores.seen, rng)
        else:
            selected = select_case(strategy, CasePool(rest, [*labelled, *chosen]), scores.tables, rng)
            assert selected is not None
            case = selected.case
        chosen.append(case)
    return chosen


def _with_foreground(rest: Sequence[str], seen: Mapping[str, Sequence[int]], rng: np.random.Generator) -> str:
    if rng.random() < FOREGROUND_SHARE and (present := sorted({s for case in rest for s in seen.get(case, ())})):
        structure = rng.choice(present)
        rest = [case for case in rest if structure in seen.get(case, ())]
    return str(rng.choice(list(rest)))


def area(labels: Sequence[int], dice: Sequence[float]) -> float:
    """Area under the learning curve over its width: the mean Dice between the first and the last number of labels."""
    if len(labels) < 2:
        return float(dice[0])
    return float(trapezoid(dice, labels) / (labels[-1] - labels[0]))


def run(folder: Path, output: Path, *, strategies: str, seeds: str, size: str | None, **more: Any) -> dict[str, Any]:
    """From the command line's words to ``simulate``."""
    options = Simulation(
        folder,
        output,
        strategies=tuple(dict.fromkeys(word.strip() for word in strategies.split(",") if word.strip())),
        seeds=tuple(dict.fromkeys(_numbers("--seeds", seeds))),
        size=_numbers("--size", size) if size else None,
        command=shlex.join(["samstudent", *sys.argv[1:]]),
        **more,
    )
    stop.message = "stopped; the same command goes on from here"
    content = simulate(options)
    console.print(f"results.json and report.html are in {output}")
    return content


def simulate(options: Simulation) -> dict[str, Any]:
    """Do what is not done yet, and write ``results.json`` and ``report.html``.

    Returns:
        The content of results.json.

    Raises:
        UserError: options that do not fit the folder; a folder or task that cannot be read.
    """
    from samstudent.research.simulate_report import write_results

    if unknown := [name for name in options.strategies if name not in (*BASELINES, *STRATEGIES)]:
        raise UserError(f"--strategies: {', '.join(unknown)} unknown; there are {', '.join((*BASELINES, *STRATEGIES))}")
    (options.output / "work").mkdir(parents=True, exist_ok=True)
    with FileLock(options.output / "work" / "prepare.lock"):
        bench = Bench(_setting(options), options)
        bench.prepare()
    elsewhere = 0
    for seed in options.seeds:
        for strategy in options.strategies:
            try:
                with FileLock(options.output / "work" / f"{strategy}-s{seed}.lock", timeout=0):
                    bench.run(strategy, seed)
            except Timeout:
                elsewhere += 1
    if elsewhere:
        console.print(f"{elsewhere} runs are being done by another process; run the same command again for all results")
    with FileLock(options.output / "work" / "report.lock"):
        return write_results(options, bench.setting)


def _setting(options: Simulation) -> Setting:
    """Folder, task and cases, read and checked as an experiment's."""
    more = None if options.pool is None else max(options.pool - options.start, 0)
    setting = make_setting(
        Options(
            folder=options.folder, output=options.output, task=options.task, labels=(options.start,),
            steps=options.steps, size=options.size, unlabelled=more, test_cases=options.test_cases,
            split=options.split, embeddings=options.embeddings,
        )
    )  # fmt: skip
    there, needed = len(setting.labelled(None)), options.start + options.batch * options.rounds
    if needed > there:
        raise UserError(
            f"--start {options.start} --batch {options.batch} --rounds {options.rounds} label {needed} cases, but "
            f"there are {there} labelled train cases{'' if options.pool is None else f' in --pool {options.pool}'}"
        )
    return setting


class Bench:
    """Runs strategies on one folder. Students are kept by what they learned from: strategies share equal ones."""

    def __init__(self, setting: Setting, options: Simulation) -> None:
        self.setting = setting
        self.options = options
        self.cases = setting.labelled(None)
        self.cache = EmbeddingCache(setting.embeddings, 32 << 30)
        self._sam: SamBackend | None = None
        self._vectors: dict[str, NDArray[np.float32]] = {}

    @property
    def sam(self) -> SamBackend:
        """The task's SAM, built when first needed."""
        if self._sam is None:
            self._sam = load_backend(self.setting.task.sam)
        return self._sam

    def prepare(self) -> None:
        """Read all cases into the store."""
        for case in (*self.cases, *self.setting.test):
            self.setting.store.add(self.setting.folder, case)

    def run(self, strategy: str, seed: int) -> None:
        """One strategy with one seed, from the first cases to the last round; a file for each round."""
        labelled = first_cases(self.cases, self.options.start, seed)
        for number in range(self.options.rounds + 1):
            path = self.options.output / "results" / f"{strategy}-s{seed}-r{number}.json"
            job = self._job(labelled, seed)
            kept = _kept(path, job.key)
            if kept is None:
                folder = self._student(job)
                result: dict[str, Any] = {
                    "strategy": strategy,
                    "seed": seed,
                    "round": number,
                    "key": job.key,
                    "labelled": labelled,
                }
                result |= self._measured(folder)
                kept = result | {"next": self._next(strategy, labelled, seed, number, folder)}
                atomic_write(path, json.dumps(kept, indent=1))
                console.print(
                    f"{strategy}, seed {seed}: {len(labelled)} labels, Dice {kept['dice']['honest']:.3f}",
                    highlight=False,
                )
            labelled = [*labelled, *kept["next"]]

    def _job(self, labelled: Sequence[str], seed: int) -> Job:
        setting = self.setting
        training = setting.task.training.model_dump(mode="json", exclude={"steps", "seed"})
        params = {
            # Sorted: the same cases are the same student, in whatever order they were chosen.
            "labelled": sorted(labelled), "steps": setting.steps, "seed": seed, "training": training,
            "cases": setting.store.path.name, "test": list(setting.test),
        }  # fmt: skip
        return Job("student", f"student on {len(labelled)} labels, seed {seed}", params)

    def _student(self, job: Job) -> Path:
        """The folder of a trained student."""
        folder = self.setting.work_folder(job.kind, job.key)
        # Another process may need the same student, e.g. the first of a seed.
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "student.lock"):
            if not (folder / "done.json").is_file():
                work.do(self.setting, job.kind, job.params, {}, folder, lambda done, total: None)
        return folder

    def _measured(self, folder: Path) -> dict[str, Any]:
        """A student's Dice on the split: over structures, and of each."""

        def measure() -> dict[str, Any]:
            student = Student.load(folder / "model.pt", self.setting.task)
            truths, answers = [], []
            for case in self.setting.test:
                image, truth = self.setting.store.known_case(case)
                truths.append(truth.masks)
                answers.append(truth.known_part(binarize(student.predict(image), self.setting.task)))
            *structures, total = dice_table(truths, answers, self.setting.task.names)
            return {
                "dice": {"mean": total.mean, "honest": total.dice_with_false_positives},
                "structures": {row.name: row.dice_with_false_positives for row in structures},
            }

        return _once(folder / "dice.json", measure)

    def _next(self, strategy: str, labelled: Sequence[str], seed: int, number: int, folder: Path) -> list[str]:
        """What the strategy wants labelled next; nothing after the last round."""
        if number == self.options.rounds:
            return []
        pool = [case for case in self.cases if case not in set(labelled)]
        rng = np.random.default_rng([seed, number, zlib.crc32(strategy.encode())])
        scores = self._scores(_NEEDS.get(strategy, set()), pool, folder)
        return pick(strategy, pool, labelled, scores, self.options.batch, rng)

    def _scores(self, needs: set[str], pool: Sequence[str], folder: Path) -> Scores:
        found: dict[str, dict[str, Any]] = {}
        for kind in sorted(needs - {"vectors"}):
            found[kind] = _once(folder / f"{kind}.json", partial(self._scored, kind, pool, folder))
        vectors = {case: self._vector(case) for case in self.cases} if "vectors" in needs else {}
        known = {
            kind: {case: value for case, value in found.get(kind, {}).items() if value is not None}
            for kind in ("entropy", "disagreement", "seen")
        }
        return Scores(Tables(known["entropy"], known["disagreement"], vectors), known["seen"])

    def _scored(self, kind: str, pool: Sequence[str], folder: Path) -> dict[str, Any]:
        """One score of every case, by the student in the folder."""
        task = self.setting.task
        student = Student.load(folder / "model.pt", task)
        found: dict[str, Any] = {}
        for case in pool:
            image = self.setting.store.image(case)
            probabilities = student.predict(image)
            if kind == "entropy":
                found[case] = entropy_score(probabilities, task.overlap)
            elif kind == "seen":
                coarse = coarse_masks(probabilities, task.recipe)
                found[case] = np.flatnonzero(coarse.reshape(len(coarse), -1).any(axis=1)).tolist()
            else:
                refiner = Refiner.for_task(task, self.sam, self.cache)
                refined = refiner.refine(probabilities, for_sam(image, task.image), image.grid.spacing)
                found[case] = disagreement_score(s.agreement for s in refined.structures)
        return found

    def _vector(self, case: str) -> NDArray[np.float32]:
        """SAM's embedding averaged over the image; of a volume over every eighth slice, as the server does."""
        if case not in self._vectors:
            pixels = for_sam(self.setting.store.image(case), self.setting.task.image)
            slices = [pixels] if pixels.ndim == 3 else list(pixels[len(pixels) // 16 :: 8])
            pooled = [self.cache.embed(self.sam, np.ascontiguousarray(part)).pooled() for part in slices]
            self._vectors[case] = np.mean(pooled, axis=0, dtype=np.float32)
        return self._vectors[case]


def first_cases(cases: Sequence[str], count: int, seed: int) -> list[str]:
    """The cases that are labelled at first: drawn, the same for every strategy."""
    return [str(case) for case in np.random.default_rng(seed).permutation(sorted(cases))[:count]]


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    """A round's result, if it is there and of the same student."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if content.get("key") == key and "next" in content else None


def _once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The content of a JSON file, made if it is not there."""
    if path.is_file():
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    content = make()
    atomic_write(path, json.dumps(content))
    return content
