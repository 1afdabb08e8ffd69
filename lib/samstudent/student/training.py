"""Training of a student with MONAI's engine.

A mean teacher (Tarvainen and Valpola, NeurIPS 2017, arXiv:1703.01780), the usual baseline of learning from unlabelled
images, is a running average of the weights (``new_average``) beside the network.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine.engine import Engine
from ignite.engine.events import Events
from monai.engines.trainer import SupervisedTrainer
from numpy.typing import NDArray
from torch.nn.functional import interpolate, mse_loss
from torch.optim.swa_utils import AveragedModel, update_bn

from samstudent.metrics import dice_per_structure, mean_of
from samstudent.student.convergence import Ending, FixedSteps, Length, Point, UntilConverged
from samstudent.student.data import make_loader
from samstudent.student.encoder import EncoderUNet, load_encoder
from samstudent.student.loss import StudentLoss
from samstudent.student.network import SpatialPrior, build_network, coarse_size, has_interior, output_channels
from samstudent.student.predict import Student, binarize, save_model
from samstudent.student.start import load_start
from samstudent.student.training_case import TrainingCase
from samstudent.task import Steps, Task
from samstudent.util.device import autocast, half_precision, pick_device

logger = logging.getLogger(__name__)

#: Steps of one epoch of the host, for clients that count in epochs.
EPOCH_STEPS = 50
#: Largest norm of a gradient; limits the effect of a wrong pseudo label.
CLIP = 5.0

#: Highest learning rate of a network with random weights, and of one with a pretrained encoder.
RATE, PRETRAINED_RATE = 3e-3, 2e-3
#: Learning rate of a pretrained encoder relative to that of the decoder.
ENCODER_RATE = 1.0

#: Decay of the mean teacher's running average.
DECAY = 0.99
#: Highest weight of the mean teacher's part of the loss, reached at the last step, as in the collection SSL4MIS.
CONSISTENCY = 0.1

#: Batches from which the statistics of a mean teacher's batch norms are computed.
_STATISTICS = 20

#: Called after every step with its number from 1, the number of all steps, and the loss.
OnStep = Callable[[int, int, float], None]


def epochs_of(steps: Steps) -> int:
    """Number of epochs of ``EPOCH_STEPS``, the last one perhaps shorter; 0: as many as it takes."""
    return 0 if steps == "auto" else math.ceil(steps / EPOCH_STEPS)


def new_network(task: Task, seed: int, start: Path | None = None) -> torch.nn.Module:
    """A network with weights drawn from ``seed``, and those of ``start`` that fit (``start.load_start``)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(task)
    if start is not None:
        logger.info("%s", load_start(network, start, task))
    elif (body := _encoder_unet(network)) is not None:
        load_encoder(body, task.student)
    return network


def new_optimizer(network: torch.nn.Module, task: Task) -> torch.optim.Optimizer:
    """AdamW; a pretrained encoder learns at ``ENCODER_RATE`` of the rate of the rest."""
    body = _encoder_unet(network)
    rate = task.training.learning_rate or (RATE if body is None else PRETRAINED_RATE)
    encoder = [] if body is None else list(body.encoder.parameters())
    pretrained = set(map(id, encoder))
    groups: list[dict[str, Any]] = [{"params": [p for p in network.parameters() if id(p) not in pretrained]}]
    if encoder:
        groups.append({"params": encoder, "lr": ENCODER_RATE * rate})
    return torch.optim.AdamW(groups, lr=rate, weight_decay=1e-4)


def _encoder_unet(network: torch.nn.Module) -> EncoderUNet | None:
    body = network.network if isinstance(network, SpatialPrior) else network
    return body if isinstance(body, EncoderUNet) else None


def new_average(network: torch.nn.Module, decay: float = DECAY) -> AveragedModel:
    """Running average of a network's weights.

    Its decay is low in the first steps, ``1 - 1 / step``, so that their weights count little later.

    Args:
        network: whose weights are averaged.
        decay: weight of the previous average in later steps.
    """

    def mix(average: torch.Tensor, current: torch.Tensor, steps: torch.Tensor | int) -> torch.Tensor:
        return average.lerp(current, 1 - min(1 - 1 / (int(steps) + 1), decay))

    return AveragedModel(network, avg_fn=mix).eval()


@dataclass(frozen=True)
class TrainingState:
    """Network in training.

    Attributes:
        network: on ``device``.
        optimizer: of its parameters.
        device: of network and batches.
        average: running average of the weights (``new_average``), the mean teacher; None: there is none.
        consistency: highest weight of the mean teacher's part of the loss: the mean square of the difference between
            the probabilities of the network for an augmented image, and of ``average`` for the same image with
            unchanged intensities, over the cases of a batch without a label. The batches must have ``plain`` images
            then. 0: none.
        coarse: size of the images in the steps that ``Length.coarse`` selects; None: that of the batches.
    """

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    average: AveragedModel | None = None
    consistency: float = 0.0
    coarse: tuple[int, ...] | None = None


