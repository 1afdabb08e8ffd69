"""Picture of a case of an evaluation."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from samstudent.research.evaluation import pictures
from samstudent.research.evaluation.measure import EvaluatedModel, measure_case
from samstudent.research.pictures import Panel
from samstudent.rounds.cases import FileCase
from samstudent.rounds.trained import Trained
from support.drawn import small_task
from support.drawn_folder import write_volume


def model(name: str, masks: Any) -> EvaluatedModel:
    found: Any = SimpleNamespace(predict=lambda image, refine: SimpleNamespace(masks=masks))
    return EvaluatedModel(name, found, False, Trained())


def test_volume_is_shown_in_the_slice_where_two_models_differ_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = small_task(dimension=3, student={"size": [16, 64, 64], "channels": [8, 16, 32]})
    truth = np.zeros((2, 6, 24, 20), bool)
    truth[0, 1:4, 4:20, 4:16] = True
    other = truth.copy()
    other[0, 3] = False
    other[1, 5, 2:4, 2:4] = True
    write_volume(tmp_path / "a.nii.gz", np.arange(6 * 24 * 20, dtype=np.int16).reshape(6, 24, 20))
    write_volume(tmp_path / "label.nii.gz", truth[0].astype(np.uint8))
    source, models = (
        FileCase("a", tmp_path / "a.nii.gz", tmp_path / "label.nii.gz"),
        [model("r1", truth), model("r2", other)],
    )
    measured = measure_case(source, models, task, of_study=False)
    drawn: list[Panel] = []
    panels = pictures.case_panels
    monkeypatch.setattr(
        pictures, "case_panels", lambda image, shown, *a, **k: drawn.extend(shown) or panels(image, shown, *a, **k)
    )
    found = pictures.case_picture(source, "largest difference", measured, models, task)
    assert Image.open(io.BytesIO(found.png)).format == "PNG"
    assert [panel.title.split(":")[0] for panel in drawn] == ["image", "label", "r1", "r2"]
    np.testing.assert_array_equal(drawn[1].masks, truth[:, 3])
    np.testing.assert_array_equal(drawn[3].masks, other[:, 3])
    assert "of r2: square 0.0, disk 80.0" in found.caption
