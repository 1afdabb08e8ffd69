"""Request of a training by a client, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from samstudent.errors import UserError
from samstudent.rounds.round_options import PseudoLabels, RoundOptions
from samstudent.student.training import EPOCH_STEPS, epochs_of
from samstudent.task import Steps, Task

CHOICES: tuple[PseudoLabels, ...] = ("renew", "use", "raw", "off")


class TrainOptions(BaseModel):
    """Options in a train request; other keys that clients send are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    #: Optimisation steps, or ``auto``: until the student has converged; takes precedence over ``max_epochs``.
    steps: Literal["auto"] | Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    #: Epochs of ``EPOCH_STEPS`` steps, for clients that count in epochs; 0: until the student has converged.
    max_epochs: int | None = Field(default=None, ge=0, le=20_000)
    #: ``renew``: make missing pseudo labels and use all. ``use``: use existing ones only. ``raw``: the student's own
    #: masks, not refined. ``off``: human labels only.
    pseudo_labels: PseudoLabels = "renew"
    #: False: the new student is stored, but not served even if it is better.
    promote: bool = True
    seed: int = Field(default=0, ge=0, lt=2**31)
    #: Initial weights: a round of the study, the name of a file in its folder ``weights``, or a path, which requests
    #: over HTTP cannot contain.
    start: str | None = Field(default=None, max_length=4096)
    #: Reason of the start, for the round's record.
    reason: str = Field(default="manual", max_length=200)

    @field_validator("start")
    @classmethod
    def _empty_is_none(cls, value: str | None) -> str | None:
        """None of an empty text: clients send empty fields."""
        return value or None

    @field_validator("pseudo_labels", mode="before")
    @classmethod
    def _first_of_combo(cls, value: Any) -> Any:
        """First item of a list: clients may send all items of an unchanged combo box, the default first."""
        return value[0] if isinstance(value, list) and value else value

    @classmethod
    def of(cls, request: Mapping[str, Any], task: Task) -> TrainOptions:
        """Options of a request; missing ones are the task's.

        Raises:
            UserError: a value is not allowed; the message names the key.
        """
        values = {key: value for key, value in request.items() if value is not None}
        try:
            return cls.model_validate({"seed": task.training.seed} | values)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (got {fault['input']!r})"
                for fault in error.errors()
            )
            raise UserError(f"train request: {faults}") from error

    def round_options(self, task: Task, device: str) -> RoundOptions:
        """Options of the round, complete.

        Args:
            task: the checked task.
            device: name of the PyTorch device.
        """
        return RoundOptions(self.pseudo_labels, self._steps(task), self.seed, device)

    def _steps(self, task: Task) -> Steps:
        if self.steps is not None:
            return self.steps
        # Clients send the default number of epochs; it means the task's steps, which need not be a multiple.
        if self.max_epochs in (None, epochs_of(task.training.steps)):
            return task.training.steps
        return self.max_epochs * EPOCH_STEPS or "auto"
