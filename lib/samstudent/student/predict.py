"""Prediction of a trained student, and its model file."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import SlidingWindowInferer
from numpy.typing import NDArray

from samstudent.errors import Conflict, NotFound, UserError
from samstudent.imaging.case import CaseImage, for_student
from samstudent.student.grid import from_student_grid, place, to_student_grid
from samstudent.student.network import build_network, probabilities_of
from samstudent.task import Task
from samstudent.util.device import autocast, pick_device
from samstudent.util.files import atomic_write

#: Keys of the task that a model depends on.
_MODEL_KEYS = ("dimension", "structures", "overlap", "image", "student")


class Student:
    """A trained network for prediction; several threads may use it at the same time."""

    #: No ensemble (``pseudolabels.out_of_fold.MemberPredictor``).
    is_single_model = True

    def __init__(self, network: torch.nn.Module, task: Task, version: str, device: torch.device) -> None:
        self.network = network.eval().to(device)
        self.task = task
        #: SHA-256, in hex, of the model file's bytes.
        self.version = version
        self.device = device

    @classmethod
    def load(cls, path: Path, task: Task, device: str | None = None) -> Student:
        """Read a model file that ``save_model`` wrote.

        Raises:
            NotFound: no such file.
            UserError: no model file, or one of a task with other ``_MODEL_KEYS``.
        """
        target = pick_device(device)
        network = build_network(task)
        version = load_weights(network, path, task)
        return cls(network, task, version, target)

    def predict(self, image: CaseImage, size: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Probabilities float32 (S, *spatial) in [0, 1] on the image's canonical grid, or (S, *size) covering it."""
        placement = place(image.grid.spatial_shape, image.grid.spacing, self.task)
        shown = to_student_grid(for_student(image, self.task.image), placement)
        return from_student_grid(self.on_grid(shown), placement, size)

    def predict_members(
        self, image: CaseImage, size: tuple[int, ...] | None = None, *, heads: bool = True
    ) -> NDArray[Any]:
        """``predict`` as an ensemble of one, float32 (1, S, *spatial)."""
        return self.predict(image, size)[None]

    def on_grid(self, shown: NDArray[Any]) -> NDArray[Any]:
        """Probabilities float32 (S, *grid) of an image on the student's grid, float32 (C, *grid)."""
        with torch.inference_mode():
            tensor = torch.from_numpy(shown)[None].to(self.device)
            if self.task.dimension == 2:
                probabilities = self._probabilities(tensor)
            else:
                window = SlidingWindowInferer(self.task.student.size, sw_batch_size=2, overlap=0.5, mode="gaussian")
                probabilities = torch.as_tensor(window(tensor, self._probabilities))
        result: NDArray[Any] = probabilities[0].float().cpu().numpy()
        return result

    def _probabilities(self, batch: torch.Tensor) -> torch.Tensor:
        with autocast(self.device):
            logits = self.network(batch)
        return probabilities_of(logits, self.task)


def binarize(probabilities: NDArray[Any], task: Task) -> NDArray[Any]:
    """Masks bool (S, *spatial) of probabilities (S, *spatial): threshold at 0.5 where structures may overlap, else
    arg-max including background."""
    if task.overlap:
        return np.asarray(probabilities >= 0.5)
    present = probabilities.max(axis=0) > 1 - probabilities.sum(axis=0)
    values = np.arange(len(probabilities)).reshape(-1, *(1,) * (probabilities.ndim - 1))
    return np.asarray((probabilities.argmax(axis=0) == values) & present)


def save_model(path: Path, network: torch.nn.Module, task: Task) -> str:
    """Write weights and task to one file, atomically. Returns its SHA-256, the model's version."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"model": state, "task": task.model_dump_json()}, buffer)
    atomic_write(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_weights(network: torch.nn.Module, path: Path, task: Task) -> str:
    """Load a model file into a network on the CPU. Returns the file's SHA-256. Raises as ``Student.load``."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such model file") from error
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        weights, made_for = loaded["model"], json.loads(loaded["task"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a model file of samstudent, or damaged") from error
    _check_fit(path, made_for, task)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: its weights do not fit the network of task {task.name!r}") from error
    return hashlib.sha256(content).hexdigest()


def _check_fit(path: Path, made_for: dict[str, Any], task: Task) -> None:
    current = task.model_dump(mode="json")
    for student in (current["student"], made_for.get("student", {})):
        student.pop("checkpoint", None)  # initial weights, which a trained model does not need
    trained, now = made_for.get("structures"), current["structures"]
    if isinstance(trained, dict) and trained != now and set(trained) != set(now):
        raise Conflict(
            f"{path}: this student segments {', '.join(trained)}; task {task.name!r} has"
            f" {', '.join(now)} now. Run a round, which trains one for these (samstudent train, or POST"
            " /train/student), or restore the task file"
        )
    if differing := [key for key in _MODEL_KEYS if made_for.get(key) != current[key]]:
        raise UserError(
            f"{path}: this model was trained for a task with other {', '.join(differing)} than task {task.name!r} has; "
            "train a new one, or restore the task file"
        )
