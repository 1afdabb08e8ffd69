"""Training of an embedding head on labelled slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, for_sam
from samstudent.pseudolabels.embedding_head import EMBEDDING_CHANNELS, HeadNetwork, filled_size, slice_axis_of
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.embedding import Embedding
from samstudent.student.convergence import FixedSteps
from samstudent.student.data import label_of, never_known
from samstudent.student.network import output_channels
from samstudent.student.predict import save_model
from samstudent.student.training import OnStep, TrainingState, make_trainer
from samstudent.task import Steps, Task
from samstudent.util.device import pick_device

#: Slices in a batch.
BATCH = 6
#: More steps fit the few cases too closely (docs/decisions/0007-embedding-heads-and-probabilities.md).
_STEPS = 150
_RATE = 1e-3
#: Standard deviation of the noise on features, relative to their own.
_NOISE = 0.1


@dataclass(frozen=True)
class HeadCase:
    """One labelled slice in SAM's padded frame of L = 4h pixels.

    Attributes:
        features: float16 (256, h, w).
        masks: bool (S, L, L).
        size: (y, x) of the part of the frame that the image fills.
        weights: float32 (S,), 0 for structures that are not annotated; None: all are annotated.
        ignore: bool (S, L, L), pixels where an annotated structure is unknown; None: none.
    """

    features: torch.Tensor
    masks: torch.Tensor
    size: tuple[int, int]
    weights: torch.Tensor | None = None
    ignore: torch.Tensor | None = None


@dataclass(frozen=True)
class HeadTraining:
    """Options of the training of a head.

    Attributes:
        seed: of weights, batches and augmentation.
        device: name of the PyTorch device; None: the best available.
        steps: optimisation steps; None: ``head_steps`` of the task's.
        on_step: called after every step with its number, the number of all steps and the loss.
    """

    seed: int = 0
    device: str | None = None
    steps: int | None = None
    on_step: OnStep | None = None

    def steps_of(self, task: Task) -> int:
        """Steps, or ``head_steps`` of the task's."""
        return self.steps or head_steps(task.training.steps)


#: Seed 0, as many steps as ``head_steps``.
DEFAULT_TRAINING = HeadTraining()


def head_steps(steps: Steps) -> int:
    """Optimisation steps of a head, at most those of a student."""
    return _STEPS if steps == "auto" else min(_STEPS, steps)


def head_cases(image: CaseImage, truth: LabelledMasks, task: Task, sam: CachedSam) -> list[HeadCase]:
    """Slices of one labelled case: the image of a 2D case; of a volume the slices along ``slice_axis_of``.

    Args:
        image: of the case.
        truth: on the image's canonical grid; of a 2D image on any grid that covers it.
        task: structures, intensities and the axis of slices.
        sam: computes the embeddings.
    """
    pixels = for_sam(image, task.image)
    if task.dimension == 2:
        return [_head_case(sam.embed(pixels), truth)]
    axis = slice_axis_of(task)
    parts = zip(np.moveaxis(pixels, axis, 0), truth.slices(axis), strict=True)
    return [_head_case(sam.embed(part), label) for part, label in parts]


def train_head(cases: Sequence[HeadCase], task: Task, out_path: Path, training: HeadTraining = DEFAULT_TRAINING) -> str:
    """Train a head and write its last weights atomically.

    Args:
        cases: labelled slices.
        task: structures, and whether they may overlap.
        out_path: the model file.
        training: seed, device, steps and progress.

    Returns:
        The model's version, the SHA-256 of the file.

    Raises:
        UserError: no case.
    """
    if not cases:
        raise UserError("there is no human-labelled case to train an embedding head on")
    device = pick_device(training.device)
    steps = training.steps_of(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = HeadNetwork(output_channels(task)).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-2)
        batches = _Batches(cases, steps, training.seed, task.overlap)
        state = TrainingState(network, optimizer, device)
        make_trainer(state, batches, task, FixedSteps(steps), training.on_step, steps).run()
    return save_model(out_path, network, task)


