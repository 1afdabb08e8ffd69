"""Training a student with MONAI's engine: the parts, and ``train_student``, which puts them together.

Where unlabelled cases are given, a running average of the weights (``new_average``) is kept beside the network: the
mean teacher (Tarvainen and Valpola, NeurIPS 2017, arXiv:1703.01780), the usual baseline of learning from unlabelled
images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine.engine import Engine
from ignite.engine.events import Events
from monai.engines.trainer import SupervisedTrainer
from torch.nn.functional import mse_loss
from torch.optim.swa_utils import AveragedModel

from samstudent.student.data import TrainingCase, make_loader
from samstudent.student.loss import StudentLoss
from samstudent.student.network import build_network
from samstudent.student.predict import load_weights, save_model
from samstudent.task import Task
from samstudent.util.device import autocast, half_precision, pick_device

#: Steps of one of the host's epochs: a client that offers epochs only gets something to count.
EPOCH_STEPS = 50
#: Share of the steps over which the learning rate rises.
WARM_UP = 0.05
#: Largest norm of a gradient; keeps one odd pseudo label from spoiling the weights.
CLIP = 5.0

#: Decay of the mean teacher's running average.
DECAY = 0.99
#: Highest weight of the mean teacher's consistency, reached at the last step, as in the collection SSL4MIS.
CONSISTENCY = 0.1

#: Called after every step with its number from 1, the number of all steps, and the loss.
OnStep = Callable[[int, int, float], None]


def split_steps(steps: int) -> tuple[int, int]:
    """(epochs, steps of each) that make at least ``steps`` steps and fewer than one epoch's count more."""
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
    """Learning rate of a step (from 0) as a share of the highest: a short rise, then half a cosine down to nearly 0."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def new_average(network: torch.nn.Module, decay: float = DECAY) -> AveragedModel:
    """Running average of a network's weights.

    Its decay is low in the first steps, ``1 - 1 / step``: their weights are soon forgotten.

    Args:
        network: whose weights are averaged.
        decay: weight of the average so far, later on.
    """

    def mix(average: torch.Tensor, current: torch.Tensor, steps: torch.Tensor | int) -> torch.Tensor:
        return average.lerp(current, 1 - min(1 - 1 / (int(steps) + 1), decay))

    return AveragedModel(network, avg_fn=mix).eval()


class TrainStep:
    """One step of a SupervisedTrainer (its ``iteration_update``): forward in reduced precision, loss in float32.

    Args:
        average: updated after the step.
        consistency: highest weight of the mean teacher's part of the loss: the mean square of the difference between
            the probabilities of the network, which sees an augmented image, and of ``average``, which sees the same
            image with its intensities as they were, over the cases of the batch of which nothing is known. 0: none.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        task: Task,
        steps: int,
        device: torch.device,
        average: AveragedModel | None = None,
        consistency: float = 0.0,
    ) -> None:
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps))
        self.task, self.steps, self.device = task, steps, device
        self.average, self.consistency = average, consistency
        # Only float16 loses small gradients; bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(device.type, enabled=half_precision(device) == torch.float16)

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
        """Background, too, where there is one."""
        return logits.float().sigmoid() if self.task.overlap else logits.float().softmax(dim=1)


def make_trainer(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Iterable[dict[str, torch.Tensor]],
    task: Task,
    epochs: int,
    epoch_steps: int,
    device: torch.device,
    on_step: OnStep | None = None,
    average: AveragedModel | None = None,
    consistency: float = 0.0,
) -> SupervisedTrainer:
    """MONAI's trainer over the parts; network, optimizer and average are on ``device`` already.

    Args:
        average: what ``new_average`` gave for this network.
        consistency: see ``TrainStep``; the loader must give ``plain`` images then.
    """
    steps = epochs * epoch_steps
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=epochs,
        train_data_loader=loader,
        epoch_length=epoch_steps,
        network=network,
        optimizer=optimizer,
        loss_function=StudentLoss(task.overlap),
        iteration_update=TrainStep(optimizer, task, steps, device, average, consistency),
    )
    if on_step is not None:

        def report(engine: Engine) -> None:
            on_step(engine.state.iteration, steps, engine.state.output["loss"])  # type: ignore[index]

        trainer.add_event_handler(Events.ITERATION_COMPLETED, report)
    return trainer


def train_student(
    cases: Sequence[TrainingCase],
    task: Task,
    out_path: Path,
    *,
    steps: int | None = None,
    seed: int | None = None,
    start: Path | None = None,
    device: str | None = None,
    on_step: OnStep | None = None,
    unlabelled: Sequence[TrainingCase] | None = None,
    consistency: float = CONSISTENCY,
) -> str:
    """Train on prepared cases and write the last weights, or those of a mean teacher.

    Args:
        cases: human- and pseudo-labelled cases in any order; at least one human-labelled.
        task: network, augmentation and so on; ``steps`` and ``seed`` replace those of ``task.training``.
        out_path: the model file; written at the end, at once.
        start: a model file to go on from; None: fresh weights.
        device: "cpu", "cuda", "cuda:1"; None: the best there is.
        unlabelled: cases of which nothing is known (``data.without_label``): trains a mean teacher, whose weights are
            saved. They fill batches as pseudo labels do, beside ``data.HUMAN_SHARE``.
        consistency: the highest weight of the mean teacher's part of the loss.

    Returns:
        The model's version (SHA-256 of the file). On one kind of CPU with the same number of threads it depends on the
        arguments alone.

    Raises:
        UserError: no human-labelled case; the task's network is not possible; ``start`` does not fit.
        ValueError: something is known of an ``unlabelled`` case.
    """
    if any(case.human or case.weights.any() for case in unlabelled or ()):
        raise ValueError("unlabelled cases are those of data.without_label")
    teacher = bool(unlabelled)
    target = pick_device(device)
    seed = task.training.seed if seed is None else seed
    epochs, epoch_steps = split_steps(steps or task.training.steps)
    loader = make_loader([*cases, *unlabelled] if unlabelled else cases, task, epoch_steps, seed, plain=teacher)
    network = new_network(task, seed, start).to(target)
    optimizer = new_optimizer(network, task)
    average = new_average(network) if teacher else None
    weight = consistency if teacher else 0.0
    make_trainer(network, optimizer, loader, task, epochs, epoch_steps, target, on_step, average, weight).run()
    return save_model(out_path, network if average is None else average.module, task)
