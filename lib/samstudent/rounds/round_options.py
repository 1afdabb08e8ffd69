"""Input of a round beside the task: cases, champion and options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from samstudent.pseudolabels.ablations import FULL, Ablations
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.rounds.case_store import CaseSource
from samstudent.rounds.scoring import CaseDice
from samstudent.rounds.start_weights import StartWeights
from samstudent.rounds.trained import Trained
from samstudent.task import Steps, Task

#: ``renew``: make missing and stale pseudo labels. ``use``: use existing ones only. ``raw``: the champion's own masks,
#: not refined. ``off``: human labels only.
PseudoLabels = Literal["renew", "use", "raw", "off"]


def _no_policy() -> LabelingPolicy | None:
    return None


@dataclass(frozen=True)
class Champion:
    """The served student: the reference of the comparison, and a member of the teacher.

    Attributes:
        name: of the round that trained it.
        model: its model file.
        trained: its training cases, which are left out of the comparison.
        fold_dice: its round's out-of-fold Dice, by the current ids of the cases; None: not known.
        accumulated_loss: of mean Dice, over the promotions that were equal within noise (``fair.Decision``).
        load_policy: returns the labeling policy of its round, for rounds with too few labels for their own.
    """

    name: str
    model: Path
    trained: Trained = field(default_factory=Trained)
    fold_dice: CaseDice | None = None
    accumulated_loss: float = 0.0
    load_policy: Callable[[], LabelingPolicy | None] = _no_policy


@dataclass(frozen=True)
class RoundCases:
    """Cases of a round. A case is in one list only.

    Attributes:
        labelled: training cases with a human label.
        unlabelled: cases for pseudo labels.
        held: hold-out cases with a human label, for the comparison of students.
        champion: the served student; None: there is none.
    """

    labelled: Sequence[CaseSource]
    unlabelled: Sequence[CaseSource] = ()
    held: Sequence[CaseSource] = ()
    champion: Champion | None = None


@dataclass(frozen=True)
class RoundOptions:
    """Options of a round; the defaults are those of the server.

    Attributes:
        pseudo_labels: which pseudo labels train.
        steps: optimisation steps of each training of the student, or ``auto``: until it has converged; None: the
            task's.
        seed: of everything random; None: the task's.
        device: name of the PyTorch device; None: the best available.
        fold_steps: steps of each cross-fitted student; None: those of the student.
        champion_weight: weight of the champion in the teacher, 0 to 1. None: the best on the hold-out, and 0 with fewer
            than ``fair.MIN_HELD`` hold-out cases on which no student trained.
        start: initial weights where pseudo labels train: ``full_student``: those of the student of all labels;
            ``scratch``: random ones, or ``weights``.
        weights: initial weights in place of random ones, also of the student of all labels, and where they know no
            label also of the students on folds; None: none are given.
        whole_budgets: True: each training has the task's budget of time; False: those of a round share it
            (``CrossFitOptions``, ``run_round.CONTINUED``).
        ablations: parts that are left out.
    """

    pseudo_labels: PseudoLabels = "renew"
    steps: Steps | None = None
    seed: int | None = None
    device: str | None = None
    fold_steps: Steps | None = None
    champion_weight: float | None = None
    start: Literal["full_student", "scratch"] = "full_student"
    weights: StartWeights | None = None
    whole_budgets: bool = False
    ablations: Ablations = FULL

    @property
    def weights_path(self) -> Path | None:
        """File of the given initial weights; None: none are given."""
        return None if self.weights is None else self.weights.path

    def complete(self, task: Task) -> RoundOptions:
        """The options with the task's values for missing ones."""
        seed = task.training.seed if self.seed is None else self.seed
        return replace(self, steps=self.steps or task.training.steps, seed=seed)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the round's record."""
        return asdict(replace(self, weights=None)) | {"weights": self.weights and self.weights.as_json()}
