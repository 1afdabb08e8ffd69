"""Ensemble of predictors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.case import CaseImage
from samstudent.pseudolabels.case import Predictor
from samstudent.student.predict import Student
from samstudent.task import Task


class Ensemble:
    """Predictor whose probabilities are the mean of its members'.

    Args:
        predictors: the members.

    Raises:
        ValueError: no member.
    """

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        if not predictors:
            raise ValueError("an ensemble needs at least one member")
        self.predictors = list(predictors)
        #: SHA-256, in hex, over the members' versions in their order.
        self.version = hashlib.sha256("\n".join(p.version for p in self.predictors).encode()).hexdigest()

    @classmethod
    def load(cls, paths: Sequence[Path], task: Task, device: str | None = None) -> Ensemble:
        """Read model files of students. Raises as ``Student.load``."""
        return cls([Student.load(path, task, device) for path in paths])

    def predict(self, image: CaseImage, size: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Mean probabilities float32 (S, *spatial) on the image's canonical grid, or (S, *size) covering it."""
        # One member at a time: 32 structures of a large radiograph take hundreds of megabytes.
        total = np.array(self.predictors[0].predict(image, size), dtype=np.float32)
        for predictor in self.predictors[1:]:
            total += predictor.predict(image, size)
        total /= len(self.predictors)
        return total
