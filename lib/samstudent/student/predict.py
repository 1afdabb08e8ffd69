"""A trained student on one image."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from monai.inferers.inferer import SlidingWindowInferer
from numpy.typing import NDArray

from samstudent.errors import Conflict, NotFound, UserError
from samstudent.imaging.case import CaseImage, for_student
from samstudent.student.grid import from_student_grid, place, to_student_grid
from samstudent.student.network import build_network
from samstudent.task import Task
from samstudent.util.device import autocast, pick_device
from samstudent.util.files import atomic_write

#: What a model depends on; a task that differs here needs another model.
_FIXED = ("dimension", "structures", "overlap", "image", "student")


class Student:
    """A network with its weights, ready to predict; several threads may use it at once."""

    #: It is no ensemble (``pseudolabels.out_of_fold.MemberPredictor``).
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
            UserError: no model file, or made for a task that differs in what a model depends on.
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
        """``predict`` as of an ensemble of one, float32 (1, S, *spatial)."""
        return self.predict(image, size)[None]

    def on_grid(self, shown: NDArray[Any]) -> NDArray[Any]:
        """Probabilities float32 (S, *grid) of what the student sees, float32 (C, *grid)."""
        with torch.inference_mode():
            tensor = torch.from_numpy(shown)[None].to(self.device)
            if self.task.dimension == 2:
                probabilities = self._probabilities(tensor)
            else:
                window = SlidingWindowInferer(self.task.student.size, sw_batch_size=2, overlap=0.5, mode="gaussian")
                probabilities = torch.as_tensor(window(tensor, self._probabilities))
        answer: NDArray[Any] = probabilities[0].float().cpu().numpy()
        return answer

    def _probabilities(self, batch: torch.Tensor) -> torch.Tensor:
        with autocast(self.device):
            logits = self.network(batch)
        logits = logits.float()
        return torch.sigmoid(logits) if self.task.overlap else torch.softmax(logits, dim=1)[:, 1:]


def save_model(path: Path, network: torch.nn.Module, task: Task) -> str:
    """Write weights and task to one file, at once or not at all. Returns its SHA-256, the model's version."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"model": state, "task": task.model_dump_json()}, buffer)
    atomic_write(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_weights(network: torch.nn.Module, path: Path, task: Task) -> str:
    """Fill a network from a model file, on the CPU. Returns the file's SHA-256. Raises as ``Student.load``."""
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
    wanted = task.model_dump(mode="json")
    knows, now = made_for.get("structures"), wanted["structures"]
    if isinstance(knows, dict) and knows != now and set(knows) != set(now):
        raise Conflict(
            f"{path}: this student knows {', '.join(knows)}; task {task.name!r} has"
            f" {', '.join(now)} now. Run a round, which trains one for these (samstudent train, or POST"
            " /train/student), or restore the task file"
        )
    if differing := [key for key in _FIXED if made_for.get(key) != wanted[key]]:
        raise UserError(
            f"{path}: this model was trained for a task with other {', '.join(differing)} than task {task.name!r} has; "
            "train a new one, or restore the task file"
        )
