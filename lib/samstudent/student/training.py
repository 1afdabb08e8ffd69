"""Training of a student with MONAI's engine.

A mean teacher (Tarvainen and Valpola, NeurIPS 2017, arXiv:1703.01780), the usual baseline of learning from unlabelled
images, is a running average of the weights (``new_average``) beside the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine.engine import Engine
from ignite.engine.events import Events
from monai.engines.trainer import SupervisedTrainer
from torch.nn.functional import mse_loss
from torch.optim.swa_utils import AveragedModel

from samstudent.student.data import make_loader
from samstudent.student.loss import StudentLoss
from samstudent.student.network import build_network
from samstudent.student.predict import load_weights, save_model
from samstudent.student.training_case import TrainingCase
from samstudent.task import Task
from samstudent.util.device import autocast, half_precision, pick_device

#: Steps of one epoch of the host, for clients that count in epochs.
EPOCH_STEPS = 50
#: Fraction of the steps over which the learning rate rises.
WARM_UP = 0.05
#: Largest norm of a gradient; limits the effect of a wrong pseudo label.
CLIP = 5.0

#: Decay of the mean teacher's running average.
DECAY = 0.99
#: Highest weight of the mean teacher's part of the loss, reached at the last step, as in the collection SSL4MIS.
CONSISTENCY = 0.1

#: Called after every step with its number from 1, the number of all steps, and the loss.
OnStep = Callable[[int, int, float], None]


def split_steps(steps: int) -> tuple[int, int]:
    """(epochs, steps of each) with at least ``steps`` steps in all, and less than one epoch more."""
    epochs = math.ceil(steps / EPOCH_STEPS)
    return epochs, math.ceil(steps / epochs)


def new_network(task: Task, seed: int, start: Path | None = None) -> torch.nn.Module:
    """A network with weights drawn from ``seed``, or with those of the model file ``start``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(task)
    if start is not None:
        load_weights(network, start, task)
    return network


def new_optimizer(network: torch.nn.Module, task: Task) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=task.training.learning_rate, weight_decay=1e-4)


def rate_factor(step: int, steps: int) -> float:
    """Learning rate of a step (from 0) relative to the highest: a short rise, then half a cosine down to nearly 0."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


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
    """

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    average: AveragedModel | None = None
    consistency: float = 0.0


class TrainStep:
    """One step of a SupervisedTrainer (its ``iteration_update``): forward in reduced precision, loss in float32.

    Args:
        state: the network in training; a mean teacher is updated after the step.
        task: whether structures may overlap.
        steps: number of all steps, for the learning rate.
    """

    def __init__(self, state: TrainingState, task: Task, steps: int) -> None:
        self.schedule = torch.optim.lr_scheduler.LambdaLR(state.optimizer, lambda step: rate_factor(step, steps))
        self.task, self.steps, self.device = task, steps, state.device
        self.average, self.consistency = state.average, state.consistency
        # Only float16 loses small gradients; bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half_precision(self.device) == torch.float16)

    def __call__(self, engine: Any, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            logits = engine.network(batch["image"])
        loss = engine.loss_function(logits, batch)
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
        return {"loss": value}

    def _ramp(self, step: int) -> float:
        return self.consistency * math.exp(-5 * (1 - step / self.steps) ** 2)

    def _disagreement(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        unknown = (batch["weights"] == 0).all(dim=1)
        if self.average is None or not unknown.any():
            return logits.new_zeros((), dtype=torch.float32)
        with torch.no_grad(), autocast(self.device):
            taught = self.average(batch["plain"][unknown])
        return mse_loss(self._probabilities(logits[unknown]), self._probabilities(taught))

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities of all channels, background included."""
        return logits.float().sigmoid() if self.task.overlap else logits.float().softmax(dim=1)


def make_trainer(
    state: TrainingState,
    loader: Iterable[dict[str, torch.Tensor]],
    task: Task,
    epochs: tuple[int, int],
    on_step: OnStep | None = None,
) -> SupervisedTrainer:
    """MONAI's trainer of a network.

    Args:
        state: the network in training.
        loader: batches of one epoch.
        task: whether structures may overlap.
        epochs: their number, and the steps of each (``split_steps``).
        on_step: called after every step.
    """
    count, epoch_steps = epochs
    steps = count * epoch_steps
    trainer = SupervisedTrainer(
        device=state.device,
        max_epochs=count,
        train_data_loader=loader,
        epoch_length=epoch_steps,
        network=state.network,
        optimizer=state.optimizer,
        loss_function=StudentLoss(task.overlap),
        iteration_update=TrainStep(state, task, steps),
    )
    if on_step is not None:

        def report(engine: Engine) -> None:
            on_step(engine.state.iteration, steps, engine.state.output["loss"])  # type: ignore[index]

        trainer.add_event_handler(Events.ITERATION_COMPLETED, report)
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
        steps: optimisation steps; None: the task's.
        seed: of weights, batches and augmentation; None: the task's.
        start: model file with the initial weights; None: random ones.
        device: "cpu", "cuda", "cuda:1"; None: the best available.
        on_step: called after every step.
        teacher: trains a mean teacher; None: none.
    """

    steps: int | None = None
    seed: int | None = None
    start: Path | None = None
    device: str | None = None
    on_step: OnStep | None = None
    teacher: MeanTeacher | None = None


def train_student(
    cases: Sequence[TrainingCase], task: Task, out_path: Path, options: TrainingOptions = TrainingOptions()
) -> str:
    """Train a student and write its last weights, or those of a mean teacher.

    Args:
        cases: human- and pseudo-labelled cases in any order; at least one human-labelled.
        task: network, augmentation, learning rate and batch size.
        out_path: the model file; written at the end, atomically.
        options: steps, seed, initial weights, device.

    Returns:
        The model's version (SHA-256 of the file). On one kind of CPU with the same number of threads it depends on the
        arguments only.

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
    epochs = split_steps(options.steps or task.training.steps)
    loader = make_loader([*cases, *unlabelled] if unlabelled else cases, task, epochs[1], seed, plain=bool(unlabelled))
    network = new_network(task, seed, options.start).to(device)
    average = new_average(network) if unlabelled else None
    consistency = teacher.consistency if teacher is not None and unlabelled else 0.0
    state = TrainingState(network, new_optimizer(network, task), device, average, consistency)
    make_trainer(state, loader, task, epochs, options.on_step).run()
    return save_model(out_path, network if average is None else average.module, task)
