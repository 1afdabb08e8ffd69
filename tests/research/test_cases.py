"""Prepared cases of a folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from samstudent.engine.in_process import InProcess
from samstudent.engine.protocol import run_shards
from samstudent.research.cases import LazyCases, PrepareCases
from samstudent.student.data import make_loader
from samstudent.student.training_case import CaseLabel, prepare_case
from support.drawn_folder import labelled_folder
from support.experiment_setting import setting_of


@pytest.mark.parametrize("kind", ["labels", "labels_overlap"])
def test_prepared_cases_equal_the_files(tmp_path: Path, kind: str) -> None:
    setting = setting_of(labelled_folder(tmp_path / "data", kind=kind), tmp_path / "out")
    cases, task = setting.cases, setting.task
    image, label = setting.folder.case("case0").read(task)
    assert label is not None
    assert (cases.image("case0").pixels == image.pixels).all()
    assert cases.image("case0").grid.spacing == image.grid.spacing
    assert (cases.labelled("case0")[1].masks == label.masks).all()
    expected, found = prepare_case("case0", image, CaseLabel(label.masks), task), cases.training_case("case0")
    assert (found.masks == expected.masks).all()
    assert np.abs(found.image - expected.image).max() < 1e-3


def test_hidden_case_has_no_label(tmp_path: Path) -> None:
    cases = setting_of(labelled_folder(tmp_path / "data"), tmp_path / "out").cases
    hidden = cases.unlabelled_case("case0")
    assert not hidden.human and not hidden.weights.any()
    assert (hidden.image == cases.training_case("case0").image).all()


def test_cases_are_prepared_once_and_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    setting = setting_of(labelled_folder(tmp_path / "data", train=3, test=1), tmp_path / "out", prepared=False)
    setting.sources["case1"].image.write_bytes(b"no image")
    sources = {setting.cases.prepared(id).key: setting.cases.source(id) for id in setting.sources}
    states = []
    for _ in range(2):
        with InProcess() as engine:
            outcomes = list(run_shards(engine, PrepareCases(setting.cases.store, sources), [list(sources)]))
        states.append({sources[outcome.key].id: outcome.state for outcome in outcomes})
        assert all("case1" in str(outcome.reason) for outcome in outcomes if outcome.state == "failed")
    expected = {"case0": "done", "case1": "failed", "case2": "done", "case3": "done"}
    assert states[0] == expected
    assert states[1] == {case: state.replace("done", "skipped") for case, state in expected.items()}


def test_training_cases_are_read_when_they_are_needed(tmp_path: Path) -> None:
    setting = setting_of(labelled_folder(tmp_path / "data"), tmp_path / "out")
    read: list[str] = []

    def reader(id: str) -> object:
        read.append(id)
        return setting.cases.training_case(id)

    cases = LazyCases([partial(reader, f"case{n}") for n in range(3)])  # type: ignore[arg-type]
    assert len(cases) == 3 and read == []
    assert cases[1].id == "case1" and [case.id for case in cases[1:]] == ["case1", "case2"]
    assert read == ["case1", "case1", "case2"]
    batch = next(iter(make_loader(cases, setting.task, 1, 0)))
    assert batch["image"].shape == (4, 1, 64, 64)