class _Batches:
    """Seeded batches of slices whose features and masks are rotated, zoomed and shifted.

    Args:
        cases: labelled slices.
        steps: number of batches.
        seed: of the sequence.
        overlap: the task's; False: targets are label maps, which are faster for many structures.
    """

    def __init__(self, cases: Sequence[HeadCase], steps: int, seed: int, overlap: bool = True) -> None:
        self.cases, self.steps, self.seed, self.overlap = cases, steps, seed, overlap
        self.targets = [c.masks if overlap else torch.from_numpy(label_of(c.masks.numpy())) for c in cases]
        known = torch.ones(len(cases[0].masks))
        self.weights = torch.stack([known if case.weights is None else case.weights for case in cases])
        self.weights[:, never_known(list(self.weights.numpy()))] = 1

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng(self.seed)
        noise = torch.Generator().manual_seed(self.seed)
        # Half of the slices show a structure: most of a volume is background.
        full = [i for i, case in enumerate(self.cases) if case.masks.any()]
        every = list(range(len(self.cases)))
        for _ in range(self.steps):
            drawn = [int(rng.choice(full if full and k % 2 == 0 else every)) for k in range(BATCH)]
            yield self._batch(drawn, rng, noise)

    def _batch(self, drawn: Sequence[int], rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
        cases = [self.cases[i] for i in drawn]
        features = torch.stack([case.features for case in cases]).float()
        targets = torch.stack([self.targets[i] for i in drawn]).float()
        outside = torch.ones((len(cases), 1, *targets.shape[-2:]))
        for index, case in enumerate(cases):
            outside[index, :, : case.size[0], : case.size[1]] = 0
        angle, zoom = np.radians(rng.uniform(-15, 15, len(cases))), rng.uniform(0.9, 1.1, len(cases))
        shift = rng.uniform(-0.1, 0.1, (len(cases), 2))
        rows = [[zoom * np.cos(angle), -zoom * np.sin(angle), shift[:, 0]]]
        rows += [[zoom * np.sin(angle), zoom * np.cos(angle), shift[:, 1]]]
        warp = torch.tensor(np.array(rows).transpose(2, 0, 1), dtype=torch.float32)
        spread = features.std() * _NOISE
        features = F.grid_sample(features, F.affine_grid(warp, list(features.shape), False), align_corners=False)
        features = features + spread * torch.randn(features.shape, generator=noise)
        outside = self._with_unknown(outside, cases)
        # Pixels from outside of the frame are ignored like the padding.
        both = torch.cat([targets, outside - 1], dim=1)
        grid = F.affine_grid(warp, list(both.shape), False)
        both = F.grid_sample(both, grid, mode="nearest", align_corners=False)
        count = targets.shape[1]
        ignore = both[:, count:] > -0.5
        target = {"masks": both[:, :count]} if self.overlap else {"label": both[:, 0]}
        return {"image": features, "ignore": ignore, "weights": self.weights[list(drawn)], **target}

    def _with_unknown(self, outside: torch.Tensor, cases: Sequence[HeadCase]) -> torch.Tensor:
        """Ignored pixels, 0 or 1: the padding (B, 1, L, L) and pixels where structures are unknown; a channel for each
        structure, (B, S, L, L), where structures may overlap and any is unknown."""
        regions = [(index, case.ignore) for index, case in enumerate(cases) if case.ignore is not None]
        if regions and self.overlap:
            outside = outside.repeat(1, len(cases[0].masks), 1, 1)
        for index, region in regions:
            outside[index][region if self.overlap else region.any(dim=0, keepdim=True)] = 1
        return outside


def _head_case(embedding: Embedding, truth: LabelledMasks) -> HeadCase:
    side, size = 4 * embedding.features.shape[-1], filled_size(embedding)
    features = torch.from_numpy(embedding.features[0, :EMBEDDING_CHANNELS]).half()
    masks = _in_frame(truth.masks, size, side)
    if truth.unknown is None:
        return HeadCase(features, masks, size)
    weights = torch.from_numpy(truth.annotated.astype(np.float32))
    ignore = None if truth.ignore is None else _in_frame(truth.ignore, size, side)
    return HeadCase(features, masks, size, weights, ignore)


def _in_frame(masks: NDArray[Any], size: tuple[int, int], side: int) -> torch.Tensor:
    """Masks bool (S, y, x) in the head's frame: bool (S, side, side), False outside of ``size``."""
    framed = torch.zeros((len(masks), side, side), dtype=torch.bool)
    for index, mask in enumerate(masks):
        # One at a time, as in ``EmbeddingHead.predict_embedding``.
        shown = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None]
        shown = F.interpolate(shown, size, mode="bilinear", antialias=True, align_corners=False)
        framed[index, : size[0], : size[1]] = shown[0, 0] >= 0.5
    return framed
