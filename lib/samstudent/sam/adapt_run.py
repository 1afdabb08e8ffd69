"""One training of SAM's parts: which prompts it sees, the loss of its answers, its steps. ``adapt`` runs several."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from samstudent.errors import UserError
from samstudent.sam.adapted import Weights, over_model, private_copy
from samstudent.sam.backends import Embedding, SamModel, low_res_share
from samstudent.sam.decode import Source, prompt_of, sources_of
from samstudent.sam.lora import add_low_rank, low_rank_weights
from samstudent.sam.prompts import Box, Mask, box_of
from samstudent.task import AdaptSection, Recipe, Stage
from samstudent.util.device import autocast, half_precision

#: A coarse mask's box that overlaps the truth's by less (IoU) asks about something else.
_MEANT = 0.3
#: Share of the prompts that ask about something else, where the students made such mistakes.
_MISTAKEN = 1 / 6
#: Shifts of a box's sides end at so many standard deviations.
_FARTHEST = 2.5
#: Share of the steps over which the learning rate rises.
_WARM_UP = 0.1
_WEIGHT_DECAY = 1e-4
#: Largest norm of a gradient.
_CLIP = 1.0


@dataclass(frozen=True, eq=False)
class Example:
    """A labelled image, or a slice of a labelled volume. An embedding takes 4 MB of memory.

    Attributes:
        id: of the case; all slices of a volume have the same.
        fold: of the case; its students and decoder are trained without the case.
        embedding: of the image; ``image_size`` is the grid of the masks.
        truth: bool (S, y, x), a human's masks.
        coarse: bool (S, y, x), the coarse masks of the student that did not train on this case; may be empty or wrong.
        image: uint8 (y, x, 3) of any size, that ``embedding`` is of; only ``decoder+lora`` needs it.
        known: bool (S,), structures that the label knows everywhere; nothing is asked about others. None: all.
    """

    id: str
    fold: int
    embedding: Embedding
    truth: Mask
    coarse: Mask
    image: NDArray[np.uint8] | None = None
    known: NDArray[np.bool_] | None = None

    def knows(self, structure: int) -> bool:
        return self.known is None or bool(self.known[structure])


@dataclass(frozen=True, eq=False)
class Question:
    """What SAM is asked about one structure of one example.

    Attributes:
        example, structure: indices.
        source: of the prompts; its box is not jittered yet.
        meant: whether the prompt means the structure. Where a student saw one that the truth lacks, or saw it
            somewhere else, SAM must not learn a border from it, nor to draw nothing: the box is on something, and may
            be right for another structure. It only learns that its answer is worth little.
    """

    example: int
    structure: int
    source: Source
    meant: bool


def questions_of(index: int, example: Example, recipe: Recipe, backend: str) -> list[Question]:
    """All that can be asked about an example: from its coarse masks, and from the truth where they are of no use."""
    recipes = [recipe] * len(example.truth)
    seen, there = (list(map(int, np.flatnonzero(m.any(axis=(1, 2))))) for m in (example.coarse, example.truth))
    asked, there = ([s for s in structures if example.knows(s)] for structures in (seen, there))
    from_coarse = sources_of(example.coarse, seen, asked, recipes, backend)
    near = {
        s for s in set(asked) & set(there) if _box_iou(box_of(example.coarse[s]), box_of(example.truth[s])) > _MEANT
    }
    missed = [s for s in there if s not in near]
    from_truth = sources_of(example.truth, there, missed, recipes, backend)
    return [
        *(Question(index, s, from_coarse[s], s in near) for s in asked),
        *(Question(index, s, from_truth[s], True) for s in missed),
    ]


def batches(
    examples: Sequence[Example], questions: Sequence[Question], size: int, rng: np.random.Generator
) -> Iterator[list[Question]]:
    """Batches without end. Structures are asked about equally often, each in its cases in turn; a sixth of the prompts
    are mistaken ones, where there are any."""
    meant: dict[int, dict[str, list[Question]]] = defaultdict(lambda: defaultdict(list))
    for q in questions:
        if q.meant:
            meant[q.structure][examples[q.example].id].append(q)
    mistaken = _turns([question for question in questions if not question.meant], rng)
    cases = {structure: _turns(list(of_case.values()), rng) for structure, of_case in meant.items()}
    structures = _turns(sorted(meant), rng)
    while True:
        batch = []
        for _ in range(size):
            question: Question | None = next(mistaken, None) if rng.random() < _MISTAKEN else None
            if question is None:
                slices = next(cases[next(structures)])
                question = slices[int(rng.integers(len(slices)))]
            batch.append(question)
        yield batch


class Run:
    """One training of a private copy of a backend's parts.

    Args:
        plain: the backend; loaded, and left as it is.
        examples: questions point into them.
        questions: at least one of them ``meant``.
        stages: of prompts.
        options: the task file's ``sam.adapt``.
        seed: a few numbers.

    Attributes:
        backend: over the copy, to be asked at any time.
    """

    def __init__(
        self,
        plain: SamModel,
        examples: Sequence[Example],
        questions: Sequence[Question],
        stages: Sequence[Stage],
        options: AdaptSection,
        seed: Sequence[int],
    ) -> None:
        self._examples, self._stages, self._options = examples, stages, options
        self._rng = np.random.default_rng(seed)
        model = plain.load()
        encoder, prompts, decoder = plain.parts
        trained = (decoder, prompts) if options.parts == "decoder+prompt_encoder" else (decoder,)
        self._names = [name for name, _ in model.named_parameters() if name.split(".")[0] in trained]
        copy = private_copy(model, self._names)
        self._encoder: Any = None
        if options.parts == "decoder+lora":
            self._encoder = getattr(copy, encoder)
            add_low_rank(self._encoder, options.lora_rank, int(self._rng.integers(2**31)))
        self.backend = over_model(plain, copy)
        self._parameters = [parameter for parameter in copy.parameters() if parameter.requires_grad]
        self._own = {name: parameter for name, parameter in copy.named_parameters() if name in set(self._names)}
        self._optimizer = torch.optim.AdamW(self._parameters, lr=options.learning_rate, weight_decay=_WEIGHT_DECAY)
        # Only float16 loses small gradients.
        half = half_precision(plain.device)
        self._scaler = torch.amp.GradScaler(plain.device.type, enabled=half == torch.float16)
        self._batches = batches(examples, questions, options.batch_size, self._rng)
        self._step = 0

    def train(self, until: int, on_step: Callable[[], None]) -> None:
        """Go on until ``until`` steps are done.

        Raises:
            UserError: the loss is not finite.
        """
        while self._step < until:
            for group in self._optimizer.param_groups:
                group["lr"] = self._options.learning_rate * rate_factor(self._step, self._options.steps)
            self._optimizer.zero_grad(set_to_none=True)
            value = 0.0
            for alike in _alike(next(self._batches)):
                loss = self._loss(alike) / self._options.batch_size
                self._scaler.scale(loss).backward()
                value += float(loss.detach())
            if not math.isfinite(value):
                raise UserError(f"SAM's loss is {value} at step {self._step + 1}: lower sam.adapt.learning_rate")
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters, _CLIP)
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._step += 1
            on_step()

    def weights(self) -> Weights:
        """A copy of the trained weights as they are now."""
        weights = {name: parameter.detach().clone().cpu() for name, parameter in self._own.items()}
        if self._encoder is not None:
            weights |= low_rank_weights(self._encoder, f"{self.backend.parts[0]}.")
        return weights

    def embedding(self, example: Example) -> Embedding:
        """The example's embedding as this SAM sees it."""
        if self._encoder is None or example.image is None:
            return example.embedding
        return replace(self.backend.embed(example.image), image_size=example.embedding.image_size)

    def _loss(self, questions: Sequence[Question]) -> torch.Tensor:
        """Sum over questions about one example; the mean over the stages, for each stage's answer is shown to someone
        or asked about again."""
        example = self._examples[questions[0].example]
        embedding, device = example.embedding, self.backend.device
        sources = [replace(q.source, box=self._jittered(q.source.box, embedding)) for q in questions]
        truth = np.stack([low_res_share(example.truth[q.structure], embedding) for q in questions])
        target = torch.from_numpy(truth).to(device)
        meant = torch.tensor([float(q.meant) for q in questions], device=device)
        total = torch.zeros((), device=device)
        low_res: torch.Tensor | None = None
        with autocast(device):
            if self._encoder is not None and example.image is not None:
                features = self.backend.encode(example.image)[0]
            else:
                features = torch.from_numpy(embedding.features).to(device)
        for stage in self._stages:
            given = [None] * len(sources) if low_res is None else list(low_res.detach().cpu().numpy())
            prompts = [prompt_of(s, stage, embedding, g) for s, g in zip(sources, given, strict=True)]
            with autocast(device):
                low_res, iou = (part.float() for part in self.backend.answer(embedding, features, prompts))
            total = total + answer_loss(low_res, iou, target, meant, embedding)
        return total / len(self._stages)

    def _jittered(self, box: Box, embedding: Embedding) -> Box:
        """Each side shifted by itself, inside the image."""
        height, width = embedding.image_size
        x0, y0, x1, y1 = box
        sides = np.array([x1 - x0 + 1, y1 - y0 + 1] * 2)
        noise = np.clip(self._rng.normal(size=4), -_FARTHEST, _FARTHEST) * self._options.jitter
        moved = np.clip(np.array(box) + noise * sides, 0, np.array([width - 1, height - 1] * 2))
        low, high = np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def answer_loss(
    low_res: torch.Tensor, iou: torch.Tensor, target: torch.Tensor, meant: torch.Tensor, embedding: Embedding
) -> torch.Tensor:
    """Dice loss and cross-entropy of the mask, and the squared error of the predicted IoU; summed over answers.

    Padding does not count.

    Args:
        low_res: logits (N, L, L).
        iou: predicted (N,).
        target: share of each pixel in the truth (N, L, L).
        meant: (N,) 1 where the mask counts, 0 where only the predicted IoU does.
        embedding: says where the padding begins.
    """
    per_pixel = low_res.shape[-1] / embedding.side
    height, width = (math.ceil(size * per_pixel) for size in embedding.input_size)
    logits, truth = low_res[:, :height, :width].flatten(1), target[:, :height, :width].flatten(1)
    share = logits.sigmoid()
    common, size = (share * truth).sum(1), share.sum(1) + truth.sum(1)
    overlap = 1 - (2 * common + 1) / (size + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
    with torch.no_grad():
        drawn, there = logits > 0, truth >= 0.5
        real = (drawn & there).sum(1) / (drawn | there).sum(1).clamp(min=1)
    return (meant * (overlap + entropy) + (iou - real) ** 2).sum()


def rate_factor(step: int, steps: int) -> float:
    """Learning rate of a step (from 0) as a share of the highest: a rise, then half a cosine down to nearly 0."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _alike(batch: Sequence[Question]) -> list[list[Question]]:
    """A batch in groups that the decoder can answer at once: of one image, with as many points."""
    groups: dict[tuple[int, int], list[Question]] = defaultdict(list)
    for question in batch:
        groups[question.example, len(question.source.negative)].append(question)
    return list(groups.values())


def _turns(items: Sequence[Any], rng: np.random.Generator) -> Iterator[Any]:
    """The items in random order, again and again; ends at once where there are none."""
    while items:
        for index in rng.permutation(len(items)):
            yield items[index]


def _box_iou(a: Box, b: Box) -> float:
    """Of boxes of inclusive pixels."""

    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(0.0, x1 - x0 + 1) * max(0.0, y1 - y0 + 1)

    common = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return common / (area(*a) + area(*b) - common)
