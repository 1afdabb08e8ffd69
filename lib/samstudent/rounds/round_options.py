"""Input of a round beside the task: its cases, the champion, and how it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from samstudent.pseudolabels.ablations import FULL, Ablations
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.rounds.case_store import CaseSource
from samstudent.rounds.scoring import CaseDice
from samstudent.rounds.trained import Trained
from samstudent.student.training import split_steps
from samstudent.task import Task

#: ``renew``: make those that are missing or stale. ``use``: only those that are there. ``raw``: the champion's own
#: masks, not refined. ``off``: human labels alone.
PseudoLabels = Literal["renew", "use", "raw", "off"]


def _no_policy() -> LabelingPolicy | None:
    return None


@dataclass(frozen=True)
class Champion:
    """The student that the new one is compared with, and that takes part in making pseudo labels.

    Attributes:
        name: of the round that trained it.
        model: its model file.
        trained: cases that it trained on; on these nobody is compared.
        fold_dice: its round's out-of-fold Dice, under the ids that the cases have now.
        accumulated_loss: of mean Dice, over the promotions that were equal within noise (``fair.Decision``).
        load_policy: what its round learnt of its labels: with too few labels it still makes the pseudo labels.
    """

    name: str
    model: Path
    trained: Trained = field(default_factory=Trained)
    fold_dice: CaseDice | None = None
    accumulated_loss: float = 0.0
    load_policy: Callable[[], LabelingPolicy | None] = _no_policy


@dataclass(frozen=True)
class RoundCases:
    """What a round works on. A case is in one list only.

    Attributes:
        labelled: cases with a human label that train.
        unlabelled: cases that get pseudo labels.
        held: cases with a human label that never train: students are compared on them.
        champion: the served student; None: there is none.
    """

    labelled: Sequence[CaseSource]
    unlabelled: Sequence[CaseSource] = ()
    held: Sequence[CaseSource] = ()
    champion: Champion | None = None


@dataclass(frozen=True)
class RoundOptions:
    """How a round runs; the defaults are those of the server.

    Attributes:
        pseudo_labels: which pseudo labels train.
        steps: optimisation steps of the student; None: the task's.
        seed: of all that is drawn at random; None: the task's.
        device: as PyTorch names it; None: the best there is.
        fold_steps: steps of each cross-fitted student; None: as many as of the student.
        champion_weight: weight of the champion in the teacher, 0 to 1. None: the best on ``held``, and 0 where fewer
            than ``fair.MIN_HELD`` cases are there on which nobody trained.
        start: ``full_student``: the student goes on from the cross-fitted student of all labels where pseudo labels
            train; ``scratch``: from random weights.
        ablations: parts that are left out.
    """

    pseudo_labels: PseudoLabels = "renew"
    steps: int | None = None
    seed: int | None = None
    device: str | None = None
    fold_steps: int | None = None
    champion_weight: float | None = None
    start: Literal["full_student", "scratch"] = "full_student"
    ablations: Ablations = FULL

    def complete(self, task: Task) -> RoundOptions:
        """These options with the task's values where they name none; steps as the training counts them."""
        epochs, each = split_steps(self.steps or task.training.steps)
        return replace(self, steps=epochs * each, seed=task.training.seed if self.seed is None else self.seed)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the round's record."""
        return asdict(self)
