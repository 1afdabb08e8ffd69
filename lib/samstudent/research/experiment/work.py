"""What the jobs do. Each function gets the setting, its parameters, the folders of what it needs and its own folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, for_sam
from samstudent.metrics import dice_where_known, surface_distances
from samstudent.pseudolabels.case import binarize
from samstudent.pseudolabels.out_of_fold import on_working_grid, spread_out
from samstudent.pseudolabels.quality_filter import teach_probabilities
from samstudent.research.experiment import nnunet, ours
from samstudent.research.experiment.plan import Report, Setting
from samstudent.research.experiment.store import StoredCases, keep_pseudo
from samstudent.rounds.scoring import MAX_TRAIN_DICE_CASES, train_dice
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamModel
from samstudent.sam.prompts import Mask
from samstudent.sam.refiner import Refiner, RefinerOptions
from samstudent.sam.registry import load_backend
from samstudent.sam.volume_refinement import SliceOptions
from samstudent.sam.working_grid import enlarged, reduced, working_size
from samstudent.student.data import prepare_case
from samstudent.student.predict import Student
from samstudent.student.training import train_student
from samstudent.task import PAPER_STAGES, Recipe, SamSection, Task
from samstudent.util.files import atomic_write

Params = Mapping[str, Any]
Needs = Mapping[str, Path]
#: Embeddings of an experiment may take this much of the disk: 16000 slices or images.
_EMBEDDINGS = 32 << 30
#: The recipe of the paper, section 2.2, also for SAMs that were trained with boxes only.
PAPER = Recipe(component="probable", stages=PAPER_STAGES, source="plain_sam")
#: Random walker (Grady 2006): what the student is so sure of is given, the pixels between are walked from.
WALKER_SURE = 0.8
#: scikit-image's default; how strongly a walker shuns edges.
WALKER_BETA = 130.0
_FIT = "fit.json"
#: Pixels around the pixels in doubt that are walked through, too.
_WALKER_MARGIN = 5


def do(setting: Setting, kind: str, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """Do one job and mark it as done."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    KINDS[kind](setting, params, needs, folder, report)
    atomic_write(folder / "done.json", json.dumps({"kind": kind, "seconds": round(time.monotonic() - started, 2)}))


