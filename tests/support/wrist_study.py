"""Drawn radiographs of wrists with labels, a student and pseudo labels, for pictures and benchmarks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samstudent.demo import phantom
from samstudent.demo.study import DemoStudy, prepare_study

ROOT = Path(__file__).resolve().parents[2]
TASK = ROOT / "configs" / "phantom.yaml"


def draw_wrists(folder: Path, count: int, shape: tuple[int, int], seed: int) -> dict[str, NDArray[np.bool_]]:
    """Write radiographs as wrist<number>.png; returns their masks bool (S, y, x), in the order of ``phantom.NAMES``.

    Args:
        folder: created if missing.
        count: number of radiographs.
        shape: in pixels, (y, x).
        seed: of the first one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    masks = {}
    for number in range(count):
        film = phantom.make_radiograph(np.random.default_rng(seed + number), shape)
        Image.fromarray(film.image).save(folder / f"wrist{number}.png")
        masks[f"wrist{number}"] = film.masks
    return masks


@dataclass(frozen=True)
class WristOptions:
    """Size of a study.

    Attributes:
        shape: of the radiographs in pixels, (y, x).
        cases, holdout, labels: number of training cases, of labelled cases that compare students, and of labels.
        steps: optimisation steps of the student.
        seed: of the radiographs.
    """

    shape: tuple[int, int]
    cases: int
    holdout: int
    labels: int
    steps: int
    seed: int = 4


def pseudo_labelled_wrists(folder: Path, options: WristOptions) -> DemoStudy:
    """Study in which a student is trained on the labels, and SAM refines its masks of the other cases.

    Args:
        folder: empty folder for the study and its source.
        options: its size.
    """
    count = options.cases + options.holdout
    phantom.make_study(folder / "source", count, options.seed, options.shape, options.holdout)
    study = prepare_study(folder / "source", folder, options.cases)
    final = study.folder / "labels" / "final"
    final.mkdir(parents=True)
    for case in (*study.holdout, *study.train[: options.labels]):
        shutil.copy(study.truth[case], final)
    for command in (["train", "--pseudo-labels", "off", "--steps", str(options.steps)], ["pseudo-label"]):
        arguments = [*command, "--studies", str(study.folder), "--task", str(TASK)]
        subprocess.run([sys.executable, "-m", "samstudent.cli.main", *arguments], check=True)
    return study
