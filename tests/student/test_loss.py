from __future__ import annotations

import math

import pytest
import torch

from samstudent.student.loss import StudentLoss


def targets(masks: torch.Tensor, ignore: torch.Tensor | None = None, weights: torch.Tensor | None = None):
    return {
        "masks": masks,
        "ignore": torch.zeros_like(masks) if ignore is None else ignore,
        "weights": torch.ones(masks.shape[:2]) if weights is None else weights,
    }


def test_sigmoid_known_number() -> None:
    # Four pixels at probability 1/2, one of them the structure: BCE = ln 2, Dice = 2 * 0.5 / (2 + 1).
    masks = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    loss = StudentLoss(overlap=True)(torch.zeros(1, 1, 2, 2), targets(masks)).total
    assert loss.item() == pytest.approx(math.log(2) + 1 - 1 / 3, abs=1e-5)


def test_softmax_known_number() -> None:
    # Three channels at probability 1/3 each; structure 0 has one of four pixels, structure 1 none: only 0 has a Dice.
    masks = torch.zeros(1, 2, 2, 2)
    masks[0, 0, 0, 0] = 1
    loss = StudentLoss(overlap=False)(torch.zeros(1, 3, 2, 2), targets(masks)).total
    assert loss.item() == pytest.approx(math.log(3) + 1 - (2 / 3) / (4 / 3 + 1), abs=1e-5)


@pytest.mark.parametrize("overlap", [True, False])
def test_perfect_prediction_has_no_loss(overlap: bool) -> None:
    masks = (torch.rand(2, 2, 8, 8) > 0.7).float()
    masks[:, 1] *= 1 - masks[:, 0]
    logits = 40 * masks - 20
    if not overlap:
        logits = torch.cat([20 - 40 * masks.amax(1, keepdim=True), logits], dim=1)
    assert StudentLoss(overlap)(logits, targets(masks)).total.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("form", ["label", "masks"])
def test_interior_is_added_and_ignores_the_same_pixels(form: str) -> None:
    label = torch.zeros(1, 8, 8, dtype=torch.uint8)
    label[0, 1:7, 1:4], label[0, 1:7, 4:7] = 1, 2
    inside = torch.zeros(1, 8, 8)
    inside[0, 2:6, [2, 5]] = 1
    masks = torch.stack([label == 1, label == 2], dim=1).float()
    given = targets(masks, ignore=torch.zeros(1, 1, 8, 8))
    if form == "label":
        given = {key: value for key, value in given.items() if key != "masks"} | {"label": label}
    perfect = torch.cat([20 - 40 * masks.amax(1, keepdim=True), 40 * masks - 20], dim=1)
    loss = StudentLoss(overlap=False, interior=True)
    known = torch.cat([perfect, 40 * inside[:, None] - 20], dim=1)
    assert loss(known, given).total.item() == pytest.approx(0, abs=1e-4)
    # The interior of one structure is missing: 4 of 8 pixels; Dice 2/3.
    wrong = known.clone()
    wrong[0, 3, :, 5] = -20
    assert loss(wrong, given).total.item() == pytest.approx(4 * 20 / 64 + 1 / 3, abs=1e-3)
    given["ignore"][0, 0, :, 5] = 1
    assert loss(wrong, given).total.item() == pytest.approx(0, abs=1e-4)


def gradient(overlap: bool, masks, ignore=None, weights=None) -> torch.Tensor:
    torch.manual_seed(0)
    channels = masks.shape[1] + (0 if overlap else 1)
    logits = torch.randn(masks.shape[0], channels, *masks.shape[2:], requires_grad=True)
    StudentLoss(overlap)(logits, targets(masks, ignore, weights)).total.backward()
    return logits.grad


def two_cases() -> torch.Tensor:
    masks = torch.zeros(2, 2, 8, 8)
    masks[:, 0, 1:4, 1:4] = 1
    masks[:, 1, 5:7, 5:7] = 1
    return masks


def test_sigmoid_ignores_its_region_in_its_channel_only() -> None:
    ignore = torch.zeros(2, 2, 8, 8)
    ignore[0, 1, 4:, 4:] = 1
    grad = gradient(True, two_cases(), ignore)
    assert (grad[0, 1, 4:, 4:] == 0).all()
    assert (grad[0, 1, :4] != 0).all()
    assert (grad[0, 0] != 0).all() and (grad[1] != 0).all()


def test_sigmoid_excludes_an_unknown_structure() -> None:
    weights = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    grad = gradient(True, two_cases(), weights=weights)
    assert (grad[0, 1] == 0).all()
    assert (grad[0, 0] != 0).all() and (grad[1, 1] != 0).all()


