"""Dice of students with other networks, weights or settings: labels only, on the validation split of a folder.

    OMP_NUM_THREADS=1 python benchmarks/students.py FOLDER --labels 10 --size 192,192 --steps 300 \\
        --student unet --student efficientnet_lite0 --student efficientnet_lite0:intensity=0.2 \\
        --student efficientnet_lite0:weights=random --student efficientnet_lite0:weights=frozen

FOLDER is one of ``samstudent experiment``. A student is a network (``student.network``), with keys of ``training``
after a colon, separated by commas. ``weights=random``: the encoder begins with random weights; ``frozen``: it keeps
them. One row for each student: mean Dice and spread over the seeds, on new images and on its own labels, and the
processor time of a training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table

from samstudent.metrics import mean_of
from samstudent.research.setting import FolderOptions, Setting, make_setting
from samstudent.rounds.scoring import compare
from samstudent.student import training as training_module
from samstudent.student.encoder import EncoderUNet
from samstudent.student.predict import Student
from samstudent.student.training import TrainingOptions, train_student
from samstudent.task import Task

#: Training cases on which a student is measured again.
OWN = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--size", default="192,192")
    parser.add_argument("--steps", default="300", help="a number, or auto")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cases", type=int, default=40, help="largest number of measured cases")
    parser.add_argument("--student", action="append", required=True, dest="students")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(map(int, options.size.split(",")))
    table = Table(
        "student", "Dice", "own labels", "steps", "CPU s", title=f"{options.folder.name}, {options.labels} labels"
    )
    with tempfile.TemporaryDirectory() as folder:
        given = FolderOptions(options.folder, Path(folder), size=size, split="val", test_cases=options.cases)
        setting = make_setting(given, [options.labels])
        for name in options.students:
            runs = [run(setting, name, options, seed) for seed in map(int, options.seeds.split(","))]
            dice, own, steps, seconds = zip(*runs, strict=True)
            table.add_row(name, spread(dice), spread(own), f"{mean(steps):.0f}", f"{mean(seconds):.0f}")
    Console().print(table)


def run(setting: Setting, name: str, options: argparse.Namespace, seed: int) -> tuple[float, float, int, float]:
    """Dice on new images and on own labels, in percent, number of steps, and seconds of CPU time."""
    network, _, keys = name.partition(":")
    changes = dict(pair.split("=") for pair in keys.split(",") if pair)
    weights = changes.pop("weights", None)
    content = setting.task.model_dump(mode="json")
    content["student"]["network"] = network
    content["training"] |= {"steps": yaml.safe_load(options.steps)}
    content["training"] |= {key: yaml.safe_load(value) for key, value in changes.items()}
    task = Task.model_validate(content)
    store = setting.cases.store
    labelled = [store.training_case(store.add(setting.cases.source(id))) for id in setting.labelled(options.labels)]
    path = setting.output / "model.pt"
    start = time.process_time()
    with mock.patch.object(training_module, "load_encoder", load_of(weights)):
        trained = train_student(labelled, task, path, TrainingOptions(seed=seed))
    seconds = time.process_time() - start
    student = Student.load(path, task)
    new, own = (dice_of(student, setting, ids) for ids in (setting.test, setting.labelled(OWN)))
    print(f"{name}, seed {seed}: Dice {new:.1f}, own labels {own:.1f}, {trained.ending}", flush=True)
    return new, own, trained.steps, seconds


def load_of(weights: str | None) -> Any:
    """Function in place of ``load_encoder``."""

    def load_none(network: EncoderUNet, section: Any) -> None:
        if weights == "frozen":
            network.encoder.requires_grad_(False)

    return training_module.load_encoder if weights is None else load_none


def dice_of(student: Student, setting: Setting, ids: Sequence[str]) -> float:
    """Mean Dice over structures and cases, in percent."""
    store = setting.cases.store
    found = compare([student], [store.add(setting.cases.source(id)) for id in ids], store)[0]
    table = np.array(list(found.values()), dtype=float)  # None becomes nan
    return 100 * mean_of(np.array([mean_of(column) for column in table.T]))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
