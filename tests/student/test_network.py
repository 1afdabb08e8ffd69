from __future__ import annotations

import numpy as np
import pytest
import torch

from samstudent.errors import UserError
from samstudent.student.network import (
    SpatialPrior,
    build_network,
    coarse_size,
    has_interior,
    output_channels,
    probabilities_of,
)
from samstudent.task import load_task, shipped_tasks
from support.drawn import small_task


@pytest.mark.parametrize("network", ["unet", "segresnet", "basicunet"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_logits_are_on_the_input_grid(network: str, dimension: int) -> None:
    size = [32] * dimension
    task = small_task(dimension=dimension, student={"network": network, "size": size, "channels": [8, 8, 8, 8, 8]})
    logits = build_network(task)(torch.rand(2, 1, *size))
    assert logits.shape == (2, 3, *size)


@pytest.mark.parametrize("network", ["unet", "segresnet", "basicunet"])
def test_gradients_of_volumes_are_those_of_the_images(network: str) -> None:
    """Two slices are left at the bottom: there oneDNN's gradients in bfloat16 are what lay in the memory before."""
    size = (32, 32, 32)
    student = {"network": network, "size": size, "channels": [8, 8, 16, 32, 32]}
    torch.manual_seed(0)
    model = build_network(small_task(dimension=3, student=student)).train()
    images = torch.rand(2, 1, *size)
    found = []
    for _ in range(6):
        rubbish = [torch.full((side,), torch.nan) for side in range(1000, 60000, 1000)]
        del rubbish
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        logits.float().square().mean().backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert all(torch.equal(gradient, found[0]) for gradient in found) and found[0].isfinite().all()


def test_spatial_prior_distinguishes_equal_structures() -> None:
    """Two structures in an image without contrast: a convolution of one pixel cannot distinguish them."""
    torch.manual_seed(0)
    network = SpatialPrior(torch.nn.Conv2d(1, 2, 1), 2)
    image, masks = torch.ones(1, 1, 20, 30), torch.zeros(1, 2, 20, 30)
    masks[:, 0, 5:15, 4:11], masks[:, 1, 5:15, 19:26] = 1, 1
    torch.testing.assert_close(network(image), network.network(image))  # at first it says nothing
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-2)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    for _ in range(400):
        optimizer.zero_grad()
        loss(network(image), masks).backward()
        optimizer.step()
    found = (network(image) > 0).float()
    assert (2 * (found * masks).sum(dim=(0, 2, 3)) / (found + masks).sum(dim=(0, 2, 3)) > 0.8).all()


@pytest.mark.parametrize(("dimension", "structures", "placed"), [(2, 7, False), (2, 8, True), (3, 9, False)])
def test_many_structures_of_whole_images_have_a_spatial_prior(dimension: int, structures: int, placed: bool) -> None:
    student = {"size": [32] * dimension, "channels": [8, 8]}
    names = [f"bone_{number}" for number in range(structures)]
    task = small_task(dimension=dimension, student=student, structures=names)
    assert isinstance(build_network(task), SpatialPrior) is placed


def test_prior_begins_at_the_places_of_the_labels() -> None:
    network = SpatialPrior(torch.nn.Conv2d(1, 4, 1), 4)
    masks = np.zeros((2, 3, 41, 81), dtype=bool)
    masks[0, 0, 10:15, 20:25] = masks[1, 0, 14:19, 24:29] = True  # middle: 14, 24
    masks[0, 1, 30, 60:70] = True
    network.set_to_places(masks, first=1)
    logits = network.logits_at((41, 81), torch.device("cpu")).detach()
    assert not logits[0].any() and not logits[3].any()  # background, and a structure that no label has
    assert divmod(int(logits[1].argmax()), 81) == (14, 24)
    assert logits[1].max() == pytest.approx(0, abs=1e-3) and logits[1, 30, 64] < -3
    assert divmod(int(logits[2].argmax()), 81)[0] == 30


@pytest.mark.parametrize(("overlap", "more"), [(False, 1), (True, 0)])
def test_many_structures_that_do_not_overlap_have_an_interior(overlap: bool, more: int) -> None:
    names = [f"tooth_{number}" for number in range(8)]
    for network in ("unet", "efficientnet_lite0"):
        task = small_task(structures=names, overlap=overlap, student={"network": network, "size": [32, 64]})
        assert has_interior(task) is bool(more)
        logits = build_network(task).eval()(torch.rand(1, 1, 32, 64))
        assert logits.shape == (1, output_channels(task) + more, 32, 64)
        assert probabilities_of(logits, task).shape == (1, 8, 32, 64)


def test_one_channel_each_where_structures_overlap() -> None:
    assert output_channels(small_task(overlap=True)) == 2
    assert output_channels(small_task(overlap=False)) == 3


@pytest.mark.parametrize(
    ("student", "says"),
    [
        ({"size": [48, 64], "channels": [8, 16, 32, 64, 128, 256]}, "multiple of 32"),
        ({"size": [16, 16], "channels": [8, 16, 32, 64, 128]}, "at least 32"),
        ({"size": [64, 64], "channels": [8]}, "two or more"),
        ({"size": [64, 64], "channels": [8, 16], "network": "basicunet"}, "exactly 5"),
        ({"size": [64, 64], "channels": [12, 16], "network": "segresnet"}, "divisible by 8"),
    ],
)
def test_impossible_networks_are_refused(student: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        build_network(small_task(student=student))


@pytest.mark.parametrize("name", shipped_tasks())
def test_every_shipped_task_has_a_network(name: str) -> None:
    assert sum(p.numel() for p in build_network(load_task(name)).parameters()) > 10_000


@pytest.mark.parametrize(
    ("student", "size"),
    [
        ({"size": [256, 512]}, (128, 256)),
        ({"size": [160, 160]}, (64, 64)),  # a multiple of 32
        ({"size": [384, 224], "channels": [8, 8, 8, 8, 8]}, (192, 112)),
        ({"size": [96, 64], "channels": [8, 8, 8]}, None),  # small already
        ({"size": [64, 64]}, None),  # the deepest level would have one pixel
    ],
)
def test_coarse_size_is_at_most_half_and_suits_the_network(
    student: dict[str, object], size: tuple[int, ...] | None
) -> None:
    task = small_task(student=student)
    assert coarse_size(task) == size
    if size is not None:
        assert build_network(task).eval()(torch.rand(1, 1, *size)).shape == (1, 3, *size)


def test_volumes_have_no_coarse_size() -> None:
    assert coarse_size(small_task(dimension=3, student={"size": [64, 64, 64]})) is None
