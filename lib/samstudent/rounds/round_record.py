"""Record of one round: ``round.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict, field_validator

from samstudent.task import Steps

Status = Literal["running", "done", "failed", "interrupted"]
#: Dice of each structure and ``mean``, their mean; None where nothing could be measured.
DiceTable = dict[str, float | None]


class PseudoUsed(BaseModel):
    """Pseudo labels that trained a student.

    Attributes:
        n: number of cases.
        tag: tag of the labels in the datastore; None: no case.
        targets: whether masks or probabilities were the targets of the training; None: no case.
    """

    n: int = 0
    tag: str | None = None
    targets: Literal["masks", "probabilities"] | None = None


class RoundRecord(BaseModel):
    """Record of one round. Times are seconds since 1970, UTC."""

    # Fields of a later version are preserved.
    model_config = ConfigDict(extra="allow", validate_assignment=True)

    id: str
    status: Status = "running"
    #: Whether it was ever served; taken from champion.json whenever a record is read.
    promoted: bool = False
    started: float = 0.0
    finished: float | None = None
    #: Reason of the start, e.g. "10 new labels" or "manual".
    reason: str = ""
    task_digest: str | None = None
    #: SHA-256 of model.pt, recorded as soon as that file is complete.
    model_digest: str | None = None
    #: Ids of the human-labelled training cases, known as soon as all are read.
    labels_used: list[str] = []
    pseudo_used: PseudoUsed = PseudoUsed()
    #: Cases left out of the training, with the reason.
    unreadable: dict[str, str] = {}
    #: Cases of the hold-out left out of the comparison, with the reason.
    not_compared: dict[str, str] = {}
    seed: int | None = None
    #: Requested number of steps, or ``auto``.
    steps: Steps | None = None
    #: Initial weights that were given: ``path`` and ``sha256``.
    start: dict[str, str] | None = None
    #: ``TrainedStudent`` as JSON, without the version: steps, ending, curve.
    training: dict[str, Any] | None = None
    #: Training step that was reached.
    step: int = 0
    holdout_ids: list[str] = []
    #: On the hold-out: ``{"challenger": {structure: Dice, "mean": Dice}, "champion": the same or None}``.
    dice: dict[Literal["challenger", "champion"], DiceTable | None] = {}
    #: Mean Dice of the challenger on some of its own training labels; a low one means that it has not converged.
    train_dice: float | None = None
    #: Lower bound of the Dice of this round's pseudo labels (``bound_calibration.bound_report``): the certainty, the
    #: number of labelled cases and the smallest one for a bound, and the cross-validated coverage; shares from 0 to 1.
    #: None: no quality model was fitted.
    dice_bound: dict[str, Any] | None = None
    #: Basis of the decision: ``fair.Comparison`` as JSON, None where there was nothing to compare, and
    #: ``fair.Decision.accumulated_loss``.
    comparison: dict[str, Any] | None = None
    accumulated_loss: float = 0.0
    decision: str = ""
    #: Reason of a failure.
    error: str | None = None
    #: Process that runs the round; the start time distinguishes it from a later process of the same number.
    pid: int | None = None
    process_started: float | None = None

    @field_validator("dice", mode="before")
    @classmethod
    def _nan_is_none(cls, value: Any) -> Any:
        """JSON has no NaN."""
        if not isinstance(value, Mapping):
            return value
        return {who: table and {name: _finite(v) for name, v in table.items()} for who, table in value.items()}

    @property
    def is_alive(self) -> bool:
        """Whether the process that runs the round exists; a zombie does not count."""
        if self.pid is None or self.process_started is None:
            return False
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.process_started) < 1
            return bool(process.status() != psutil.STATUS_ZOMBIE and same)
        except psutil.NoSuchProcess:
            return False


def check_fields(fields: Mapping[str, Any]) -> None:
    """Raise TypeError for names that are not fields of ``RoundRecord``."""
    if unknown := set(fields) - set(RoundRecord.model_fields):
        raise TypeError(f"a round's record has no {sorted(unknown)}; it has {sorted(RoundRecord.model_fields)}")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
