"""Pseudo labels on disk, for the training of the student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.pseudolabels.case import PseudoLabel, pseudo_label_case
from samstudent.rounds.case_store import CaseStore, PreparedCase
from samstudent.rounds.pseudo_store import PseudoLabelStore
from samstudent.sam.cached_sam import CachedSam
from samstudent.student.training_case import CaseLabel, prepare_case
from support.case_sources import DrawnSource
from support.drawn import FakeSam, FakeStudent, case_image, shapes, small_task

TASK = small_task()


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[PseudoLabelStore, PreparedCase, Any, PseudoLabel]:
    cases = CaseStore(tmp_path / "cases", TASK)
    pixels, masks = shapes(3)
    image = replace(case_image(pixels), path=Path("3.png"))
    student: Any = FakeStudent({"3": masks})
    label = pseudo_label_case(image, student, CachedSam(FakeSam()), TASK)  # type: ignore[arg-type]
    return PseudoLabelStore(tmp_path / "pseudo", cases), cases.add(DrawnSource("3", labelled=False)), image, label


def test_masks_and_probabilities_round_trip(labelled: Any) -> None:
    store, case, image, label = labelled
    store.save(case, image, label)
    soft = prepare_case("3", image, CaseLabel(label.masks, soft=label.soft, human=False), TASK)
    weights = [0.25, 0.5]
    masks, probabilities = store.training_case(case, "refined", weights), store.training_case(case, "refined")
    assert (masks.masks == soft.masks).all() and masks.weights.tolist() == weights and masks.soft is None
    assert not masks.human and masks.id == "3"
    assert probabilities.soft is not None and soft.soft is not None and (probabilities.weights == 1).all()
    assert np.abs(probabilities.soft.astype(float) - soft.soft).max() < 0.003
    assert store.shown(case, "refined").tolist() == soft.masks.any(axis=(1, 2)).tolist()


def test_label_is_current_for_its_provenance_only(labelled: Any) -> None:
    store, case, image, label = labelled
    assert not store.is_current(case, "refined", label.provenance)
    store.save(case, image, label)
    assert store.is_current(case, "refined", label.provenance) and store.info(case, "raw") is None
    assert not store.is_current(case, "refined", replace(label.provenance, student="b" * 64))
    assert store.info(case, "refined")["structures"] == label.info()["structures"]


def test_broken_file_is_ignored(labelled: Any) -> None:
    store, case, image, label = labelled
    store.save(case, image, label)
    next(store.folder.glob("*")).write_bytes(b"torn")
    assert store.info(case, "refined") is None and not store.is_current(case, "refined", label.provenance)
