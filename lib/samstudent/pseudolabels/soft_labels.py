"""Soft labels on disk: probabilities of pseudo labels after refinement. Label files hold masks only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from samstudent.errors import UserError
from samstudent.pseudolabels.case import PseudoLabel
from samstudent.pseudolabels.provenance import Provenance
from samstudent.util.files import atomic_write


class SoftLabels:
    """One safetensors file a case, uint8 (a 255th is finer than any use of it), on the grid that the label was made on.

    Args:
        folder: made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def keep(self, case_id: str, label: PseudoLabel) -> None:
        """Keep a label's probabilities in place of earlier ones of the case."""
        soft = np.ascontiguousarray((label.soft.astype(np.float32) * 255).round().astype(np.uint8))
        meta = {"made_with": _digest(label.provenance)}
        atomic_write(self._path(case_id), save({"soft": soft}, metadata=meta))

    def path_of(self, case_id: str, made_with: Provenance) -> Path | None:
        """The file of a case, if it is there and was made with just this."""
        path = self._path(case_id)
        try:
            with safe_open(path, framework="np") as file:
                return path if (file.metadata() or {}).get("made_with") == _digest(made_with) else None
        except (FileNotFoundError, SafetensorError):
            return None

    def _path(self, case_id: str) -> Path:
        # An id may hold what a file name may not.
        return self.folder / f"{hashlib.sha256(case_id.encode()).hexdigest()[:32]}.safetensors"


def read_soft(path: Path) -> NDArray[Any]:
    """The probabilities float32 (S, *grid) in a file of ``SoftLabels``.

    Raises:
        UserError: it is gone or damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            return np.asarray(file.get_tensor("soft").astype(np.float32) / 255)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: the soft pseudo label cannot be read: {error}") from error


def _digest(made_with: Provenance) -> str:
    content = {key: value for key, value in made_with.as_json().items() if key != "time"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
