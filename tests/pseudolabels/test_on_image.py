from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from samstudent.imaging.case import read_image
from samstudent.pseudolabels.case import pseudo_label_case
from samstudent.pseudolabels.on_image import on_image
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.working_grid import reduced
from support.drawn import FakeSam, FakeStudent, dice, shapes, small_task, write_png

TASK = small_task()
SAM: Any = CachedSam(FakeSam())  # type: ignore[arg-type]


def test_label_on_the_working_grid_is_enlarged_to_the_image(tmp_path: Path) -> None:
    pixels, truth = shapes(0, (256, 192))
    image = read_image(write_png(tmp_path / "large.png", pixels))
    small = reduced(truth, (128, 96))
    other = read_image(write_png(tmp_path / "c0.png", shapes(0)[0]))
    label = pseudo_label_case(other, FakeStudent({"c0": shapes(0)[1]}), SAM, TASK)
    soft = small.astype(np.float16)
    accepted = np.array([True, False])[:, None, None]
    label = replace(label, masks=(soft >= 0.5) & accepted, ignore=(soft >= 0.5) & ~accepted, raw=soft >= 0.5, soft=soft)
    masks, ignore, raw, _ = on_image(label, image, overlap=False)
    assert masks.shape == ignore.shape == raw.shape == truth.shape
    assert dice(masks[0], truth[0]) > 0.98 and not masks[1].any()
    assert dice(ignore[1], truth[1]) > 0.97 and not ignore[0].any()
    assert dice(raw, truth) > 0.97


def test_enlarged_label_is_disjoint_if_overlap_is_forbidden(tmp_path: Path) -> None:
    """A structure of one pixel is enlarged in a block, the one around it smoothly, over the same pixels."""
    image = read_image(write_png(tmp_path / "large.png", np.zeros((48, 48), np.uint8)))
    other = read_image(write_png(tmp_path / "c0.png", shapes(0)[0]))
    label = pseudo_label_case(other, FakeStudent({"c0": shapes(0)[1]}), SAM, TASK)
    soft = np.full((2, 8, 8), [[[0.0]], [[0.9]]], np.float16)
    soft[:, 3, 3] = 0.55, 0.45
    drawn = soft >= 0.5
    label = replace(label, masks=drawn, ignore=~drawn, raw=drawn, soft=soft)
    masks, _, raw, _ = on_image(label, image, overlap=False)
    assert masks.any(axis=(1, 2)).all() and masks.sum(axis=0).max() == 1 and raw.sum(axis=0).max() == 1
    assert on_image(label, image, overlap=True).masks.sum(axis=0).max() == 2
