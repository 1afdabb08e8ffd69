"""The served round: ``champion.json`` with the pointer to it and the history of promotions and roll-backs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from samstudent.errors import UserError
from samstudent.util.files import atomic_write


class Promotion(BaseModel):
    """One change of the served model."""

    round: str
    kind: Literal["promote", "rollback"]
    time: float
    who: str = ""
    why: str = ""


class ServedRound(BaseModel):
    """Content of champion.json.

    Attributes:
        round: id of the served round.
        model_digest: SHA-256, hex, of its model file.
        history: all changes so far, oldest first.
    """

    round: str
    model_digest: str
    history: list[Promotion] = Field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> ServedRound | None:
        """Content of ``champion.json`` in a study's state folder; None before the first promotion.

        Raises:
            UserError: the file cannot be read.
        """
        path = folder / "champion.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            fault = error.errors()[0]["msg"]
            raise UserError(
                f"{path}: unreadable ({fault}); restore it from a backup, or rename it and promote a round"
            ) from error

    def save(self, folder: Path) -> None:
        """Write ``champion.json`` atomically."""
        atomic_write(folder / "champion.json", self.model_dump_json(indent=1))

    def earlier(self) -> list[str]:
        """Rounds that a roll-back may go back to, oldest first: promoted before, and not rolled back from."""
        stack: list[str] = []
        for change in self.history:
            if change.kind == "promote":
                stack.append(change.round)
            else:
                del stack[_last(stack, change.round) + 1 :]
        return [id for id in stack if id != self.round]


def _last(items: list[str], item: str) -> int:
    return len(items) - 1 - items[::-1].index(item)
