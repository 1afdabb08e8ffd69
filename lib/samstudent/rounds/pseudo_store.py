"""Store of pseudo labels on the student's grid, for training: masks as bits, probabilities in 255 steps."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from samstudent.imaging.case import CaseImage
from samstudent.pseudolabels.case import PseudoLabel
from samstudent.pseudolabels.provenance import Provenance, is_current
from samstudent.rounds.case_store import CaseStore, PreparedCase
from samstudent.student.training_case import CaseLabel, TrainingCase, prepare_case
from samstudent.util.files import atomic_write

#: ``refined``: refined by SAM; ``raw``: a student's own masks.
Kind = Literal["refined", "raw"]


@dataclass(frozen=True)
class PseudoLabelStore:
    """Pseudo labels of prepared cases, the latest of each case and kind.

    Attributes:
        folder: created when missing.
        cases: the prepared cases, with the images.
    """

    folder: Path
    cases: CaseStore

    def save(self, case: PreparedCase, image: CaseImage, label: PseudoLabel) -> None:
        """Write the refined label of a case, replacing an earlier one."""
        arrays = CaseLabel(label.masks, label.ignore, soft=label.soft, human=False)
        targets = prepare_case(case.id, image, arrays, self.cases.task)
        self._write(case, "refined", targets, label.info())

    def save_raw(self, case: PreparedCase, image: CaseImage, masks: NDArray[Any], info: Mapping[str, Any]) -> None:
        """Write a student's own masks bool (S, *spatial) with their info (``labeling.raw_info``)."""
        self._write(case, "raw", prepare_case(case.id, image, CaseLabel(masks, human=False), self.cases.task), info)

    def info(self, case: PreparedCase, kind: Kind) -> dict[str, Any] | None:
        """``PseudoLabel.info`` of the stored label; None: there is none, or it is damaged."""
        try:
            with safe_open(self._path(case, kind), framework="np") as file:
                content: dict[str, Any] = json.loads(file.metadata()["info"])
                return content
        except (FileNotFoundError, SafetensorError, ValueError, KeyError, TypeError):
            return None

    def is_current(self, case: PreparedCase, kind: Kind, expected: Provenance) -> bool:
        """Whether the stored label has the expected provenance."""
        info = self.info(case, kind)
        return info is not None and is_current(info, expected)

    def training_case(
        self, case: PreparedCase, kind: Kind, weights: Sequence[float] | NDArray[Any] | None = None
    ) -> TrainingCase:
        """Training case of a pseudo-labelled case.

        Args:
            case: the prepared case.
            kind: of the label.
            weights: (S,) of the masks; None: probabilities are the targets, with weight 1 and without ignored pixels.
        """
        image = self.cases.training_case(case).image
        shape = (len(self.cases.task.names), *image.shape[1:])
        with safe_open(self._path(case, kind), framework="np") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        masks = _unpack(found["masks"], shape)
        empty = np.broadcast_to(np.False_, shape)
        if weights is None:
            soft = np.frombuffer(zlib.decompress(found["soft"].tobytes()), np.uint8).reshape(shape)
            probabilities = (soft.astype(np.float32) / 255).astype(np.float16)
            return TrainingCase(case.id, image, masks, empty, np.ones(shape[0], np.float32), False, probabilities)
        ignore = _unpack(found["ignore"], shape) if "ignore" in found else empty
        return TrainingCase(case.id, image, masks, ignore, np.asarray(weights, dtype=np.float32), False)

    def shown(self, case: PreparedCase, kind: Kind) -> NDArray[np.bool_]:
        """bool (S,), structures that the label's masks show."""
        with safe_open(self._path(case, kind), framework="np") as file:
            return np.asarray(file.get_tensor("shown").astype(bool))

    def prune(self) -> None:
        """Remove the labels of cases that are not in the case store any more."""
        keys = self.cases.keys()
        for path in self.folder.glob("*.safetensors"):
            if path.name.split(".")[0] not in keys:
                path.unlink(missing_ok=True)

    def _write(self, case: PreparedCase, kind: Kind, targets: TrainingCase, info: Mapping[str, Any]) -> None:
        tensors: dict[str, NDArray[Any]] = {"masks": np.packbits(targets.masks)}
        tensors["shown"] = targets.masks.reshape(len(targets.masks), -1).any(1).astype(np.uint8)
        if targets.ignore.any():
            tensors["ignore"] = np.packbits(targets.ignore)
        if targets.soft is not None:
            # Mostly 0: a label of 32 teeth takes 100 kB compressed, 4 MB otherwise.
            steps = (targets.soft.astype(np.float32) * 255).round().astype(np.uint8)
            tensors["soft"] = np.frombuffer(zlib.compress(steps.tobytes(), 1), np.uint8)
        atomic_write(self._path(case, kind), save(tensors, metadata={"info": json.dumps(info)}))

    def _path(self, case: PreparedCase, kind: Kind) -> Path:
        return self.folder / f"{case.key}.{kind}.safetensors"


def _unpack(bits: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