def prepare(setting: Setting, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """Read cases from the folder into the store."""
    for number, case in enumerate(params["ids"], 1):
        setting.store.add(setting.folder, case)
        report(number, len(params["ids"]))


def embed(setting: Setting, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """Fill the cache of embeddings."""
    backend, cache = backend_of(params), cache_of(setting)
    for number, case in enumerate(params["ids"], 1):
        cache.embed(backend, for_sam(setting.store.image(case), setting.task.image))
        report(number, len(params["ids"]))


def train(setting: Setting, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """Train a student into ``model.pt``."""
    pseudo = needs.get("pseudo")
    labels = json.loads((pseudo / "labels.json").read_text()) if pseudo else {"kept": []}
    store = setting.store
    train_student(
        StoredCases(
            store,
            params["labelled"],
            dict.fromkeys(labels["kept"], pseudo) if pseudo else {},
            soft=labels.get("soft", False),
        ),
        task_of(setting, params),
        folder / "model.pt",
        steps=params["steps"],
        seed=params["seed"],
        start=needs["start"] / "model.pt" if "start" in needs else None,
        on_step=lambda step, steps, loss: report(step, steps),
        unlabelled=[store.unlabelled_case(case) for case in params.get("unlabelled", [])] or None,
    )
    student = Student.load(folder / "model.pt", setting.task)
    fit = train_dice(student, map(store.known_case, spread_out(params["labelled"], MAX_TRAIN_DICE_CASES)), setting.task)
    atomic_write(folder / _FIT, json.dumps(_number(fit)))


def pseudo_label(setting: Setting, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """Pseudo labels of cases, and in ``imaging.labels.json`` how good they are where the truth is known."""
    store, task = setting.store, setting.task
    student = Student.load(needs["teacher"] / "model.pt", task)
    redraw = PSEUDO[params["how"]](setting, params)
    kept, rows = [], []
    for number, case in enumerate(params["ids"], 1):
        image = store.image(case)
        probabilities = student.predict(image)
        masks = redraw(image, probabilities)
        # A case in which nothing was found would teach that there is nothing, which nobody said.
        if masks.any():
            keep_pseudo(folder, prepare_case(case, image, masks, task, human=False))
            kept.append(case)
        rows += quality_rows(case, store.truth(case), binarize(probabilities, task), masks, task)
        report(number, len(params["ids"]))
    atomic_write(folder / "labels.json", json.dumps({"kept": kept, "rows": rows}))


def fit_students(setting: Setting, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """Students on folds of the labelled cases, beside the one on all of them."""
    ours.fit_students(task_of(setting, params), setting.store, params, needs["full"], folder, report)


def fit_heads(setting: Setting, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """Embedding heads for these students."""
    task, backend, cache = task_of(setting, params), backend_of(params), cache_of(setting)
    ours.fit_heads(task, setting.store, params, needs["students"], folder, backend, cache, report)


def fit_champion_head(setting: Setting, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """The embedding head of a second round."""
    task, backend, cache = task_of(setting, params), backend_of(params), cache_of(setting)
    ours.fit_champion_head(task, setting.store, params, needs, folder, backend, cache, report)


def fit(setting: Setting, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """The labeling policy."""
    task, backend, cache = task_of(setting, params), backend_of(params), cache_of(setting)
    ours.fit(task, setting.store, params, needs["students"], folder, backend, cache, report)


def trusted_labels(setting: Setting, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """Pseudo labels by what was learnt; ``imaging.labels.json`` as of ``pseudo_label``, with estimates of Dice."""
    store, task = setting.store, task_of(setting, params)
    labeller = ours.Labeller(task, store, params, needs, backend_of(params), cache_of(setting))
    told: dict[str, tuple[bool, dict[str, Any]]] = {}
    rows = []
    for number, case in enumerate(params["ids"], 1):
        image = store.image(case)
        label = labeller.label(image)
        if not labeller.policy.skip_reason:
            keep_pseudo(folder, labeller.training_case(case, image, label))
            told[case] = bool(label.masks.any()), label.info()["structures"]
        truth = store.truth(case)
        if truth is not None and truth.masks.shape != label.refined.shape:
            truth = on_working_grid(truth, label.refined.shape[1:])
        status = {s.name: (s.status, s.quality) for s in label.structures}
        rows += quality_rows(case, truth, label.raw, label.refined, task, status)
        report(number, len(params["ids"]))
    soft = teach_probabilities((structures for _, structures in told.values()), labeller.ablations.targets)
    # Of masks those with nothing on them teach nothing; probabilities always say how sure they are.
    kept = [case for case, (anything, _) in told.items() if soft or anything]
    learnt = ours.describe(needs["policy"])
    atomic_write(folder / "labels.json", json.dumps({"kept": kept, "soft": soft, "rows": rows, "learnt": learnt}))


def quality_rows(
    case: str,
    truth: LabelledMasks | None,
    raw: Mask,
    refined: Mask,
    task: Task,
    status: Mapping[str, tuple[str, float | None]] | None = None,
) -> list[dict[str, Any]]:
    """How good a case's pseudo label is: a row for each structure that truth, student or SAM shows.

    Args:
        status: by structure whether it is accepted, and the estimate of its Dice; None: all that is there is accepted.
    """
    if truth is None:
        return []
    before, after = dice_where_known(truth, raw), dice_where_known(truth, refined)
    rows = []
    for i, name in enumerate(task.names):
        if np.isnan(before[i]) and np.isnan(after[i]):
            continue
        word, estimate = (status or {}).get(name, ("accepted" if refined[i].any() else "absent", None))
        row = {
            "case": case,
            "structure": name,
            "status": word,
            "quality": estimate,
            "truth": bool(truth.masks[i].any()),
        }
        rows.append(row | {"raw": _number(before[i]), "refined": _number(after[i])})
    return rows


def run_nnunet(setting: Setting, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """Train nnU-Net and keep its answers on the test cases."""
    nnunet.run(setting.store, params["labelled"], params["ids"], params["seed"], folder)


def evaluate(setting: Setting, params: Params, needs: Needs, folder: Path, report: Report) -> None:
    """Measure a student on the cases of the split; one JSON in ``results/``."""
    store, task = setting.store, setting.task
    answers = needs["student"] / nnunet.ANSWERS
    student = None if answers.is_dir() else Student.load(needs["student"] / "model.pt", task)
    cases = {}
    for number, case in enumerate(params["ids"], 1):
        image, truth = store.known_case(case)
        masks = binarize(student.predict(image), task) if student else nnunet.answer(answers, case, truth.masks.shape)
        cases[case] = measure(truth, masks, image.grid.spacing)
        report(number, len(params["ids"]))
    seconds = json.loads((needs["student"] / "done.json").read_text())["seconds"]
    fit = needs["student"] / _FIT
    result = {key: params[key] for key in ("method", "labels", "seed")}
    result |= {"key": folder.name, "split": setting.split, "structures": task.names, "training_seconds": seconds}
    result["fit"] = json.loads(fit.read_text()) if fit.is_file() else None
    atomic_write(result_path(setting.output, params), json.dumps(result | {"cases": cases}, indent=1))


def measure(truth: LabelledMasks, masks: Mask, spacing: tuple[float, ...]) -> dict[str, list[Any]]:
    """One case: Dice and average surface distance (mm) of each structure (None where there is nothing to measure), and
    whether truth and answer show it. Where the label leaves a structure open the answer is not looked at."""
    masks = truth.known_part(masks)
    return {
        "dice": [_number(v) for v in dice_where_known(truth, masks)],
        "distance": [_number(v) for v in surface_distances(truth.masks, masks, spacing)],
        "truth": [bool(m.any()) for m in truth.masks],
        "found": [bool(m.any()) for m in masks],
    }


def result_path(output: Path, params: Params) -> Path:
    """Where the figures of one method, number of labels and seed lie."""
    labels = "" if params["labels"] is None else f"-n{params['labels']}"
    return output / "results" / f"{params['method']}{labels}-s{params['seed']}.json"


def backend_of(params: Params) -> SamModel:
    """The SAM that a job asks for; built once in a process."""
    return _backend(json.dumps(params["sam"], sort_keys=True), params.get("random_sam"))


@lru_cache(maxsize=2)
def _backend(section: str, random_seed: int | None) -> SamModel:
    backend = load_backend(SamSection.model_validate_json(section))
    return backend if random_seed is None else ours.shuffled(backend, random_seed)


def task_of(setting: Setting, params: Params) -> Task:
    """The task with the sections that a method changes."""
    return Task.model_validate(setting.task.model_dump(mode="json") | params.get("sections", {}))


def cache_of(setting: Setting) -> EmbeddingCache:
    """Of SAM's embeddings, which all jobs share."""
    return EmbeddingCache(setting.embeddings, _EMBEDDINGS)


def _raw(setting: Setting, params: Params) -> Callable[[CaseImage, NDArray[Any]], Mask]:
    return lambda image, probabilities: binarize(probabilities, setting.task)


def _largest(setting: Setting, params: Params) -> Callable[[CaseImage, NDArray[Any]], Mask]:
    return lambda image, probabilities: np.stack([largest_component(m) for m in binarize(probabilities, setting.task)])


def _walker(setting: Setting, params: Params) -> Callable[[CaseImage, NDArray[Any]], Mask]:
    def redraw(image: CaseImage, probabilities: NDArray[Any]) -> Mask:
        grey = for_sam(image, setting.task.image).mean(-1)[None] / 255
        full = grey.shape[1:]
        if len(full) == 2:
            probabilities, grey = (reduced(a, working_size(full)) for a in (probabilities, grey))
        walked = np.stack([random_walk(grey[0], p) for p in probabilities])
        if walked.shape[1:] != full:
            walked = np.stack([enlarged(plane, full)[0] for plane in walked])
        return walked >= 0.5 if setting.task.overlap else binarize(walked / np.maximum(walked.sum(0), 1), setting.task)

    return redraw


def _paper(setting: Setting, params: Params) -> Callable[[CaseImage, NDArray[Any]], Mask]:
    task = setting.task.model_copy(update={"recipe": PAPER})
    options = RefinerOptions(prompt_all=False, slices=SliceOptions.of(PAPER))
    refiner = Refiner.for_task(task, backend_of(params), cache_of(setting), options=options)

    def redraw(image: CaseImage, probabilities: NDArray[Any]) -> Mask:
        return refiner.refine(probabilities, for_sam(image, task.image)).masks

    return redraw


def largest_component(mask: Mask) -> Mask:
    """The largest component (neighbours also across corners) of a mask; an empty one stays empty."""
    labels, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return mask if count < 2 else np.asarray(labels == 1 + np.bincount(labels.ravel())[1:].argmax())


def random_walk(grey: NDArray[Any], probability: NDArray[Any]) -> NDArray[Any]:
    """The probability that a random walker reaches the structure first.

    Seeds are the pixels where the student's probability is at least ``WALKER_SURE`` (structure) or at most 1 minus that
    (not the structure). Without seeds of the structure it counts as absent, as in scikit-image one needs both.

    Args:
        grey: the image in [0, 1], float (*spatial).
        probability: the student's, float (*spatial).

    Returns:
        float (*spatial); seeds are 0 and 1.
    """
    from skimage.segmentation import random_walker

    sure, doubt = probability >= WALKER_SURE, (probability < WALKER_SURE) & (probability > 1 - WALKER_SURE)
    result = sure.astype(np.float64)
    if not sure.any() or not doubt.any():
        return result
    # Only where there is doubt: a film has millions of pixels, and its walkers thousands.
    window = tuple(
        slice(max(part.start - _WALKER_MARGIN, 0), part.stop + _WALKER_MARGIN)
        for part in ndimage.find_objects((sure | doubt).astype(np.uint8))[0]
    )
    seeds = np.where(sure[window], 1, np.where(doubt[window], 0, 2))
    if not (seeds == 2).any():
        return result
    walked = random_walker(grey[window], seeds, beta=WALKER_BETA, mode="cg_j", tol=1e-5, return_full_prob=True)
    result[window] = np.clip(walked[0], 0, 1)
    return result


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 5)


PSEUDO: dict[str, Callable[[Setting, Params], Callable[[CaseImage, NDArray[Any]], Mask]]] = {
    "raw": _raw,
    "largest": _largest,
    "walker": _walker,
    "paper": _paper,
}
KINDS: dict[str, Callable[[Setting, Params, Needs, Path, Report], None]] = {
    "prepare": prepare,
    "embed": embed,
    "student": train,
    "pseudo": pseudo_label,
    "students": fit_students,
    "heads": fit_heads,
    "head": fit_champion_head,
    "policy": fit,
    "trusted": trusted_labels,
    "nnunet": run_nnunet,
    "evaluate": evaluate,
}
