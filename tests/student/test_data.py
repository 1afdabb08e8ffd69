from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samstudent.errors import UserError
from samstudent.student.data import AugmentedCases, Draw, MixedBatchSampler, make_loader
from samstudent.student.training_case import CaseLabel, TrainingCase, prepare_case, without_label
from samstudent.task import Task
from support.drawn import case_image, shapes, small_task, training_cases


@given(
    human=st.integers(1, 9), pseudo=st.integers(0, 30), batch=st.integers(1, 12), share=st.floats(0.01, 1),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_every_batch_has_the_share_of_human_labels(human: int, pseudo: int, batch: int, share: float) -> None:
    sampler = MixedBatchSampler(range(human), range(100, 100 + pseudo), batch, share, steps=5, seed=0)
    batches = list(sampler)
    expected = max(1, round(share * batch)) if pseudo else batch
    assert len(batches) == len(sampler) == 5
    for drawn in batches:
        assert len(drawn) == batch
        # Where rounding leaves no place for the others, chance decides: see below.
        assert sum(d.case < 100 for d in drawn) == expected or (expected >= batch and pseudo and share < 1)


@pytest.mark.parametrize(("batch", "share"), [(1, 0.25), (2, 0.75), (6, 0.95)])
def test_small_batch_is_filled_at_random(batch: int, share: float) -> None:
    sampler = MixedBatchSampler(range(5), range(100, 140), batch, share, steps=2000, seed=0)
    human = [d.case < 100 for drawn in sampler for d in drawn]
    assert len(human) == 2000 * batch
    assert sum(human) / len(human) == pytest.approx(share, abs=0.05)


def test_every_case_is_sampled_before_any_is_repeated() -> None:
    sampler = MixedBatchSampler(range(7), [], 7, 1.0, steps=4, seed=3)
    counts = Counter(d.case for batch in sampler for d in batch)
    assert counts == dict.fromkeys(range(7), 4)


def test_samples_depend_on_seed_and_epoch() -> None:
    def draws(seed: int) -> list[list[list[Draw]]]:
        sampler = MixedBatchSampler(range(5), range(5, 9), 4, 0.5, steps=3, seed=seed)
        return [list(sampler), list(sampler)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert draws(1)[0] != draws(1)[1]


def test_no_human_label_is_an_error() -> None:
    with pytest.raises(UserError, match="no human-labelled case"):
        MixedBatchSampler([], [1, 2], 4, 0.5, steps=1, seed=0)


def test_augmentation_transforms_image_and_masks_equally() -> None:
    task = small_task(training={"rotate": 30, "zoom": 0.2, "shift": 0.1, "mirror": ["x"], "intensity": 0})
    pixels = np.zeros((64, 64), np.uint8)
    _, masks = shapes(1)
    pixels[masks[0]], pixels[masks[1]] = 255, 120
    data = AugmentedCases([prepare_case("a", case_image(pixels), CaseLabel(masks), task)], task)
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


def test_mirroring_is_set_by_axis_name() -> None:
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
        case = prepare_case("v", case_image(np.full(shape, 100.0)), CaseLabel(masks), task)
        batch = next(iter(make_loader([case], task, steps=1, seed=0)))
        assert batch["image"].shape == (4, 1, 16, 32, 32)
        assert batch["label"].shape == (4, 16, 32, 32) and batch["ignore"].shape == (4, 1, 16, 32, 32)
        assert (batch["label"] == 1).any()


def test_loading_is_deterministic_for_a_seed() -> None:
    task: Task = small_task()
    cases = training_cases(3, task)

    def images(seed: int) -> torch.Tensor:
        return torch.stack([b["image"] for b in make_loader(cases, task, steps=3, seed=seed)])

    assert torch.equal(images(1), images(1))
    assert not torch.equal(images(1), images(2))


def test_ten_labels_have_their_share_among_300_pseudo_labels() -> None:
    sampler = MixedBatchSampler(range(10), range(10, 310), 6, 0.5, steps=200, seed=0)
    counts = Counter(d.case for batch in sampler for d in batch)
    human = [counts[case] for case in range(10)]
    assert sum(human) == 600 and min(human) == max(human) == 60
    assert all(counts[case] == 2 for case in range(10, 310))


def soft_case(task: Task, seed: int = 1) -> TrainingCase:
    """Case with soft targets 0.8 in the disk and 0.6 in the square."""
    pixels, masks = shapes(seed)
    soft = masks * np.array([0.8, 0.6])[:, None, None]
    return prepare_case("soft", case_image(pixels), CaseLabel(masks, soft=soft, human=False), task)


@pytest.mark.parametrize("overlap", [True, False])
def test_soft_targets_are_transformed_with_the_image(overlap: bool) -> None:
    task = small_task(overlap=overlap, training={"rotate": 30, "zoom": 0.2, "shift": 0.1, "intensity": 0})
    data = AugmentedCases([soft_case(task)], task)
    for seed in range(4):
        item = data[Draw(0, seed)]
        assert "label" not in item
        disk = item["image"][0] > 0.5
        assert item["masks"][0][disk].median() == pytest.approx(0.8, abs=0.01)
        assert item["masks"].max() <= 0.801
        if not overlap:
            assert item["masks"].sum(dim=0).max() <= 1


def test_soft_targets_that_may_not_overlap_sum_to_one_at_most() -> None:
    task = small_task()
    pixels, masks = shapes(1)
    case = prepare_case("a", case_image(pixels), CaseLabel(masks, soft=np.full((2, 64, 64), 0.8)), task)
    assert case.soft is not None and case.soft.dtype == np.float16
    np.testing.assert_allclose(case.soft, 0.5)
    label = CaseLabel(masks, soft=np.full((2, 64, 64), 0.8))
    both = prepare_case("a", case_image(pixels), label, small_task(overlap=True))
    np.testing.assert_allclose(both.soft, 0.8, rtol=1e-3)


def test_soft_targets_on_the_students_grid() -> None:
    pixels = np.zeros((64, 128))
    soft = np.zeros((2, 64, 128))
    soft[0, :, :64] = 1
    case = prepare_case("a", case_image(pixels), CaseLabel(soft > 0.5, soft=soft), small_task())
    assert case.soft is not None and case.soft.shape == (2, 64, 64)
    # Fitted into the middle rows; nothing is taught around the image.
    assert not case.soft[:, :16].any() and not case.soft[:, 48:].any()
    np.testing.assert_array_equal(case.soft[0, 16:48, :28], 1)


def test_hard_and_soft_targets_share_a_batch() -> None:
    task = small_task(training={"rotate": 0, "zoom": 0, "shift": 0, "intensity": 0, "batch_size": 4})
    human = training_cases(1, task)[0]
    batch = next(iter(make_loader([human, soft_case(task)], task, steps=1, seed=0)))
    assert "label" not in batch
    np.testing.assert_array_equal(batch["masks"][0].numpy(), human.masks.astype(np.float32))
    assert batch["masks"][2:].amax().item() == pytest.approx(0.8, abs=1e-3)
    # Without a soft one a batch needs one number a pixel.
    batch = next(iter(make_loader([human], task, steps=1, seed=0)))
    assert "masks" not in batch and batch["label"].shape == (4, 64, 64)


@pytest.mark.parametrize("overlap", [True, False])
def test_ignored_regions_are_transformed_with_the_image(overlap: bool) -> None:
    task = small_task(overlap=overlap, training={"rotate": 30, "intensity": 0})
    masks = shapes(2)[1]
    ignore = np.stack([masks[0], np.zeros_like(masks[0])])
    image = case_image(np.where(masks[0], 255, 0))
    data = AugmentedCases([prepare_case("a", image, CaseLabel(masks, ignore, human=False), task)], task)
    for seed in range(3):
        item = data[Draw(0, seed)]
        assert item["ignore"].dtype == torch.bool and item["ignore"].shape == ((2 if overlap else 1), 64, 64)
        assert (item["ignore"][0] == (item["image"][0] > 0.5)).float().mean() > 0.98
        assert not overlap or not item["ignore"][1].any()


def test_the_plain_image_has_the_same_geometry() -> None:
    task = small_task(training={"rotate": 30, "zoom": 0.2, "intensity": 0.5})
    same = small_task(training={"rotate": 30, "zoom": 0.2, "intensity": 0})
    case = training_cases(1, task)[0]
    data, quiet = AugmentedCases([case], task, plain=True), AugmentedCases([case], same)
    changed = 0
    for seed in range(6):
        item = data[Draw(0, seed)]
        torch.testing.assert_close(item["plain"], quiet[Draw(0, seed)]["image"])
        changed += int(not torch.equal(item["plain"], item["image"]))
    assert changed >= 3
    assert "plain" not in quiet[Draw(0, 0)]


def test_case_without_a_label_has_no_weights() -> None:
    task = small_task()
    case = without_label("a", case_image(shapes(0)[0]), task)
    assert not case.human and not case.weights.any() and not case.masks.any() and case.masks.shape == (2, 64, 64)
