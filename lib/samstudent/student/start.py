"""Initial weights of a student from a file: a model of samstudent, also of another task, or the weights of a network of
the user's own with the same layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from samstudent.errors import NotFound, UserError
from samstudent.student.network import SpatialPrior, has_interior, head_prefix
from samstudent.task import Task
from samstudent.util.checkpoints import read_checkpoint

Weights = dict[str, Any]

#: Names of a state dict in checkpoints of several programs.
_STATE_KEYS = ("model", "state_dict", "network")
#: Slopes of PReLU, the activation of MONAI's ``UNet`` by default. The student's leaky ReLU has a slope that theirs
#: hardly leave (``network._ACTIVATION``).
_SLOPES = ".A.weight"
#: Last level of MONAI's ``UNet``, which has one map for each output where no head follows.
_UNET_TOP = "0.model.2."
#: Name of the last output of a network that ``has_interior``; no name of a structure.
_INTERIOR = "<interior>"
#: Number of differences that an error names.
_NAMED = 3


def load_start(network: torch.nn.Module, path: Path, task: Task) -> str:
    """Load initial weights into a network.

    Encoder and decoder must fit. Outputs are loaded by the names of their structures; those of other structures keep
    the network's own weights. A state dict without a task has no names: its outputs are loaded if they are as many.

    Args:
        network: of ``build_network``, on the CPU; changed in place.
        path: a model file of samstudent, or a state dict written by ``torch.save``, bare or under "model",
            "state_dict" or "network".
        task: of the network.

    Returns:
        Sentence on what was loaded and what is new.

    Raises:
        NotFound: no such file.
        UserError: no checkpoint, or of a network of another form; names the first differences.
    """
    weights, made_for = _read(path)
    body = network.network if isinstance(network, SpatialPrior) else network
    own, prior = body.state_dict(), weights.pop("prior", None)
    weights = _renamed(weights, own)
    slopes = [name for name in weights if name.endswith(_SLOPES) and name not in own]
    for name in slopes:
        del weights[name]
    heads = [head_prefix(task.student)]
    if task.student.network == "unet" and not any(name.startswith(heads[0]) for name in weights):
        heads.append(_UNET_TOP)
    is_head = tuple(heads)
    _check_fit(path, _without(weights, is_head), _without(own, is_head), task)
    found = _Outputs(made_for, task)
    loaded = own | _without(weights, is_head)
    for name, value in own.items():
        if name.startswith(heads[0]):
            loaded[name] = found.placed(value, weights.get(name))
    body.load_state_dict(loaded)
    if isinstance(network, SpatialPrior):
        with torch.no_grad():
            network.prior.copy_(found.placed(network.prior.detach(), prior))
    return found.sentence(path, "" if not slopes else "; not the slopes of its PReLU")


class _Outputs:
    """Outputs of a file in the order of a task.

    Args:
        made_for: task of the file; None: not known.
        task: of the network.
    """

    def __init__(self, made_for: Mapping[str, Any] | None, task: Task) -> None:
        self.theirs = _output_names(task.names, task.overlap)
        self.names = [*self.theirs, _INTERIOR] if has_interior(task) else self.theirs
        self.structures = task.names
        self.kept: set[str] = set()
        if made_for is not None:
            # The logits of a sigmoid are no others of a softmax.
            same_kind = made_for["overlap"] == task.overlap
            self.theirs = _output_names(list(made_for["structures"]), task.overlap) if same_kind else []

    def placed(self, own: torch.Tensor, found: Any) -> torch.Tensor:
        """Parameter (outputs, ...) with the rows of the file for the structures that both have."""
        if not isinstance(found, torch.Tensor) or found.shape[1:] != own.shape[1:]:
            return own
        theirs = self.theirs if len(found) == len(self.theirs) else [*self.theirs, _INTERIOR]
        if not self.theirs or len(found) != len(theirs):
            return own
        result = own.clone()
        for row, name in enumerate(self.names):
            if name in theirs:
                result[row] = found[theirs.index(name)]
                self.kept.add(name)
        return result

    def sentence(self, path: Path, more: str) -> str:
        """What was loaded and what is new."""
        new = [name for name in self.structures if name not in self.kept]
        parts = "all" if not new else f"encoder and decoder; new are the outputs of {', '.join(new)}"
        return f"Initial weights of {path}: {parts}{more}"


def _output_names(structures: Sequence[str], overlap: bool) -> list[str]:
    return [*([] if overlap else ["background"]), *structures]


def _read(path: Path) -> tuple[Weights, Mapping[str, Any] | None]:
    """Weights by name, and the task that they were trained for, where the file has it."""
    if not path.is_file():
        raise NotFound(f"{path}: no such file; initial weights are a model file of samstudent or a state dict (.pt)")
    content = read_checkpoint(path)
    made_for: Mapping[str, Any] | None = None
    if isinstance(content, dict):
        if isinstance(text := content.get("task"), str):
            with suppress(ValueError):  # another program's key
                made_for = json.loads(text)
        if not isinstance(made_for, dict) or not {"structures", "overlap"} <= made_for.keys():
            made_for = None
        content = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path}: contains no weights; initial weights are a state dict written by torch.save")
    return {str(name): value for name, value in content.items()}, made_for


def _renamed(weights: Weights, own: Mapping[str, Any]) -> Weights:
    """Weights with the names of the network, where a network that contains it has added a prefix to one of them."""
    first = next(iter(own)).split(".")
    best = max(weights, key=lambda name: _common_end(first, name.split(".")), default="")
    common = _common_end(first, best.split("."))
    ours = "".join(f"{part}." for part in first[: len(first) - common])
    theirs = "".join(f"{part}." for part in best.split(".")[:-common]) if common else ""
    renamed = {
        ours + name[len(theirs) :] if name.startswith(theirs) else name: value for name, value in weights.items()
    }
    # Of another network only a few names end alike.
    return renamed if 2 * len(renamed.keys() & own.keys()) > len(own) else weights


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    """Number of equal parts at the end of two names."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _without(weights: Mapping[str, Any], prefixes: tuple[str, ...]) -> Weights:
    return {name: value for name, value in weights.items() if not name.startswith(prefixes)}


def _check_fit(path: Path, weights: Weights, own: Weights, task: Task) -> None:
    """Raise UserError unless the weights have exactly the names and shapes of the network."""
    differences = []
    for name, value in own.items():
        shape = getattr(weights.get(name), "shape", None)
        if name not in weights:
            differences.append(f"{name} is missing")
        elif shape != value.shape:
            found = "no tensor" if shape is None else str(tuple(shape))
            differences.append(f"{name} is {found}, should be {tuple(value.shape)}")
    differences += [f"{name} is not known" for name in weights if name not in own]
    if not differences:
        return
    section = task.student
    channels = "" if section.has_encoder else f", channels {list(section.channels or ())}"
    more = f"; and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
    raise UserError(
        f"{path}: not the weights of student.network {section.network}{channels} of task {task.name!r}: "
        f"{'; '.join(differences[:_NAMED])}{more}"
    )
