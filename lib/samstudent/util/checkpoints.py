"""Checkpoints of pretrained networks: their weights, read without running code from the file, and their digest."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from samstudent.errors import NotFound, UserError
from samstudent.util.files import sha256_file


def checked_digest(path: Path, key: str, expected: str | None = None) -> str:
    """SHA-256 of a checkpoint's bytes, hex.

    Args:
        path: of the checkpoint.
        key: key of the task file that names it, for the message.
        expected: digest that it must have; None: any.

    Raises:
        NotFound: there is no such file.
        UserError: its digest is not ``expected``.
    """
    if not path.is_file():
        raise NotFound(f"{path}: no such file; {key} must be the path of the model's weights (.pth)")
    digest = sha256_file(path)
    if expected is not None and digest != expected:
        raise UserError(f"{path}: its SHA-256 is {digest}, expected {expected}: a damaged download or another file")
    return digest


def read_checkpoint(path: Path) -> Any:
    """Content of a file written by ``torch.save``, on the CPU; tensors and plain values only.

    Raises:
        UserError: no such checkpoint. Names the file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a PyTorch checkpoint of plain weights: {reason}") from error
    except (pickle.UnpicklingError, ValueError, KeyError) as error:
        # PyTorch's own text is of several lines, and recommends to run the code in the file.
        raise UserError(
            f"{path}: not a PyTorch checkpoint of plain weights; expected torch.save(network.state_dict(), ...)"
        ) from error


def read_weights(path: Path) -> dict[str, Any]:
    """Weights by name from a state dict written by ``torch.save``, bare or under the key "model".

    Raises:
        UserError: no such checkpoint. Names the file.
    """
    state = read_checkpoint(path)
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict):
        raise UserError(f"{path}: contains a {type(state).__name__}, not the weights of a network")
    return state


def load_weights(model: torch.nn.Module, path: Path, name: str) -> None:
    """Load a checkpoint into a model; its weights must be exactly those of the model.

    Args:
        model: changed in place.
        path: a state dict written by ``torch.save``, bare or under the key "model".
        name: the model's name, for the message.

    Raises:
        UserError: no such checkpoint, or weights of another model. Names the file.
    """
    state = read_weights(path)
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(map(str, state.keys() - own.keys()))
    if missing or unknown:
        examples = ", ".join((missing or unknown)[:3])
        raise UserError(
            f"{path}: not the weights of {name}: {len(missing)} missing, {len(unknown)} unknown "
            f"({'missing' if missing else 'unknown'}: {examples})"
        )
    for key, value in own.items():
        if not isinstance(state[key], torch.Tensor) or state[key].shape != value.shape:
            found = tuple(getattr(state[key], "shape", ()))
            raise UserError(f"{path}: not the weights of {name}: {key} is {found}, should be {tuple(value.shape)}")
    model.load_state_dict(state)
