"""Prepared cases on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.rounds.case_store import CaseContent, CaseStore, compact
from samstudent.student.training_case import CaseLabel, prepare_case
from support.case_sources import DrawnSource
from support.drawn import small_task

TASK = small_task()


def test_case_is_decoded_once_and_restored_exactly(tmp_path: Path) -> None:
    store, source = CaseStore(tmp_path, TASK), DrawnSource("3")
    case = store.add(source)
    assert store.add(source) == case and source.decoded == 1
    image, truth = source.read(TASK)
    assert truth is not None
    found, label = store.labelled(case)
    assert (found.pixels == image.pixels).all() and found.pixels.dtype == np.float32
    assert found.grid.spacing == image.grid.spacing == (0.5, 0.5)
    assert (label.masks == truth.masks).all() and label.unknown is None
    prepared, trains = prepare_case("3", image, CaseLabel(truth.masks), TASK), store.training_case(case)
    assert trains.human and trains.id == "3" and (trains.masks == prepared.masks).all() and not trains.ignore.any()
    assert trains.image == pytest.approx(prepared.image, abs=1e-3) and (trains.weights == 1).all()


def test_case_without_a_label_has_no_known_structure(tmp_path: Path) -> None:
    store = CaseStore(tmp_path, TASK)
    case = store.add(DrawnSource("1", labelled=False))
    trains = store.training_case(case)
    assert store.truth(case) is None and not trains.human and not trains.weights.any() and not trains.masks.any()
    with pytest.raises(ValueError, match="case 1 has no human label"):
        store.labelled(case)


def test_unannotated_structures_stay_unknown(tmp_path: Path) -> None:
    unknown = np.zeros((2, 64, 64), dtype=bool)
    unknown[0, :8], unknown[1] = True, True
    store = CaseStore(tmp_path, TASK)
    case = store.add(DrawnSource("2", unknown=unknown))
    _, truth = store.labelled(case)
    trains = store.training_case(case)
    assert truth.unknown is not None and (truth.unknown == unknown).all()
    assert trains.weights.tolist() == [1, 0] and trains.ignore[0, :8].all() and not trains.ignore[0, 8:].any()
    shown, annotated = store.presence([case])
    assert shown.tolist()[0][0] and annotated.tolist() == [[True, False]]


def test_changed_label_image_or_grid_is_another_case(tmp_path: Path) -> None:
    content = CaseContent("image", "label")
    other_grid = small_task(student={"size": [32, 32], "channels": [8, 16]})
    keys = [CaseStore(tmp_path, TASK).key_of(CaseContent(*parts)) for parts in (("x", "label"), ("image", "x"))]
    keys += [CaseStore(tmp_path, TASK).key_of(CaseContent("image", "label", ("square", "disk")))]
    keys += [CaseStore(tmp_path, task).key_of(content) for task in (TASK, other_grid)]
    assert len(set(keys)) == 5
    # The number of steps does not change what is read.
    assert CaseStore(tmp_path, small_task(training={"steps": 3})).key_of(content) == keys[3]


def test_unreadable_case_leaves_no_file(tmp_path: Path) -> None:
    class Broken(DrawnSource):
        def read(self, task: Any) -> Any:
            raise UserError("1.png: not an image")

    with pytest.raises(UserError, match="not an image"):
        CaseStore(tmp_path, TASK).add(Broken("1"))
    assert list(tmp_path.iterdir()) == []


def test_cases_of_earlier_rounds_are_removed(tmp_path: Path) -> None:
    store = CaseStore(tmp_path, TASK)
    first, second = (store.add(DrawnSource(id)) for id in "12")
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    store.add(DrawnSource("2"))
    store.prune(before=2)
    assert store.image(second).pixels.any()
    with pytest.raises(FileNotFoundError):
        store.image(first)


@pytest.mark.parametrize(
    ("values", "kind"),
    [([0, 255], np.uint8), ([0, 256], np.uint16), ([-1024, 3071], np.int16), ([-1, 1e6], np.float32)],
)  # fmt: skip
def test_pixels_are_stored_in_the_smallest_lossless_type(values: list[float], kind: type) -> None:
    pixels = np.array(values, dtype=np.float32)
    assert compact(pixels).dtype == kind and (compact(pixels) == pixels).all()
