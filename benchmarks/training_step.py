"""Time of a training step of the student, and of its parts.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py

Synthetic cases, batches of six, one thread. Milliseconds of CPU time (medians), which depends less on other work on the
machine than wall time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from samstudent.student.data import make_loader
from samstudent.student.loss import StudentLoss
from samstudent.student.network import has_interior
from samstudent.student.training import new_network, new_optimizer
from samstudent.student.training_case import TrainingCase
from samstudent.task import Task
from samstudent.util.device import autocast

#: Size of the student's input, number of structures, whether they overlap.
SETTINGS = (
    ((128, 128), 2, False),
    ((192, 192), 2, False),
    ((256, 256), 2, False),
    ((256, 256), 5, True),
    ((256, 512), 32, False),
)
PARTS = ("loading", "forward", "loss", "backward")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("size", "structures", "overlap", *PARTS, "sum")
    for size, structures, overlap in SETTINGS:
        times = measure(size, structures, overlap, options.steps)
        shown = [f"{1000 * t:.0f}" for t in (*times, sum(times))]
        table.add_row(f"{size[0]}x{size[1]}", str(structures), "yes" if overlap else "no", *shown)
    Console().print(table)


def measure(size: tuple[int, int], structures: int, overlap: bool, steps: int) -> list[float]:
    """Median seconds of each part."""
    content = {"name": "drawn", "dimension": 2, "overlap": overlap, "student": {"size": size}}
    task = Task.model_validate(content | {"structures": [f"s{i}" for i in range(structures)]})
    batches = iter(make_loader([drawn(size, structures, seed) for seed in range(12)], task, steps + 1, seed=0))
    network, loss = new_network(task, seed=0), StudentLoss(overlap, has_interior(task))
    optimizer = new_optimizer(network, task)
    times = []
    for _ in range(steps + 1):
        clock = [time.process_time()]
        batch = next(batches)
        clock.append(time.process_time())
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu")):
            logits = network(batch["image"])
        clock.append(time.process_time())
        answer = logits.detach().requires_grad_()
        loss(answer, batch).total.backward()
        clock.append(time.process_time())
        logits.backward(answer.grad)
        optimizer.step()
        clock.append(time.process_time())
        times.append(np.diff(clock))
    # The first step warms up.
    return [float(t) for t in np.median(times[1:], axis=0)]


def drawn(size: tuple[int, int], structures: int, seed: int) -> TrainingCase:
    """Noise, labelled in squares; every second case is pseudo-labelled."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, structures + 1, (size[0] // 16, size[1] // 16)).repeat(16, axis=0).repeat(16, axis=1)
    masks = label == np.arange(1, structures + 1)[:, None, None]
    weights = np.ones(structures, dtype=np.float32)
    image = rng.random((1, *size), dtype=np.float32)
    return TrainingCase(str(seed), image, masks, np.zeros_like(masks), weights, human=seed % 2 == 0)


if __name__ == "__main__":
    main()
