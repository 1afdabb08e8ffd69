"""Adapted SAM: a SAM with other weights in its mask decoder, in memory and on disk.

``adapt.adapt`` trains the weights. An adapted SAM is a backend like any other; it shares all other weights with the SAM
that was adapted.
"""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from samstudent.errors import NotFound, UserError
from samstudent.sam.model import SamModel
from samstudent.util.files import atomic_write

#: Name of a weight in the model's state dict -> its tensor on the CPU.
Weights = dict[str, torch.Tensor]

#: First parts of the names of the weights that decode; the others make the embedding.
DECODING = ("mask_decoder.", "prompt_encoder.")
#: Version of the file's layout.
_VERSION = "1"


@dataclass(frozen=True, eq=False)
class Adaptation:
    """Result of ``adapt.adapt``: weights, and figures of the cross-validation.

    Attributes:
        weights: of the mask decoder, trained on all examples; empty where ``used`` is False.
        folds: weights by left-out fold, trained on the others for as many steps; empty where ``used`` is False.
        steps: best number of steps on the left-out cases; 0: never better than the plain SAM.
        plain: mean Dice of the plain SAM on the left-out cases; nan where nothing could be compared.
        adapted: mean Dice of the adapted SAM on them, after ``steps`` steps.
        gain: mean paired difference of the two over cases.
        error: standard error of ``gain``.
        used: whether the adapted SAM is better: the gain exceeds its standard error.
        reason: one line for users about ``used``.
        curve: per checkpoint "step", "dice" and "folds" (fold -> Dice).
        labels: ids of the cases.
        settings: ``AdaptationOptions``, seed and stages of the prompts.
        seconds: wall time.
    """

    weights: Weights = field(repr=False)
    folds: dict[int, Weights] = field(repr=False)
    steps: int
    plain: float
    adapted: float
    gain: float
    error: float
    used: bool
    reason: str
    curve: list[dict[str, Any]]
    labels: list[str]
    settings: dict[str, Any]
    seconds: float

    def record(self) -> dict[str, Any]:
        """Everything but the weights, for JSON; None instead of nan."""
        content = {key: value for key, value in vars(self).items() if key not in ("weights", "folds")}
        return {key: None if isinstance(value, float) and value != value else value for key, value in content.items()}


def with_weights(backend: SamModel, weights: Mapping[str, torch.Tensor], digest: str | None = None) -> SamModel:
    """A backend with other weights in its mask decoder. ``backend`` is loaded and not changed.

    Args:
        backend: the plain SAM.
        weights: see ``Weights``.
        digest: of the result; None: ``digest_of``.

    Raises:
        UserError: this SAM has no such weight, or one of another shape.
    """
    plain = backend.load()
    _check(plain, weights)
    model = private_copy(plain, weights)
    with torch.no_grad():
        state = model.state_dict()
        for name, value in weights.items():
            state[name].copy_(value)
    result = over_model(backend, model)
    result.digest = digest or digest_of(backend, weights)
    return result


def digest_of(backend: SamModel, weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the plain SAM's digest and the weights' names, types, shapes and bytes, hex."""
    digest = hashlib.sha256(backend.digest.encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def private_copy(model: Any, own: Iterable[str]) -> Any:
    """A copy of a model with its own parameters of these names; it shares the memory of all other tensors.

    The shared parameters have no gradients, so that training of the copy does not change the model.
    """
    mine = set(own)
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for name, parameter in model.named_parameters():
        if name not in mine:
            shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(model, shared)


def over_model(backend: SamModel, model: Any) -> SamModel:
    """The backend with another model, which is in evaluation mode on its device; ``backend`` must be loaded."""
    result = copy.copy(backend)
    result._model = model
    result._lock = threading.RLock()
    return result


def save_adapted(path: Path, adaptation: Adaptation, base: SamModel) -> str:
    """Write an adaptation to a safetensors file with its record.

    Args:
        path: the file, replaced atomically.
        adaptation: its ``weights`` and record are written, not those of the folds.
        base: the plain SAM.

    Returns:
        The digest of the backend that ``load_adapted`` returns.

    Raises:
        UserError: there are no weights, because the plain SAM was better.
    """
    if not adaptation.weights:
        raise UserError(f"{path}: nothing to save, the plain SAM is used: {adaptation.reason}")
    return save_weights(path, adaptation.weights, base, adaptation.record())


def save_weights(path: Path, weights: Weights, base: SamModel, record: Mapping[str, Any]) -> str:
    """Write weights of prompt encoder and mask decoder, for ``load_adapted``, with a record of JSON values.

    Returns:
        The digest of the backend that ``load_adapted`` returns.
    """
    digest = digest_of(base, weights)
    meta = {
        "format": _VERSION,
        "backend": base.name,
        "base": base.digest,
        "digest": digest,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "record": json.dumps(record, allow_nan=False),
    }
    atomic_write(path, save({name: weight.contiguous() for name, weight in weights.items()}, metadata=meta))
    return digest


def load_adapted(path: Path, base: SamModel) -> SamModel:
    """The adapted SAM in a file of ``save_adapted``.

    Args:
        path: the file.
        base: the plain SAM that was adapted.

    Raises:
        NotFound: there is no such file.
        UserError: it is damaged, no adapted SAM, or adapted from another SAM than ``base``. Names the file.
    """
    meta, weights = _read(path)
    if meta.get("base") != base.digest:
        raise UserError(
            f"{path}: adapted from the SAM {meta.get('backend')} of digest {meta.get('base')}, "
            f"but this is {base.name} of digest {base.digest}"
        )
    if digest_of(base, weights) != meta.get("digest"):
        raise UserError(f"{path}: damaged: its weights do not match their digest")
    try:
        return with_weights(base, weights, meta["digest"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read(path: Path) -> tuple[dict[str, str], Weights]:
    if not path.is_file():
        raise NotFound(f"{path}: no such file of an adapted SAM")
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a file of an adapted SAM: {error}") from error
    if meta.get("format") != _VERSION:
        raise UserError(f"{path}: not an adapted SAM of a known format (format {meta.get('format')}, not {_VERSION})")
    return meta, weights


def _check(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise UserError for weights of the image encoder: embeddings must be the same as those of the plain SAM."""
    parameters = dict(model.named_parameters())
    for name, tensor in weights.items():
        fits = name.startswith(DECODING) and name in parameters and parameters[name].shape == tensor.shape
        if not fits:
            raise UserError(f"the adapted weight {name} {tuple(tensor.shape)} does not fit this SAM's decoder")
