"""What a round learns from its labelled cases before it makes pseudo labels, and pseudo labels made by it.

All of it is learnt from honest predictions, of models that did not train on the case (docs/explanation/trust.md): how
much to listen to which kind of model, a SAM decoder adapted to the labels, the recipe of each structure, and how good
a pseudo label is to be expected.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent import __version__
from samstudent.errors import NotFound, UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, for_sam
from samstudent.metrics import dice_where_known, mean_of
from samstudent.pseudolabels.bench import HonestCase
from samstudent.pseudolabels.calibration import Calibrator, Row
from samstudent.pseudolabels.case import PseudoLabel, mix, own_masks, pseudo_label_of
from samstudent.pseudolabels.labelled import (
    Seen,
    Teacher,
    Viewer,
    common_axis,
    embed,
    example_of,
    honest_parts,
    read_each,
    see,
    size_of,
    spread_out,
    with_axis,
)
from samstudent.pseudolabels.provenance import provenance_of
from samstudent.pseudolabels.search import Choice, StructureChoice, search
from samstudent.pseudolabels.signals import Atlas, signals_of
from samstudent.pseudolabels.transfer import Answer, expected_of_all, shift_of
from samstudent.sam.adapt import adapt
from samstudent.sam.adapt_run import AdaptationOptions
from samstudent.sam.adapted import Adaptation, load_adapted, save_adapted, with_weights
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamBackend, SamModel
from samstudent.sam.prompts import contested
from samstudent.sam.refine import Refinement, refine, refine_slice
from samstudent.task import Task
from samstudent.util.files import atomic_write

logger = logging.getLogger(__name__)

#: The readers' shares that are compared; of equal ones the first is taken.
SHARES = (0.5, 0.0, 0.25, 0.75, 1.0)
#: Jittered boxes a case are limited to about this many calls of the decoder: 32 teeth would take a second a box.
_DECODES = 16
_MOST_JITTERS = 2
#: Unlabelled cases on which estimates are carried over from a fold's models to all together: at least and at most, and
#: about how many structures of them. SAM is asked about each once for every fold and once more.
_LEAST, _MOST, _STRUCTURES = 5, 20, 160
#: Models whose honest predictions have a mean Dice below this know nothing that another could learn. Of 32 drawn teeth
#: and students that had not converged, labels alone gave 9.6 % on new films, with pseudo labels 0.7.
LEAST_HONEST = 0.05
_FILE = "trust.json"
#: What ``learn_trust`` calls the weights of an adapted SAM.
ADAPTED_FILE = "adapted.safetensors"


#: Called with what is being done, the part done and the number of parts.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trust:
    """What was learnt. ``adapted`` is None where the plain decoder stays.

    Attributes:
        task: with the axis along which volumes are cut, where the task leaves that open.
        share: of the readers in the mean of both views.
        choice: the recipe of each structure.
        calibrator: estimates the Dice of a structure that the models of one fold, or one student, predict.
        shift: what all models together deserve beyond that, in logits (``transfer``).
        record: what adaptation, search and calibration found, for the round's record.
    """

    task: Task
    share: float
    choice: Choice
    calibrator: Calibrator
    shift: float = 0.0
    adapted: SamModel | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asks_sam(self) -> bool:
        """Whether SAM's encoder is run on unlabelled cases. Not on volumes where neither readers nor SAM's masks have a
        say: the figures alone, of dozens of slices, are not worth minutes for each volume."""
        return _asks_sam(self.task, self.share, self.choice)

    @property
    def silence(self) -> str | None:
        """Why the models that this was learnt of should teach nothing; None: they may."""
        return silence_of(self.record)

    @property
    def digest(self) -> str:
        """SHA-256, hex, of all that shapes a pseudo label beside the teacher and the plain SAM."""
        recipes = {name: recipe.model_dump(mode="json") for name, recipe in self.choice.recipes.items()}
        parts = [self.share, recipes, self.calibrator.as_json(), self.shift, self.task.recipe.axis]
        parts.append(None if self.adapted is None else self.adapted.digest)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path, task: Task, backend: SamModel) -> Trust:
        """What ``learn_trust`` left in a folder.

        Raises:
            NotFound: nothing was learnt, or the adapted weights are gone.
            UserError: it cannot be read, or was learnt with another SAM, or for other structures or another recipe.
        """
        path = folder / _FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            choice, calibrator = Choice.from_json(content["choice"]), Calibrator.from_json(content["calibrator"])
            share, record = float(content["share"]), dict(content["record"])
            shift = float(content.get("shift", 0.0))
            axis, adapted_file = content["axis"], content["adapted"]
            # The first of these files did not tell what they are for.
            meant = content.get("for") or _meant_for(task, backend)
            wrong = [key for key, value in _meant_for(task, backend).items() if meant[key] != value]
        except FileNotFoundError:
            raise NotFound(f"{path}: nothing was learnt from the labels") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            told = f"{path}: unreadable ({error}); restore it from a backup; the next round learns it again"
            raise UserError(told) from error
        if wrong or set(choice.recipes) != set(task.names):
            raise UserError(f"{path}: learnt for another {' and '.join(wrong) or 'task'} than there is now")
        adapted = load_adapted(folder / adapted_file, backend) if adapted_file else None
        return cls(with_axis(task, axis), share, choice, calibrator, shift, adapted, record)


def learn_trust(
    teacher: Teacher,
    read: Callable[[str], tuple[CaseImage, LabelledMasks]],
    task: Task,
    backend: SamModel,
    cache: EmbeddingCache | None,
    folder: Path,
    *,
    unlabelled: Iterable[CaseImage] = (),
    seed: int = 0,
    progress: Progress | None = None,
    inputs: str | None = None,
) -> Trust:
    """Learn from the labelled cases of ``teacher.folds``, as ``task.trust`` says, and write it into ``folder``.

    Args:
        read: gives each case's image and human label.
        backend: the plain SAM.
        folder: for ``trust.json`` and the adapted weights.
        unlabelled: images that no model trained on, of the cases ``some_of`` names; read one after the other. Without
            any, estimates of quality are those of a fold's models, below what all models together deserve.
        inputs: ``inputs_of`` all that but ``unlabelled``; written down for ``take_again``.
    """
    told = progress or (lambda what, done, total: None)
    meant_for = _meant_for(task, backend)
    cases = [see(*found, teacher, task) for found in read_each(sorted(teacher.folds), read)]
    if not cases:
        raise UserError("no labelled case can be read any more")
    task = with_axis(task, common_axis(cases, task))
    share, shares = _best_share(cases, task)
    honest = shares[f"{share:g}"]
    slices = [part for case in cases for part in honest_parts(case, share, task, backend, cache, len(cases))]
    adaptation = _adapt(slices, task, backend, seed, told)
    adapted, of_fold, name = None, None, None
    if adaptation is not None and adaptation.used:
        save_adapted(folder / ADAPTED_FILE, adaptation, backend)
        adapted, name = load_adapted(folder / ADAPTED_FILE, backend), ADAPTED_FILE
        of_fold = {fold: with_weights(backend, weights) for fold, weights in adaptation.folds.items()}
    choice = _choose([part for part, _ in slices], len(cases), task, backend, of_fold, seed, told)
    del slices  # As large as all else together.
    atlas = Atlas.of((case.truth.masks for case in cases), np.array([case.truth.complete for case in cases]))
    calibrator, shift, carried = Calibrator.default(atlas), 0.0, None
    if task.trust.calibrate:
        calibrator = Calibrator.fit(_rows(cases, share, choice, task, backend, of_fold, cache, atlas), atlas, seed)
    if calibrator.kind != "default":
        known = Trust(task, share, choice, calibrator, adapted=adapted)
        shift, carried = _carried_over(known, teacher, unlabelled, backend, cache, told)
    record = {
        "cases": len(cases),
        "honest": None if np.isnan(honest) else honest,
        "shares": shares,
        "adaptation": adaptation.record() if adaptation else None,
        "calibration": dict(calibrator.report),
        "carried_over": carried,
    }
    content: dict[str, Any] = {"share": share, "shift": shift, "axis": task.recipe.axis, "adapted": name}
    content |= {"record": record}
    content |= {"choice": choice.as_json(), "calibrator": calibrator.as_json(), "for": meant_for, "inputs": inputs}
    atomic_write(folder / _FILE, json.dumps(content, indent=1))
    return Trust(task, share, choice, calibrator, shift, adapted, record)


def silence_of(record: Mapping[str, Any]) -> str | None:
    """``Trust.silence`` of a ``Trust.record``."""
    honest = record.get("honest")
    if honest is None or honest >= LEAST_HONEST:
        return None
    return f"trained on labels alone: Dice of its teachers is only {honest:.2f} on labels that they had not seen"


def some_of(unlabelled: Sequence[str], task: Task) -> list[str]:
    """The unlabelled cases that ``learn_trust`` should look at, from all over the list; of volumes few, as each of
    their slices may have to be embedded."""
    most = _LEAST if task.dimension == 3 else min(_MOST, max(_LEAST, _STRUCTURES // len(task.names)))
    return spread_out(unlabelled, most)


def inputs_of(
    teacher: Teacher, labels: Mapping[str, Any], task: Task, backend: SamModel, seed: int, unlabelled: int = 0
) -> str:
    """SHA-256, in hex, of all that ``learn_trust`` depends on.

    Args:
        teacher: as it is given to ``learn_trust``; images and masks count through what it learned from them, too.
        labels: case id -> what tells its human label from any other, as JSON.
        task, backend, seed: as of ``learn_trust``.
        unlabelled: how many images are looked at. Not which: any of them show the same, and new ones come daily.
    """
    parts = [
        __version__,
        teacher.version,
        dict(teacher.folds),
        dict(labels),
        _meant_for(task, backend),
        seed,
        unlabelled,
    ]
    parts += [backend.embedding_digest, task.trust.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def take_again(earlier: Iterable[Path], inputs: str, folder: Path, task: Task, backend: SamModel) -> Trust | None:
    """What was learnt from the same inputs, copied into ``folder``; None where there is none, or none that is whole.

    Args:
        earlier: folders of ``learn_trust``; the first that fits is taken.
        inputs: ``inputs_of`` what would be learnt now.
    """
    for other in earlier:
        try:
            text = (other / _FILE).read_text(encoding="utf-8")
            if json.loads(text)["inputs"] != inputs:
                continue
            Trust.load(other, task, backend)
            for file in other.glob("*.safetensors"):
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / file.name)
        except (OSError, ValueError, LookupError, TypeError):  # UserError is a ValueError
            continue
        # Last, as in ``learn_trust``: a folder with this file is whole.
        atomic_write(folder / _FILE, text)
        return Trust.load(folder, task, backend)
    return None


def trusted_label(
    image: CaseImage, teacher: Viewer, trust: Trust, backend: SamModel, cache: EmbeddingCache | None, *, seed: int = 0
) -> PseudoLabel:
    """The pseudo label of one unlabelled case. Of a 2D image on the working grid: see ``produce.on_image``."""
    task = trust.task
    views = teacher.views(image, size_of(image, task), readers=trust.asks_sam)
    calibrator = trust.calibrator if teacher.alone else trust.calibrator.shifted(trust.shift)
    refined, probabilities, estimates = _refined(image, views, trust, calibrator, backend, cache, seed)
    provenance = provenance_of(teacher.version, trust.adapted or backend, task, trust.digest)
    return pseudo_label_of(refined, probabilities, task, provenance, estimates if task.trust.calibrate else None)


def _refined(
    image: CaseImage,
    views: NDArray[Any],
    trust: Trust,
    calibrator: Calibrator,
    backend: SamBackend,
    cache: EmbeddingCache | None,
    seed: int,
) -> tuple[Refinement, NDArray[Any], dict[str, float]]:
    """Refinement of an unlabelled case by what was learnt, the probabilities that it is of, and the calibrator's
    estimates."""
    task, asks = trust.task, trust.asks_sam
    probabilities = mix(views, trust.share)
    refined = _refine(image, probabilities, trust.choice, task, backend, trust.adapted, cache, seed=seed, signals=asks)
    signals = signals_of(refined, probabilities, calibrator.atlas, views if len(views) > 1 else None)
    return refined, probabilities, calibrator.estimates(task.names, signals)


def _carried_over(
    trust: Trust,
    teacher: Teacher,
    images: Iterable[CaseImage],
    backend: SamBackend,
    cache: EmbeddingCache | None,
    told: Progress,
) -> tuple[float, dict[str, Any]]:
    """The shift for answers of all models (``Trust.shift``), and a record: cases and structures that were compared."""
    task, folds = trust.task, sorted(set(teacher.folds.values()))
    estimates, expected, cases = list[float](), list[float](), 0

    def answer(image: CaseImage, views: NDArray[Any]) -> tuple[Answer, NDArray[Any]]:
        refined, probabilities, found = _refined(image, views, trust, trust.calibrator, backend, cache, seed=0)
        return Answer(refined.masks, np.array([found.get(name, np.nan) for name in task.names])), probabilities

    for number, image in enumerate(images, 1):
        told("carrying estimates over", number, max(number, _MOST))
        size, readers = size_of(image, task), trust.asks_sam
        try:
            common, probabilities = answer(image, teacher.views(image, size, readers=readers))
            each = [answer(image, teacher.fold_views(fold, image, size, readers=readers))[0] for fold in folds]
        except UserError as error:
            # Where pseudo labels are made the same image costs no more than its own label.
            logger.warning("%s: left out where estimates are carried over: %s", image.path, error)
            continue
        cases += 1
        estimates += common.estimates.tolist()
        expected += expected_of_all(common, each, probabilities).tolist()
    shift = shift_of(np.array(estimates), np.array(expected))
    return shift, {"cases": cases, "structures": int(np.isfinite(estimates).sum())}


def _meant_for(task: Task, backend: SamBackend) -> dict[str, str]:
    """Digests of what a choice of recipes means nothing without."""
    content = task.model_dump(mode="json", include={"dimension", "structures", "overlap", "image", "recipe"})
    recipe = content.pop("recipe")
    parts = {"task": content, "recipe": recipe, "SAM": [backend.name, backend.digest, backend.preprocessing]}
    return {key: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for key, part in parts.items()}


def _best_share(cases: Sequence[Seen], task: Task) -> tuple[float, dict[str, float]]:
    """The readers' share of the highest mean Dice, and the mean Dice of each that was tried.

    They are mixtures of the same two answers: choosing the best of them flatters little, and none is simpler.
    """
    tried = SHARES if len(cases[0].views) > 1 else (0.0,)
    dice = [
        [dice_where_known(case.truth, own_masks(mix(case.views, share), task)) for share in tried] for case in cases
    ]
    means = [mean_of(np.array(dice)[:, i].ravel()) for i in range(len(tried))]
    best = tried[int(np.argmax(np.nan_to_num(means)))]
    return best, {f"{share:g}": round(mean, 4) for share, mean in zip(tried, means, strict=True)}


def _adapt(
    slices: Sequence[tuple[HonestCase, NDArray[np.uint8]]], task: Task, backend: SamModel, seed: int, told: Progress
) -> Adaptation | None:
    """SAM's decoder trained on the labels; None where the task switches that off."""
    if not task.trust.adapt:
        return None
    examples = [example_of(part, task) for part, _ in slices]

    def progress(done: int, total: int) -> None:
        told("adapting SAM", done, total)

    return adapt(backend, examples, task.recipe, seed, AdaptationOptions.for_training(task.training.steps), progress)


