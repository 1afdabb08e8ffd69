"""Request of a training by a client, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from samstudent.errors import UserError
from samstudent.rounds.round_options import PseudoLabels, RoundOptions
from samstudent.student.training import EPOCH_STEPS, split_steps
from samstudent.task import Task

CHOICES: tuple[PseudoLabels, ...] = ("renew", "use", "raw", "off")


class TrainOptions(BaseModel):
    """The keys of a train request that are ours; clients send others along, which mean nothing here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    #: Optimisation steps; wins over ``max_epochs``.
    steps: int | None = Field(default=None, ge=1, le=1_000_000)
    #: For clients that count in epochs: one is ``EPOCH_STEPS`` steps.
    max_epochs: int | None = Field(default=None, ge=1, le=20_000)
    #: ``renew``: make those of the served student that are missing, then use them. ``use``: only those that are there
    #: already. ``raw``: the student's own masks, not refined. ``off``: human labels alone.
    pseudo_labels: PseudoLabels = "renew"
    #: False: the round is kept, but not served even if it is better.
    promote: bool = True
    seed: int = Field(default=0, ge=0, lt=2**31)
    #: Why the round was started, for its record.
    reason: str = Field(default="manual", max_length=200)

    @field_validator("pseudo_labels", mode="before")
    @classmethod
    def _first_of_combo(cls, value: Any) -> Any:
        """A client that did not touch a combo box may send all its items; the first is the default."""
        return value[0] if isinstance(value, list) and value else value

    @classmethod
    def of(cls, request: Mapping[str, Any], task: Task) -> TrainOptions:
        """Read a request; what it does not say is the task's.

        Raises:
            UserError: a value that is not allowed, naming the key.
        """
        given = {key: value for key, value in request.items() if value is not None}
        try:
            return cls.model_validate({"seed": task.training.seed} | given)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (got {fault['input']!r})"
                for fault in error.errors()
            )
            raise UserError(f"train request: {faults}") from error

    def round_options(self, task: Task, device: str) -> RoundOptions:
        """How the round runs, complete.

        Args:
            task: the checked task.
            device: as PyTorch names it.
        """
        epochs, each = self.epochs(task)
        return RoundOptions(self.pseudo_labels, epochs * each, self.seed, device)

    def epochs(self, task: Task) -> tuple[int, int]:
        """(epochs, steps of each)."""
        default = split_steps(task.training.steps)
        # Clients send the default back: then the task's steps count, which need not be a multiple of EPOCH_STEPS.
        if self.steps is None and self.max_epochs in (None, default[0]):
            return default
        return split_steps(self.steps or (self.max_epochs or 1) * EPOCH_STEPS)
