"""Which unlabelled images a round looks at before it makes pseudo labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samstudent.rounds.learning import readable
from support.drawn import small_task


def test_images_that_cannot_be_had_or_read_cost_no_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "d"):
        Image.fromarray(np.full((20, 30), 90, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no image")

    def path_of(case: str) -> str:
        if case == "c":
            raise ConnectionError("the PACS is away")
        return str(tmp_path / f"{case}.png")

    images = list(readable(["a", "b", "c", "missing", "d"], path_of, small_task()))
    assert [image.path and image.path.stem for image in images] == ["a", "d"]
    for told in ("b cannot", "c cannot be looked at: the PACS is away", "missing cannot"):
        assert told in caplog.text
    assert "d cannot" not in caplog.text


def test_files_are_fetched_one_after_the_other(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30), 90, np.uint8)).save(tmp_path / "a.png")
    asked: list[str] = []

    def path_of(case: str) -> str:
        asked.append(case)
        return str(tmp_path / "a.png")

    images = readable(["1", "2", "3"], path_of, small_task())
    assert asked == []
    next(images)
    assert asked == ["1"]
