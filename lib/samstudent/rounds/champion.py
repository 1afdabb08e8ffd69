"""Champion of a round, loaded: the served student with which the new one is compared."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from samstudent.errors import UserError
from samstudent.rounds.comparison import Candidate
from samstudent.rounds.round_context import RoundContext
from samstudent.rounds.round_options import Champion
from samstudent.student.predict import Student

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedChampion:
    """The champion with its network."""

    champion: Champion
    student: Student

    def as_candidate(self) -> Candidate:
        """The champion as one side of the comparison on the hold-out."""
        known = self.champion
        name = f"champion ({known.name})"
        return Candidate(name, self.student, known.trained, known.fold_dice or {}, known.accumulated_loss)


def load_champion(champion: Champion | None, context: RoundContext) -> LoadedChampion | None:
    """The champion; None: there is none, or it does not fit the task as it is now."""
    if champion is None:
        return None
    try:
        return LoadedChampion(champion, Student.load(champion.model, context.task, context.options.device))
    except UserError as error:
        logger.warning("the served model is not used: %s", error)
        return None
