"""Step of a round: the training set of the new student, with the weights of its labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from samstudent.pseudolabels.ablations import FULL, Ablations
from samstudent.pseudolabels.provenance import Provenance
from samstudent.pseudolabels.quality_filter import absence_prior, training_weights, uses_probabilities
from samstudent.rounds.case_store import PreparedCase
from samstudent.rounds.pseudo_store import Kind
from samstudent.rounds.round_store import RoundStore
from samstudent.student.training_case import TrainingCase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PseudoLabelled:
    """Pseudo-labelled training cases.

    Attributes:
        kind: of their labels.
        made_with: provenance of all labels.
        weights: case -> weights float32 (S,) of its masks; None: its probabilities are the targets.
    """

    kind: Kind
    made_with: Provenance
    weights: dict[PreparedCase, NDArray[np.float32] | None]

    @property
    def targets(self) -> Literal["masks", "probabilities"]:
        """Training targets of the cases."""
        return "probabilities" if any(w is None for w in self.weights.values()) else "masks"


def choose_pseudo_labels(
    cases: Sequence[PreparedCase],
    labels: tuple[Kind, Provenance],
    store: RoundStore,
    ablations: Ablations = FULL,
) -> PseudoLabelled:
    """Cases whose pseudo label exists, has the expected provenance, and was not rejected by a reviewer.

    Args:
        cases: without human labels.
        labels: kind and expected provenance.
        store: of the labels.
        ablations: targets, and whether masks are weighted by their quality.
    """
    kind, made_with = labels
    infos = {}
    for case in cases:
        info = store.labels.info(case, kind)
        if info is not None and store.labels.is_current(case, kind, made_with) and store.may_train(case.id, info):
            infos[case] = info.get("structures", {})
    soft = kind == "refined" and uses_probabilities(infos.values(), ablations.targets)
    weights: dict[PreparedCase, NDArray[np.float32] | None] = {}
    for case, structures in infos.items():
        # A poor student predicts only absences; its masks must not train, its probabilities contain its certainty.
        if soft:
            weights[case] = None
        elif any(record.get("status") == "accepted" for record in structures.values()):
            weights[case] = training_weights(structures, store.task, ablations.weight_by_quality)
    return PseudoLabelled(kind, made_with, weights)


class TrainingSet(Sequence[TrainingCase]):
    """Training cases, human-labelled ones first, read from the store at each access."""

    def __init__(self, human: Sequence[PreparedCase], pseudo: PseudoLabelled | None, store: RoundStore) -> None:
        """Weights of structures that masks of pseudo labels do not show are multiplied by the absence prior.

        Args:
            human: labelled cases.
            pseudo: pseudo-labelled cases; None: there are none.
            store: of all cases.
        """
        self.store, self.human, self.pseudo = store, list(human), pseudo
        self._entries = [] if pseudo is None else list(pseudo.weights.items())
        self._prior: NDArray[np.float32] | None = None
        if pseudo is not None and pseudo.kind == "refined" and pseudo.targets == "masks":
            self._prior = absence_prior(*store.cases.presence(human))

    def __len__(self) -> int:
        return len(self.human) + len(self._entries)

    @overload
    def __getitem__(self, index: int) -> TrainingCase: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainingCase]: ...
    def __getitem__(self, index: int | slice) -> TrainingCase | list[TrainingCase]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        if index < len(self.human):
            return self.store.cases.training_case(self.human[index])
        return self._pseudo_case(*self._entries[index - len(self.human)])

    def _pseudo_case(self, case: PreparedCase, weights: NDArray[np.float32] | None) -> TrainingCase:
        assert self.pseudo is not None
        kind = self.pseudo.kind
        if weights is not None and self._prior is not None:
            shown = self.store.labels.shown(case, kind)
            weights = np.where(shown, weights, weights * self._prior).astype(np.float32)
        return self.store.labels.training_case(case, kind, weights)
