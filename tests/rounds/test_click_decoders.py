"""Click decoder of a study: the general one, an adapted one, and a damaged file."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, Grid
from samstudent.rounds.click_decoders import ClickDecoders, click_examples
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.click_adapt import ClickAdaptation
from samstudent.sam.click_training import is_trained
from samstudent.sam.model import SamModel
from samstudent.task import Task
from support.sam_models import lite, small

__all__ = ["lite", "small"]

STUDENT = {"network": "unet", "size": [16, 16, 16]}


def adaptation(backend: Any, used: bool) -> ClickAdaptation:
    """The backend's own weights, a little larger."""
    weights = {name: 1.01 * p.detach() for name, p in backend.load().named_parameters() if is_trained(name)}
    return ClickAdaptation(weights if used else {}, 0.5, 0.6, 0.1, 0.01, used, "a gain", ["a"] if used else [])


def test_sam_with_trained_points_has_no_decoder_of_its_own(small: Any, tmp_path: Path) -> None:
    assert ClickDecoders(tmp_path).decoder(small) is None


def test_lite_medsam_has_the_general_decoder(lite: Any, tmp_path: Path) -> None:
    decoder = ClickDecoders(tmp_path).decoder(lite)
    assert decoder is not None and decoder.least == 2 and decoder.sam.digest != lite.digest
    assert decoder.sam.embedding_digest == lite.embedding_digest


def test_better_adaptation_is_used_by_all_processes_and_a_worse_one_changes_nothing(small: Any, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first, other = ClickDecoders(folder), ClickDecoders(folder)
    first.store(adaptation(small, used=False), small)
    assert other.decoder(small) is None
    first.store(adaptation(small, used=True), small)
    found = other.decoder(small)
    assert found is not None and found.least == 1 and found is other.decoder(small)
    assert isinstance(found.sam, SamModel)
    name = "mask_decoder.iou_token.weight"
    assert torch.equal(found.sam.load().state_dict()[name], 1.01 * small.load().state_dict()[name])
    first.store(adaptation(small, used=False), small)
    assert other.decoder(small) is found
    assert other.decoder(small, adapted=False) is None
    assert json.loads((folder / "clicks.json").read_text())["used"] is False


def test_damaged_file_is_logged_once(small: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    decoders = ClickDecoders(tmp_path)
    decoders.store(adaptation(small, used=True), small)
    decoders.weights.write_bytes(decoders.weights.read_bytes()[:-9])
    with caplog.at_level(logging.ERROR):
        assert decoders.decoder(small) is None and decoders.decoder(small) is None
    assert sum("clicks.safetensors" in record.getMessage() for record in caplog.records) == 1


def test_examples_of_a_film_have_its_present_structures(small: Any) -> None:
    task = Task.model_validate({"name": "t", "dimension": 2, "structures": {"a": 1, "b": 2}})
    image = CaseImage(np.random.default_rng(0).random((1, 40, 50), dtype=np.float32), Grid.of((40, 50), np.eye(4)))
    masks = np.zeros((2, 20, 25), dtype=bool)
    masks[1, 3:9, 4:12] = True
    (example,) = click_examples(image, LabelledMasks(masks), task, CachedSam(small))
    assert example.masks.shape == (1, 20, 25) and example.embedding.image_size == (20, 25)
    assert click_examples(image, LabelledMasks(masks & False), task, CachedSam(small)) == []
    masks[0, 9:12, 0:4] = True
    unknown = np.zeros_like(masks)
    unknown[1, 0] = True
    (known,) = click_examples(image, LabelledMasks(masks, unknown), task, CachedSam(small))
    assert (known.masks == masks[:1]).all()


def test_examples_of_a_volume_are_the_slices_with_the_largest_structures(small: Any) -> None:
    task = Task.model_validate({"name": "t", "dimension": 3, "structures": {"a": 1}, "student": STUDENT})
    image = CaseImage(
        np.random.default_rng(0).random((1, 9, 16, 16), dtype=np.float32), Grid.of((9, 16, 16), np.eye(4))
    )
    masks = np.zeros((1, 9, 16, 16), dtype=bool)
    for z in range(1, 8):
        masks[0, z, 2 : 3 + z, 2 : 3 + z] = True
    found = click_examples(image, LabelledMasks(masks), task, CachedSam(small))
    assert [int(e.masks.sum()) for e in found] == [(z + 1) ** 2 for z in (4, 5, 6, 7)]
    unknown = np.zeros_like(masks)
    unknown[0, 6, 0, 0] = True
    known = click_examples(image, LabelledMasks(masks, unknown), task, CachedSam(small))
    assert [int(e.masks.sum()) for e in known] == [(z + 1) ** 2 for z in (3, 4, 5, 7)]