class TrainStep:
    """One step of a SupervisedTrainer (its ``iteration_update``): forward in reduced precision, loss in float32.

    Args:
        state: the network in training; a mean teacher is updated after the step.
        task: whether structures may overlap.
        length: decides on the learning rate and the last step.
    """

    def __init__(self, state: TrainingState, task: Task, length: Length) -> None:
        self.schedule = torch.optim.lr_scheduler.LambdaLR(state.optimizer, length.factor)
        self.task, self.length, self.device = task, length, state.device
        self.coarse = state.coarse
        self.average, self.consistency = state.average, state.consistency
        # Only float16 loses small gradients; bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half_precision(self.device) == torch.float16)

    def __call__(self, engine: Any, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        if self.coarse is not None and self.length.coarse(engine.state.iteration - 1):
            batch = resized(batch, self.coarse)
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            logits = engine.network(batch["image"])
        loss, dice = engine.loss_function(logits, batch)
        if self.consistency:
            loss = loss + self._ramp(engine.state.iteration) * self._disagreement(logits, batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(engine.optimizer)
        torch.nn.utils.clip_grad_norm_(engine.network.parameters(), CLIP)
        self.scaler.step(engine.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(getattr(engine.network, "module", engine.network))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RuntimeError(f"the loss is {value} at step {engine.state.iteration}: lower training.learning_rate")
        return {"loss": value, "dice": float(dice)}

    def _ramp(self, step: int) -> float:
        return self.consistency * math.exp(-5 * (1 - self.length.ramp(step)) ** 2)

    def _disagreement(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        unknown = (batch["weights"] == 0).all(dim=1)
        if self.average is None or not unknown.any():
            return logits.new_zeros((), dtype=torch.float32)
        with torch.no_grad(), autocast(self.device):
            taught = self.average(batch["plain"][unknown])
        return mse_loss(self._probabilities(logits[unknown]), self._probabilities(taught))

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities of all channels, background included."""
        logits = logits[:, : output_channels(self.task)].float()
        return logits.sigmoid() if self.task.overlap else logits.softmax(dim=1)


def resized(batch: Mapping[str, torch.Tensor], size: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Smaller images and targets (B, ., *size) of a batch; what has no pixels stays."""
    result = dict(batch)
    for key in ("image", "plain", "masks"):
        if key in batch:
            result[key] = interpolate(batch[key], size, mode="area")
    rows, columns = (
        ((torch.arange(side) + 0.5) * (old / side)).long().to(batch["image"].device)
        for side, old in zip(size, batch["image"].shape[2:], strict=True)
    )
    for key in ("label", "ignore"):
        if key in batch:
            result[key] = batch[key][..., rows[:, None], columns]
    return result


def make_trainer(
    state: TrainingState,
    loader: Iterable[dict[str, torch.Tensor]],
    task: Task,
    length: Length,
    on_step: OnStep | None = None,
    epoch_steps: int = EPOCH_STEPS,
) -> SupervisedTrainer:
    """MONAI's trainer of a network.

    Args:
        state: the network in training.
        loader: batches of an epoch; the next iteration continues.
        task: whether structures may overlap.
        length: decides on the learning rate and the last step.
        on_step: called after every step.
        epoch_steps: steps of an epoch.
    """
    trainer = SupervisedTrainer(
        device=state.device,
        max_epochs=sys.maxsize,
        train_data_loader=loader,
        epoch_length=epoch_steps,
        network=state.network,
        optimizer=state.optimizer,
        loss_function=StudentLoss(task.overlap, has_interior(task)),
        iteration_update=TrainStep(state, task, length),
    )

    def after_step(engine: Engine) -> None:
        step, output = engine.state.iteration, engine.state.output
        assert isinstance(output, dict)
        if length.done(step, output["dice"]):
            engine.terminate()
        if on_step is not None:
            on_step(step, length.expected(step), output["loss"])

    trainer.add_event_handler(Events.ITERATION_COMPLETED, after_step)
    return trainer


@dataclass(frozen=True)
class MeanTeacher:
    """Training with a mean teacher, whose weights are saved instead of the network's.

    Attributes:
        unlabelled: cases without a label (``training_case.without_label``); batches contain them like pseudo-labelled
            ones, beside ``data.HUMAN_FRACTION``.
        consistency: as of ``TrainingState``.
    """

    unlabelled: Sequence[TrainingCase]
    consistency: float = CONSISTENCY


@dataclass(frozen=True)
class TrainingOptions:
    """Options of one training of a student.

    Attributes:
        steps: optimisation steps, or ``auto``: until the student has converged; None: the task's.
        seed: of weights, batches and augmentation; None: the task's.
        start: file with the initial weights (``start.load_start``); None: random ones.
        device: "cpu", "cuda", "cuda:1"; None: the best available.
        on_step: called after every step.
        teacher: trains a mean teacher; None: none.
        validation: cases that do not train, whose Dice must have stopped rising, too, where there is no number of
            steps.
        budget: share of the task's budget of time for this training, where there is no number of steps.
    """

    steps: Steps | None = None
    seed: int | None = None
    start: Path | None = None
    device: str | None = None
    on_step: OnStep | None = None
    teacher: MeanTeacher | None = None
    validation: Sequence[TrainingCase] = ()
    budget: float = 1.0


@dataclass(frozen=True)
class TrainedStudent:
    """Result of a training.

    Attributes:
        version: SHA-256 of the model file.
        steps: number of steps.
        ending: ``fixed``: a given number of steps; ``converged``: Dice had stopped rising; ``budget``: before that the
            time was over.
        curve: Dice over the steps.
        coarse: number of the first steps, with smaller images.
        rise: of Dice over the last quarter of the steps before the learning rate fell; None: ``fixed``, or
            too few points.
    """

    version: str
    steps: int
    ending: Ending
    curve: tuple[Point, ...]
    coarse: int = 0
    rise: float | None = None

    @property
    def warning(self) -> str | None:
        """Sentence on a training that ended before the student had converged; None: it had, or was not asked to."""
        if self.ending != "budget":
            return None
        change = "" if self.rise is None else f" (change of Dice in the last quarter: {100 * self.rise:+.1f} points)"
        return f"Training was stopped by its budget of time after {self.steps} steps{change}; raise training.budget"

    def as_json(self) -> dict[str, Any]:
        """JSON values of the training."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainedStudent:
        """The training of ``as_json``."""
        return cls(**{**content, "curve": tuple(Point(**point) for point in content["curve"])})


def train_student(
    cases: Sequence[TrainingCase], task: Task, out_path: Path, options: TrainingOptions = TrainingOptions()
) -> TrainedStudent:
    """Train a student and write its last weights, or those of a mean teacher.

    Args:
        cases: human- and pseudo-labelled cases in any order; at least one human-labelled.
        task: network, augmentation, learning rate and batch size.
        out_path: the model file; written at the end, atomically.
        options: steps, seed, initial weights, device.

    Returns:
        Version, steps and curve. On one kind of CPU with the same number of threads and a fixed number of steps the
        version depends on the arguments only.

    Raises:
        UserError: no human-labelled case; the task's network is not possible; ``start`` does not fit.
        ValueError: an unlabelled case of the mean teacher has a label.
    """
    teacher = options.teacher
    unlabelled = [] if teacher is None else list(teacher.unlabelled)
    if any(case.human or case.weights.any() for case in unlabelled):
        raise ValueError("unlabelled cases are those of training_case.without_label")
    device = pick_device(options.device)
    seed = task.training.seed if options.seed is None else options.seed
    every = [*cases, *unlabelled] if unlabelled else cases
    loader = make_loader(every, task, EPOCH_STEPS, seed, plain=bool(unlabelled))
    network = new_network(task, seed, options.start)
    if isinstance(network, SpatialPrior) and options.start is None:
        network.set_to_places((case.masks for case in cases if case.human), first=0 if task.overlap else 1)
    network = network.to(device)
    average = new_average(network) if unlabelled else None
    consistency = teacher.consistency if teacher is not None and unlabelled else 0.0
    coarse = coarse_size(task)
    state = TrainingState(network, new_optimizer(network, task), device, average, consistency, coarse)
    steps = options.steps or task.training.steps
    if steps == "auto":
        validate = partial(_validation_dice, network, options.validation, task, device) if options.validation else None
        fine = 1.0 if coarse is None else math.prod(task.student.size) / math.prod(coarse)
        budget = options.budget * task.training.budget_seconds(device.type)
        length: FixedSteps | UntilConverged = UntilConverged(budget, validate, fine)
    else:
        length = FixedSteps(steps)
    make_trainer(state, loader, task, length, options.on_step).run()
    if average is not None:
        # Its batch norms have the statistics of the network's activations, not of its own.
        update_bn((batch["image"] for batch in islice(loader, _STATISTICS)), average.module, device)
    version = save_model(out_path, network if average is None else average.module, task)
    assert length.steps is not None and length.ending is not None  # the training has ended
    smaller = 0 if coarse is None else sum(map(length.coarse, range(length.steps)))
    return TrainedStudent(version, length.steps, length.ending, tuple(length.curve), smaller, length.rise)


def _validation_dice(
    network: torch.nn.Module, cases: Sequence[TrainingCase], task: Task, device: torch.device, coarse: bool
) -> float:
    """Mean Dice of a network in training on cases, on the student's grid or ``coarse_size``."""
    student, size = Student(network, task, "", device), coarse_size(task) if coarse else None
    try:
        found = [_dice_of(student, case, size) for case in cases]
    finally:
        network.train()
    return mean_of(np.concatenate(found))


def _dice_of(student: Student, case: TrainingCase, size: tuple[int, ...] | None) -> NDArray[Any]:
    """Dice of each structure (S,); nan: absent from prediction and label, or not annotated."""
    image, masks = case.image, case.masks
    if size is not None:
        batch = {"image": torch.from_numpy(image)[None], "masks": torch.from_numpy(masks.astype(np.float32))[None]}
        smaller = resized(batch, size)
        image, masks = smaller["image"][0].numpy(), smaller["masks"][0].numpy() >= 0.5
    found = dice_per_structure(masks, binarize(student.on_grid(image), student.task))
    return np.where(case.weights > 0, found, np.nan)
