"""Preparation of cases: missing or unreadable ones are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from samstudent.errors import UserError
from samstudent.rounds.case_store import CaseStore
from samstudent.rounds.cases import FileCase
from samstudent.rounds.prepare import none_left, prepare
from samstudent.util.progress import Progress
from support.case_sources import DrawnSource
from support.drawn import small_task

TASK = small_task()


class Away(DrawnSource):
    """Case whose files cannot be fetched."""

    def content(self) -> Any:
        raise ConnectionError("the PACS does not answer")


def test_missing_or_unreadable_case_is_left_out_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(np.full((20, 30), 90, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    files = [FileCase(name, tmp_path / f"{name}.png") for name in ("missing", "b", "a")]
    events: list[Progress] = []
    cases, left_out = prepare([*files, Away("c")], CaseStore(tmp_path / "store", TASK), events.append, "reading")
    assert [case.id for case in cases] == ["a"] and sorted(left_out) == ["b", "c", "missing"]
    assert "b.png" in left_out["b"] and left_out["c"] == "the PACS does not answer"
    assert "case c is left out: the PACS does not answer" in caplog.text
    assert (events[-1].step, events[-1].done, events[-1].total) == ("reading", 4, 4)


def test_each_case_is_decoded_once_over_several_rounds(tmp_path: Path) -> None:
    sources = [DrawnSource(id) for id in "21"]
    for _ in range(2):
        cases, _ = prepare(sources, CaseStore(tmp_path, TASK))
        assert [case.id for case in cases] == ["1", "2"]
    assert [source.decoded for source in sources] == [1, 1]


def test_a_round_without_any_label_names_all_reasons() -> None:
    error = none_left({"c1": "torn", "c2": "gone"})
    assert isinstance(error, UserError) and str(error) == "no human label can be read: c1: torn; c2: gone"
