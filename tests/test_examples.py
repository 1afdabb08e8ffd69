"""The examples of docs/examples do what the pages say."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"


def test_refine_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    y, x = np.mgrid[:120, :160]
    truth = (y - 60) ** 2 + (x - 80) ** 2 < 30**2
    Image.fromarray((60 + 120 * truth).astype(np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(((abs(y - 60) < 29) & (abs(x - 80) < 31)).astype(np.uint8)).save(tmp_path / "mask.png")
    (tmp_path / "task.yaml").write_text("{name: disk, dimension: 2, structures: [disk], student: {size: [64, 64]}}")
    files = [str(tmp_path / name) for name in ("image.png", "mask.png", "task.yaml", "out.png")]
    monkeypatch.setattr("sys.argv", ["refine_masks.py", *files])
    runpy.run_path(str(EXAMPLES / "refine_masks.py"), run_name="__main__")
    refined = np.asarray(Image.open(tmp_path / "out.png")) > 0
    assert 2 * (refined & truth).sum() / (refined.sum() + truth.sum()) > 0.95
    assert capsys.readouterr().out.startswith("disk True 0.")
