"""Records of unreadable images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samstudent.active_learning import readable
from samstudent.active_learning.readable import ImageCheck


@pytest.fixture
def check(tmp_path: Path) -> ImageCheck:
    return ImageCheck(tmp_path / "state.sqlite", 2)


def film(folder: Path, name: str, keep: float = 1.0) -> Path:
    path = folder / name
    noise = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def test_truncated_image_is_a_problem_until_it_is_replaced(check: ImageCheck, tmp_path: Path) -> None:
    files = {"a": film(tmp_path, "a.png"), "b": film(tmp_path, "b.png", keep=0.6)}
    assert check.problems(files.get) == {}  # nobody has looked yet
    assert check.problem("a", files["a"]) is None
    problem = check.problem("b", files["b"])
    assert problem is not None and problem.startswith("b.png: ") and str(tmp_path) not in problem
    assert check.problems(files.get) == {"b": problem}
    assert ImageCheck(check.path, 2).problems(files.get) == {"b": problem}  # another process
    assert check.problems({"a": files["a"]}.get) == {}  # removed from the study
    film(tmp_path, "b.png")
    assert check.problems(files.get) == {}
    assert check.problem("b", files["b"]) is None


def test_an_image_is_read_once(check: ImageCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [film(tmp_path, "a.png"), film(tmp_path, "b.png", keep=0.6)]
    before = [check.problem(file.stem, file) for file in files]
    monkeypatch.setattr(readable, "read_image", None)
    assert [check.problem(file.stem, file) for file in files] == before
    monkeypatch.undo()
    os.utime(files[1], ns=(1, 1))
    check.record("b", files[1])
    assert check.problem("b", files[1]) is None  # somebody says that it has read it


def test_an_image_of_the_other_dimension_is_a_problem(tmp_path: Path) -> None:
    problem = ImageCheck(tmp_path / "state.sqlite", 3).problem("a", film(tmp_path, "a.png"))
    assert problem is not None and "2D" in problem
    assert ImageCheck(tmp_path / "state.sqlite", 2).problem("a", tmp_path / "a.png") is None


def test_missing_file_is_a_problem(check: ImageCheck, tmp_path: Path) -> None:
    assert "no such file" in str(check.problem("a", tmp_path / "a.png"))