def test_softmax_ignored_pixels_have_no_gradient() -> None:
    ignore = torch.zeros(2, 2, 8, 8)
    ignore[0, 1, 4:, 4:] = 1
    grad = gradient(False, two_cases(), ignore, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert (grad[0, :, 4:, 4:] == 0).all()
    assert (grad[0, :, :4, :4] != 0).any()


def test_softmax_merges_an_unknown_structure_with_background() -> None:
    masks = torch.zeros(1, 2, 4, 4)
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    known = targets(masks, weights=torch.tensor([[1.0, 0.0]]))
    StudentLoss(overlap=False)(logits, known).total.backward()
    # "Background or structure 1" is taught: both rise (the gradient is negative) and only structure 0 falls.
    assert (logits.grad[0, 0] < 0).all() and (logits.grad[0, 2] < 0).all() and (logits.grad[0, 1] > 0).all()
    # ln(3/2): the probability of the two together is 2/3.
    assert StudentLoss(overlap=False)(torch.zeros(1, 3, 4, 4), known).total.item() == pytest.approx(
        math.log(1.5), abs=1e-5
    )


@pytest.mark.parametrize("overlap", [True, False])
def test_weight_scales_the_loss_of_a_case(overlap: bool) -> None:
    masks = two_cases()
    full = gradient(overlap, masks)
    low = gradient(overlap, masks, weights=torch.tensor([[1.0, 1.0], [0.1, 0.1]]))
    assert low[1].abs().sum() < 0.5 * full[1].abs().sum()
    assert low[0].abs().sum() > full[0].abs().sum()


@pytest.mark.parametrize("overlap", [True, False])
def test_without_known_structures_loss_and_gradient_are_0(overlap: bool) -> None:
    grad = gradient(overlap, torch.zeros(1, 2, 8, 8), torch.ones(1, 2, 8, 8), torch.zeros(1, 2))
    assert torch.isfinite(grad).all() and (grad == 0).all()


def both_forms(unknown: bool) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Equal targets as masks and as a label map."""
    masks = two_cases()
    ignore = torch.zeros(2, 1, 8, 8)
    ignore[0, :, 2:6, 2:6] = 1
    weights = torch.tensor([[1.0, 0.7], [0.4, 0.0 if unknown else 1.0]])
    label = masks[:, 0] + 2 * masks[:, 1]
    given = {"ignore": ignore, "weights": weights}
    return given | {"masks": masks}, given | {"label": label.to(torch.uint8)}


@pytest.mark.parametrize("unknown", [True, False])
def test_label_map_and_masks_have_equal_loss(unknown: bool) -> None:
    results = []
    for form in both_forms(unknown):
        torch.manual_seed(0)
        logits = torch.randn(2, 3, 8, 8, requires_grad=True)
        loss = StudentLoss(overlap=False)(logits, form).total
        loss.backward()
        results.append((loss.detach(), logits.grad))
    torch.testing.assert_close(results[0], results[1])


def test_soft_targets_known_number() -> None:
    # One pixel: target 0.7 and 0.1, so 0.2 background; answer 0.5, 0.25, 0.25. Dice only of what is shown.
    masks = torch.tensor([0.7, 0.1]).reshape(1, 2, 1, 1)
    logits = torch.tensor([0.25, 0.5, 0.25]).log().reshape(1, 3, 1, 1)
    entropy = -(0.2 * math.log(0.25) + 0.7 * math.log(0.5) + 0.1 * math.log(0.25))
    loss = StudentLoss(overlap=False)(logits, targets(masks)).total
    assert loss.item() == pytest.approx(entropy + 1 - 2 * 0.5 / 1.2, abs=1e-5)
    # Structure 1 unknown: background or structure 1 is taught by the 0.2 that are neither's.
    known = -(0.2 * math.log(0.5) + 0.7 * math.log(0.5)) / 0.9
    loss = StudentLoss(overlap=False)(logits, targets(masks, weights=torch.tensor([[1.0, 0.0]]))).total
    assert loss.item() == pytest.approx(known + 1 - 2 * 0.5 / 1.2, abs=1e-5)


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("target", [0.55, 0.8, 0.95])
def test_loss_of_a_soft_target_is_minimal_at_the_target(overlap: bool, target: float) -> None:
    masks = torch.full((1, 1, 4, 4), target)

    def cost(p: float) -> float:
        logit = torch.full((1, 1, 4, 4), math.log(p / (1 - p)))
        logits = logit if overlap else torch.cat([torch.zeros_like(logit), logit], dim=1)
        return StudentLoss(overlap)(logits, targets(masks)).total.item()

    assert min((0.3, 0.5, 0.55, 0.65, 0.8, 0.9, 0.95, 0.99), key=cost) == target


def test_pseudo_labels_never_outweigh_labels() -> None:
    """Half of a batch is human-labelled and contributes at least half of the gradient."""
    masks = torch.zeros(6, 1, 8, 8)
    masks[:, :, 2:5, 2:5] = 1
    weights = torch.tensor([1.0, 1, 1, 1, 0.8, 0.6])[:, None]
    for overlap in (True, False):
        grad = gradient(overlap, masks, weights=weights)
        assert grad[:3].abs().sum() > 0.5 * grad.abs().sum()
