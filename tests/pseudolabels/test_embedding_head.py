"""Embedding heads: segmentation of synthetic shapes, determinism, and exclusion of the padding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.pseudolabels.embedding_head import EmbeddingHead
from samstudent.pseudolabels.head_training import HeadCase, HeadTraining, head_cases, train_head
from samstudent.sam.cached_sam import CachedSam
from support.drawn import FakeSam, case_image, dice, shapes, small_task

TASK = small_task()
SAM: Any = CachedSam(FakeSam())  # type: ignore[arg-type]


def cases_of(count: int) -> list[HeadCase]:
    found: list[HeadCase] = []
    for seed in range(count):
        # Half as wide as high: the frame is padded on the right.
        pixels, masks = shapes(seed, (32, 16))
        found += head_cases(case_image(pixels), LabelledMasks(masks), TASK, SAM)
    return found


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingHead:
    path = tmp_path_factory.mktemp("head") / "head.pt"
    train_head(cases_of(6), TASK, path, HeadTraining(steps=60))
    return EmbeddingHead.load(path, TASK, SAM)


def test_case_is_in_the_upper_left_of_the_frame() -> None:
    (case,) = cases_of(1)
    assert case.features.shape == (256, 32, 32)
    assert case.masks.shape == (2, 128, 128)
    assert case.size == (128, 64)
    truth = shapes(0, (32, 16))[1]
    assert not case.masks[:, :, 64:].any()
    assert dice(case.masks[0, ::4, :64:4].numpy(), truth[0]) > 0.9


def test_head_segments_shapes_in_a_new_image(head: EmbeddingHead) -> None:
    pixels, truth = shapes(99, (32, 16))
    probabilities = head.predict(case_image(pixels))
    assert probabilities.shape == (2, 32, 16)
    assert probabilities.dtype == np.float32
    assert dice(probabilities[0] >= 0.5, truth[0]) > 0.7
    assert dice(probabilities[1] >= 0.5, truth[1]) > 0.6


def test_other_input_size_covers_the_same_image(head: EmbeddingHead) -> None:
    pixels, truth = shapes(98, (32, 16))
    small = head.predict(case_image(pixels), (16, 8))
    assert small.shape == (2, 16, 8)
    assert dice(small[0] >= 0.5, truth[0, ::2, ::2]) > 0.6


def test_the_seed_decides(tmp_path: Path) -> None:
    cases = cases_of(2)
    versions = [
        train_head(cases, TASK, tmp_path / f"{i}.pt", HeadTraining(seed, steps=2)) for i, seed in enumerate((1, 1, 2))
    ]
    assert versions[0] == versions[1] != versions[2]


def test_volume_is_sliced_along_the_axis_of_the_recipe(tmp_path: Path) -> None:
    task = small_task(
        dimension=3, student={"size": [16, 16, 16], "channels": [8, 16]}, recipe={"axis": "y"}, structures=["disk"]
    )
    volume = np.zeros((6, 5, 8), np.uint8)
    truth = np.zeros((1, 6, 5, 8), bool)
    truth[0, 1:3, 2, 4:7] = True
    cases = head_cases(case_image(volume), LabelledMasks(truth), task, SAM)
    assert [bool(case.masks.any()) for case in cases] == [False, False, True, False, False]
    assert cases[0].size == (24, 32)
    train_head(cases, task, tmp_path / "r.pt", HeadTraining(steps=1))
    assert EmbeddingHead.load(tmp_path / "r.pt", task, SAM).predict(case_image(volume)).shape == (1, 6, 5, 8)


def test_training_without_labelled_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no human-labelled case"):
        train_head([], TASK, tmp_path / "r.pt")


def test_padding_is_excluded_from_the_loss() -> None:
    """Predictions outside of the image are neither right nor wrong."""
    from samstudent.pseudolabels.head_training import _Batches

    (case,) = cases_of(1)
    batch = next(iter(_Batches([case], 1, 0)))
    ignored = batch["ignore"][:, 0].float().mean(dim=(1, 2))
    # Half of the frame is padding; a warp of a tenth moves it a little.
    assert bool(((ignored > 0.35) & (ignored < 0.75)).all())
    assert not bool((batch["masks"].bool() & batch["ignore"]).any())


def test_label_map_and_masks_are_equal_targets() -> None:
    from samstudent.pseudolabels.head_training import _Batches

    masks, label = (next(iter(_Batches(cases_of(2), 1, 0, overlap))) for overlap in (True, False))
    assert masks["masks"].any() and bool((masks["image"] == label["image"]).all())
    for index in range(masks["masks"].shape[1]):
        assert bool((masks["masks"][:, index].bool() == (label["label"] == 1 + index)).all())
    assert bool((masks["ignore"] == label["ignore"]).all())
