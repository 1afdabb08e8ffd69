"""Labels that train, and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.pseudolabels.ablations import Ablations
from samstudent.pseudolabels.provenance import Provenance
from samstudent.pseudolabels.quality_filter import absence_prior
from samstudent.rounds.case_store import PreparedCase
from samstudent.rounds.pseudo_store import Kind
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.training_set import PseudoLabelled, TrainingSet, choose_pseudo_labels
from samstudent.student.training_case import CaseLabel, prepare_case
from support.case_sources import DrawnSource
from support.drawn import small_task

TASK = small_task()
MADE = Provenance("s", "sam", "d", "r", "t")


def record(quality: float, status: str = "accepted") -> dict[str, Any]:
    return {"status": status, "quality": quality}


class Round(RoundStore):
    """Round store in which case 5 is withheld."""

    def may_train(self, case_id: str, info: Any) -> bool:
        return case_id != "5"


@pytest.fixture
def store(tmp_path: Path) -> Round:
    return Round(tmp_path, TASK)


def labelled(
    store: RoundStore, id: str, kind: Kind = "refined", has_disk: bool = True, **structures: Any
) -> PreparedCase:
    """Case with a pseudo label: its true masks, without the disk on request."""
    case = store.cases.add(DrawnSource(id, labelled=False))
    image, truth = DrawnSource(id).read(TASK)
    assert truth is not None
    masks = truth.masks & np.array([has_disk, True])[:, None, None]
    targets = prepare_case(id, image, CaseLabel(masks, soft=0.9 * masks.astype(np.float16), human=False), TASK)
    info = {"provenance": MADE.as_json(), "structures": structures}
    store.labels._write(case, kind, targets, info)
    return case


def test_only_current_and_not_withheld_pseudo_labels_train(store: Round) -> None:
    good, withheld = (labelled(store, id, disk=record(0.8), square=record(0.5)) for id in "45")
    nothing = labelled(store, "6", disk=record(0.9, "absent"), square=record(0.1, "rejected"))
    bare = store.cases.add(DrawnSource("7", labelled=False))
    cases = [good, withheld, nothing, bare]
    found = choose_pseudo_labels(cases, ("refined", MADE), store)
    assert list(found.weights) == [good] and found.targets == "masks"
    assert found.weights[good] == pytest.approx([0.8, 0.5])
    flat = choose_pseudo_labels(cases, ("refined", MADE), store, Ablations(weight_by_quality=False))
    assert flat.weights[good] == pytest.approx([1, 1])
    other = Provenance("another", "sam", "d", "r", "t")
    assert choose_pseudo_labels(cases, ("refined", other), store).weights == {}


def test_soft_targets_have_weight_one(store: Round) -> None:
    case = labelled(store, "4", disk=record(0.1, "rejected"), square=record(0.2, "rejected"))
    found = choose_pseudo_labels([case], ("refined", MADE), store)
    assert found.weights == {case: None} and found.targets == "probabilities"
    human = store.cases.add(DrawnSource("1"))
    first, second = TrainingSet([human], found, store)
    assert first.human and not second.human and second.soft is not None and (second.weights == 1).all()


def test_weight_of_absence_follows_from_labelled_cases(store: Round) -> None:
    humans = [store.cases.add(DrawnSource(id)) for id in "12"]
    case = labelled(store, "4", has_disk=False)
    refined = PseudoLabelled("refined", MADE, {case: np.array([0.8, 0.8], np.float32)})
    prior = absence_prior(np.ones((2, 2), dtype=bool))
    assert prior == pytest.approx([1 - 3 / 4] * 2)
    training = TrainingSet(humans, refined, store)
    assert len(training) == 3 and training[-1].weights == pytest.approx([0.8 * prior[0], 0.8])
    assert all(case.weights.tolist() == [1, 1] for case in training[:2])
    labelled(store, "4", "raw", has_disk=False)
    raw = PseudoLabelled("raw", MADE, {case: np.array([1, 1], np.float32)})
    assert TrainingSet(humans, raw, store)[2].weights.tolist() == [1, 1]
    with pytest.raises(IndexError):
        training[3]


def test_absence_prior_without_labelled_cases_is_one_half() -> None:
    assert absence_prior(np.zeros((0, 2), dtype=bool)) == pytest.approx([0.5, 0.5])
