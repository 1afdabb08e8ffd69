from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from drawn import case_image, shapes, small_task, training_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from samstudent.errors import UserError
from samstudent.student.data import AugmentedCases, Draw, MixedBatchSampler, make_loader, prepare_case
from samstudent.task import Task


@given(
    human=st.integers(1, 9), pseudo=st.integers(0, 30), batch=st.integers(1, 12), share=st.floats(0.01, 1),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_every_batch_holds_the_humans_share(human: int, pseudo: int, batch: int, share: float) -> None:
    sampler = MixedBatchSampler(range(human), range(100, 100 + pseudo), batch, share, steps=5, seed=0)
    batches = list(sampler)
    expected = min(batch, max(1, round(share * batch))) if pseudo else batch
    assert len(batches) == len(sampler) == 5
    for drawn in batches:
        assert len(drawn) == batch
        assert sum(d.case < 100 for d in drawn) == expected


def test_every_case_is_drawn_before_any_is_drawn_again() -> None:
    sampler = MixedBatchSampler(range(7), [], 7, 1.0, steps=4, seed=3)
    counts = Counter(d.case for batch in sampler for d in batch)
    assert counts == dict.fromkeys(range(7), 4)


def test_the_seed_decides_and_epochs_differ() -> None:
    def draws(seed: int) -> list[list[list[Draw]]]:
        sampler = MixedBatchSampler(range(5), range(5, 9), 4, 0.5, steps=3, seed=seed)
        return [list(sampler), list(sampler)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert draws(1)[0] != draws(1)[1]


def test_no_human_label_is_an_error() -> None:
    with pytest.raises(UserError, match="no human-labelled case"):
        MixedBatchSampler([], [1, 2], 4, 0.5, steps=1, seed=0)


def test_augmentation_moves_image_and_masks_alike() -> None:
    task = small_task(training={"rotate": 30, "zoom": 0.2, "shift": 0.1, "mirror": ["x"], "intensity": 0})
    pixels = np.zeros((64, 64), np.uint8)
    _, masks = shapes(1)
    pixels[masks[0]], pixels[masks[1]] = 255, 120
    data = AugmentedCases([prepare_case("a", case_image(pixels), masks, task)], task)
    plain = data.cases[0].masks[0] + 2 * data.cases[0].masks[1]
    moved = 0
    for seed in range(8):
        item = data[Draw(0, seed)]
        image, disk, square = item["image"][0], item["label"] == 1, item["label"] == 2
        # Away from the interpolated edges the image must still show what the mask says.
        assert (image[disk] > 0.5).float().mean() > 0.95
        assert (image[square] > 0.2).float().mean() > 0.95
        assert not item["ignore"].any()
        moved += int(not np.array_equal(item["label"].numpy(), plain))
    assert moved >= 6
    torch.testing.assert_close(data[Draw(0, 5)]["image"], data[Draw(0, 5)]["image"])


def test_mirroring_by_the_axes_name() -> None:
    task = small_task(training={"rotate": 0, "zoom": 0, "shift": 0, "mirror": ["x"], "intensity": 0})
    data = AugmentedCases(training_cases(1, task), task)
    plain = data.cases[0].image
    seen = {bool(np.array_equal(data[Draw(0, s)]["image"].numpy(), plain)) for s in range(10)}
    flipped = [data[Draw(0, s)]["image"].numpy() for s in range(10)]
    assert seen == {True, False}
    assert all(np.array_equal(f, plain) or np.array_equal(f, plain[..., ::-1]) for f in flipped)


def test_volumes_smaller_than_the_window_are_padded_and_larger_ones_cropped() -> None:
    task = small_task(dimension=3, student={"size": [16, 32, 32], "channels": [8, 16]})
    for shape in ((5, 12, 40), (30, 40, 50)):
        masks = np.zeros((2, *shape), dtype=bool)
        masks[0, 2:4, 4:9, 4:9] = True
        case = prepare_case("v", case_image(np.full(shape, 100.0)), masks, task)
        batch = next(iter(make_loader([case], task, steps=1, seed=0)))
        assert batch["image"].shape == (4, 1, 16, 32, 32)
        assert batch["label"].shape == (4, 16, 32, 32) and batch["ignore"].shape == (4, 1, 16, 32, 32)
        assert (batch["label"] == 1).any()


def test_loading_is_the_same_for_the_same_seed() -> None:
    task: Task = small_task()
    cases = training_cases(3, task)

    def images(seed: int) -> torch.Tensor:
        return torch.stack([b["image"] for b in make_loader(cases, task, steps=3, seed=seed)])

    assert torch.equal(images(1), images(1))
    assert not torch.equal(images(1), images(2))
