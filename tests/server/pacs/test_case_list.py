"""Update of the cases of a PACS study."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from samstudent.errors import UserError
from samstudent.server.pacs.case_list import CaseList
from samstudent.server.pacs.client import Instance, Series
from samstudent.server.pacs.settings import require_supported_task
from support.drawn import small_task


def test_clips_are_left_out_with_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    content = {
        "1.1": [Instance("1.1.1", 1, 30), Instance("1.1.2", 2, 1)],
        "1.2": [Instance("1.2.1", 1, 20)],
    }
    cases: dict[str, Any] = {}
    study: Any = SimpleNamespace(
        pacs=SimpleNamespace(url="http://pacs", instances=lambda study, series: content[series]),
        task=small_task(),
        references=lambda: cases,
        put_references=cases.update,
    )
    updated = CaseList(study)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            updated.update([Series("1", uid, "US", len(images), {}) for uid, images in content.items()], float("inf"))
    assert updated.clips == {"1.1.1": 30, "1.2.1": 20}
    assert [reference.image for reference in cases.values()] == ["1.1.2"]
    assert [record.message for record in caplog.records] == [
        "PACS http://pacs: clips are left out: 2, of 50 frames; only of a study folder frames are cases"
    ]


def test_a_task_with_named_channels_is_refused() -> None:
    with pytest.raises(UserError, match=r"named image\.channels need a study folder; of a PACS each series is a case"):
        require_supported_task(small_task(image={"channels": ["T1", "T2"]}))