def _choose(
    honest: Sequence[HonestCase],
    cases: int,
    task: Task,
    backend: SamModel,
    of_fold: Mapping[int, SamBackend] | None,
    seed: int,
    told: Progress,
) -> Choice:
    """The recipe of each structure; the task's for all where there is no search."""
    trials = task.trust.trials
    if trials == 0:
        return Choice({name: StructureChoice(task.recipe) for name in task.names}, cases, seed=seed)

    def progress(done: int, total: int) -> None:
        told("searching recipes", done, total)

    return search(
        honest, task.names, task.overlap, task.recipe, backend, of_fold,
        trials=None if trials == "grid" else trials, grid=trials == "grid",
        fusion=task.trust.fusion, seed=seed, progress=progress,
    )  # fmt: skip


def _rows(
    cases: Sequence[Seen],
    share: float,
    choice: Choice,
    task: Task,
    backend: SamBackend,
    of_fold: Mapping[int, SamBackend] | None,
    cache: EmbeddingCache | None,
    atlas: Atlas,
) -> list[Row]:
    """What the calibrator learns from: signals and Dice of each structure that is present in an honest prediction."""
    asks = _asks_sam(task, share, choice)
    rows = []
    for number, case in enumerate(cases):
        # Of each case what will be known of an unlabelled one.
        views = case.views.astype(np.float32)[: None if asks else 1]
        probabilities = mix(views, share)
        # None for a fold of blank volumes, which had nothing to compare.
        adapted = of_fold.get(case.fold) if of_fold else None
        refined = _refine(
            case.image, probabilities, choice, task, backend, adapted, cache, seed=number, signals=asks
        )  # fmt: skip
        signals = signals_of(refined, probabilities, atlas.without(number), views if len(views) > 1 else None)
        dice = dice_where_known(case.truth, refined.masks)
        rows += [
            Row(name, case.id, case.fold, found, float(value))
            for name, found, value in zip(task.names, signals, dice, strict=True)
            if found is not None
        ]
    return rows


