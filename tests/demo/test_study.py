"""Study of the demo: files for the server, and files for the simulated annotator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samstudent.demo.study import check_empty, prepare_study
from samstudent.errors import NotFound, UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for case in "abcd":
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / kind / f"{case}.png")
    (folder / "split.csv").write_text("id,split,train_order\na,train,2\nb,train,1\nc,val,\nd,test,\n")
    return folder


def test_images_are_copied_and_labels_are_not(source: Path, tmp_path: Path) -> None:
    study = prepare_study(source, tmp_path / "out", limit=5)
    assert study.train == ["b", "a"]
    assert study.holdout == ["c"]
    assert sorted(p.name for p in study.folder.iterdir()) == ["a.png", "b.png", "c.png", "split.csv"]


def test_limit_selects_the_first_cases_by_train_order(source: Path, tmp_path: Path) -> None:
    assert prepare_study(source, tmp_path / "out", limit=1).train == ["b"]


def test_bit_masks_are_recognised_by_their_folder(source: Path, tmp_path: Path) -> None:
    (source / "labels").rename(source / "labels_overlap")
    assert prepare_study(source, tmp_path / "out", limit=5).bits


def test_a_missing_folder_is_named(source: Path, tmp_path: Path) -> None:
    (source / "split.csv").unlink()
    with pytest.raises(NotFound, match=r"split\.csv"):
        prepare_study(source, tmp_path / "out", limit=5)


def test_a_case_without_image_is_named(source: Path, tmp_path: Path) -> None:
    (source / "images" / "a.png").unlink()
    with pytest.raises(UserError, match="'a'"):
        prepare_study(source, tmp_path / "out", limit=5)


def test_only_an_earlier_demo_is_removed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    check_empty(output)
    (output / "old").touch()
    check_empty(output)
    assert not (output / "old").exists()
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(UserError, match="not empty"):
        check_empty(other)
    assert (other / "thesis.txt").exists()
