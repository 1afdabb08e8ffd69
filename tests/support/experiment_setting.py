"""Settings of experiments on synthetic folders, with prepared cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from samstudent.research.folder import open_folder
from samstudent.research.setting import Setting
from support.drawn import small_task


def setting_of(folder: Path, output: Path, *, prepared: bool = True, **changes: Any) -> Setting:
    """Setting of a folder of ``drawn_folder`` with ``small_task``; all cases are prepared, with and without labels."""
    found = open_folder(folder)
    test = tuple(found.labelled("test"))
    setting = Setting(
        folder=found, task=small_task(overlap=found.bits, **changes), output=output, embeddings=output / "embeddings",
        pool=tuple(found.order), unlabelled=None, test=test, split="test", steps=5,
        sources={id: found.case(id) for id in (*found.order, *test)},
    )  # fmt: skip
    if prepared:
        for id in setting.sources:
            for hidden in (False, True):
                setting.cases.store.add(setting.cases.source(id, hidden))
    return setting
