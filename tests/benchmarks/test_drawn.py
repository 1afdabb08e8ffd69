"""Drawn films of benchmarks/drawn.py."""

from __future__ import annotations

import csv
import importlib
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from samstudent.research.derive_task import derive_task
from samstudent.research.folder import open_folder
from samstudent.task import load_task


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("drawn")


@pytest.mark.parametrize("kind", ["teeth", "chest", "hard-teeth", "hard-chest"])
def test_a_number_is_a_film(drawn: ModuleType, kind: str) -> None:
    film, masks = drawn.KINDS[kind].film(3)
    again, masks_again = drawn.KINDS[kind].film(3)
    assert np.array_equal(film, again) and np.array_equal(masks, masks_again)
    assert film.shape == masks.shape[1:] and len(masks) == len(load_task(drawn.KINDS[kind].task).names)
    assert np.isfinite(film).all() and film.std() > 0.05
    assert not np.array_equal(film, drawn.KINDS[kind].film(4)[0])


def test_hard_teeth(drawn: ModuleType) -> None:
    """A pixel has one tooth at most; teeth are numbered by their place in the row, as FDI numbers are."""
    names = load_task("teeth").names
    counts = []
    for number in range(6):
        _, masks = drawn.KINDS["hard-teeth"].film(number)
        assert masks.sum(axis=0).max() == 1
        there = [(int(name[-2:]), mask) for name, mask in zip(names, masks, strict=True) if mask.any()]
        middles = {fdi: np.argwhere(mask).mean(axis=0) for fdi, mask in there}
        counts.append(len(middles))
        for quadrant, side in ((1, -1), (2, 1), (3, 1), (4, -1)):
            row = [middles[n][1] * side for n in sorted(middles) if n // 10 == quadrant and n % 10 < 8]
            assert row == sorted(row)
        upper, lower = ([y for n, (y, _) in middles.items() if (n < 30) == up] for up in (True, False))
        assert np.mean(upper) < np.mean(lower)
    assert min(counts) < 30 and max(counts) > 26


def test_hard_chest(drawn: ModuleType) -> None:
    """Every structure is there; clavicles lie over their lung, the patient's left is at the viewer's right."""
    for number in range(6):
        _, masks = drawn.KINDS["hard-chest"].film(number)
        left, right, heart, left_clavicle, right_clavicle = masks
        assert (masks.reshape(5, -1).sum(axis=1) > 200).all()
        assert (left & left_clavicle).any() and (right & right_clavicle).any()
        across = [np.argwhere(mask)[:, 1].mean() for mask in (right, heart, left)]
        assert across == sorted(across)


def test_folder(drawn: ModuleType, tmp_path: Path) -> None:
    """A folder as an experiment reads it, with the task's names and three splits."""
    drawn.main("hard-chest", tmp_path, 15)
    rows = list(csv.DictReader((tmp_path / "split.csv").read_text(encoding="utf-8").splitlines()))
    assert Counter(row["split"] for row in rows) == {"train": 10, "val": 2, "test": 3}
    folder = open_folder(tmp_path)
    task, folder = derive_task(folder, folder.labelled("train")[:3])
    assert task.names == load_task("chest").names and task.overlap
    _, label = folder.case(folder.labelled("val")[0]).read(task)
    assert label is not None and label.masks.any(axis=(1, 2)).all()
