from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.pseudolabels.cached_sam import CachedSam
from samstudent.pseudolabels.case import PseudoLabel, pseudo_label_case
from samstudent.pseudolabels.soft_labels import SoftLabels, read_soft
from support.drawn import FakeSam, FakeStudent, case_image, shapes, small_task

TASK = small_task()


@pytest.fixture
def label(tmp_path: Path) -> PseudoLabel:
    pixels, truth = shapes(0)
    image = replace(case_image(pixels), path=tmp_path / "c0.png")
    return pseudo_label_case(image, FakeStudent({"c0": truth}), CachedSam(FakeSam()), TASK)  # type: ignore[arg-type]


def test_probabilities_come_back_to_a_255th(tmp_path: Path, label: PseudoLabel):
    soft = np.linspace(0, 1, label.soft.size, dtype=np.float16).reshape(label.soft.shape)
    softs = SoftLabels(tmp_path / "soft")
    softs.keep("1.2/../3", replace(label, soft=soft))
    path = softs.path_of("1.2/../3", replace(label.provenance, time=0.0))
    assert path is not None and path.parent == tmp_path / "soft"
    read = read_soft(path)
    assert read.dtype == np.float32 and np.abs(read - soft).max() < 1 / 255


def test_those_of_an_older_teacher_are_none(tmp_path: Path, label: PseudoLabel):
    softs = SoftLabels(tmp_path)
    assert softs.path_of("c0", label.provenance) is None
    softs.keep("c0", label)
    assert softs.path_of("c0", replace(label.provenance, student="b" * 64)) is None
    path = softs.path_of("c0", label.provenance)
    path.write_bytes(b"damaged")
    assert softs.path_of("c0", label.provenance) is None
    with pytest.raises(UserError, match="cannot be read"):
        read_soft(path)
