"""One round: from human labels to pseudo labels to a student that may be served.

This is the only implementation: the server's trainer, ``samstudent train`` and the method ``ours`` of
``samstudent experiment`` call ``run_round``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.provenance import Provenance
from samstudent.rounds.case_store import CaseSource
from samstudent.rounds.fair import Comparison, Decision
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.scoring import CaseDice
from samstudent.rounds.trained import Trained
from samstudent.task import Task
from samstudent.util.progress import Report, no_report

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
    """

    pseudo_labels: PseudoLabels = "renew"
    steps: int | None = None
    seed: int | None = None
    device: str | None = None
    fold_steps: int | None = None
    champion_weight: float | None = None
    start: Literal["full_student", "scratch"] = "full_student"


@dataclass(frozen=True)
class RoundResult:
    """What a round made. Files lie in the folder of its store.

    Attributes:
        model: model file of the new student.
        digest: SHA-256, hex, of that file: the student's version.
        labels: ids of the human labels that trained.
        pseudo_labels: ids of the pseudo labels that trained.
        targets: whether masks or probabilities of these were taught; None: there are none.
        made_with: what these were made with; None: there are none.
        policy: recipes and quality model that they were made by; None: the task's recipe and the formula.
        policy_record: what fitting that policy found, as JSON; None where this round fitted none.
        left_out: id -> reason, of labelled cases that did not train.
        skip_reason: why no pseudo labels were made although they were wanted; None: they were.
        train_dice: mean Dice of the student on labels that it trained on; nan: none could be measured.
        fold_dice: out-of-fold Dice by case; empty: nothing was cross-fitted.
        dice: Dice by case on ``held``, of the new student and of the champion (empty without one).
        not_compared: id -> reason, of held-out cases that took no part in the comparison.
        comparison: of the new student with the champion; None: there was nothing to compare on.
        decision: whether the new student should be served, and why.
        seconds: wall time of each step.
    """

    model: Path
    digest: str
    labels: tuple[str, ...]
    pseudo_labels: tuple[str, ...]
    targets: Literal["masks", "probabilities"] | None
    made_with: Provenance | None
    policy: LabelingPolicy | None
    policy_record: dict[str, Any] | None
    left_out: dict[str, str]
    skip_reason: str | None
    train_dice: float
    fold_dice: CaseDice
    dice: tuple[CaseDice, CaseDice]
    not_compared: dict[str, str]
    comparison: Comparison | None
    decision: Decision
    seconds: dict[str, float]


def run_round(
    cases: RoundCases,
    task: Task,
    options: RoundOptions = RoundOptions(),
    *,
    store: RoundStore,
    engine: Any = None,
    report: Report = no_report,
) -> RoundResult:
    """Run one round.

    1. Prepare: read each image and label once and keep them in ``store.cases``.
    2. Cross-fit: train students on folds of the labelled cases, and one on all of them.
    3. Fit an embedding head beside each student on a fold.
    4. Fit the labeling policy on out-of-fold predictions: adapt SAM, choose recipes, fit the quality model.
    5. Label: make the pseudo labels of the unlabelled cases.
    6. Train: the new student, on both kinds of labels.
    7. Compare: the new student with the champion on the held-out cases.

    Each step writes its results to the store in one piece, so a round that was stopped finds them again.

    Args:
        cases: what to work on.
        task: the checked task.
        options: how.
        store: where prepared cases, models and pseudo labels lie; gives SAM, too.
        engine: where preparing and labelling run (``samstudent.engine``); None: in this process.
        report: is called with the progress of each step.

    Raises:
        UserError: no labelled case can be read.
    """
    raise NotImplementedError