def _refine(
    image: CaseImage,
    probabilities: NDArray[Any],
    choice: Choice,
    task: Task,
    backend: SamBackend,
    adapted: SamBackend | None,
    cache: EmbeddingCache | None,
    seed: int,
    signals: bool,
) -> Refinement:
    """Refinement on the working grid; with ``signals`` SAM is asked for all figures that the calibrator looks at."""
    jitters = max(0, min(_MOST_JITTERS, _DECODES // len(task.names) - 1)) if task.trust.calibrate else 0
    options: dict[str, Any] = {"adapted": adapted, "jitters": jitters, "seed": seed, "signals": signals}
    seen = for_sam(image, task.image)
    if task.dimension == 3:
        return refine(
            probabilities, seen, backend, task, cache, recipes=choice.recipes, spacing=image.grid.spacing, **options
        )
    height, width = probabilities.shape[1:]
    embedding = replace(embed(seen, backend, cache), image_size=(height, width))
    rivals = contested(probabilities, task.overlap)
    return refine_slice(rivals, embedding, backend, choice.recipes, task.names, task.overlap, **options)


def _asks_sam(task: Task, share: float, choice: Choice) -> bool:
    # Without a calibrator the gate's formula judges by SAM's agreement.
    if task.dimension == 2 or share > 0 or not task.trust.calibrate:
        return True
    return any(recipe.source != "student" for recipe in choice.recipes.values())
