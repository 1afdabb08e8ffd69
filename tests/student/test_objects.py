"""Objects of a prediction: a row of touching bricks, of which some have two numbers, or one twice."""

from __future__ import annotations

import torch

from samstudent.student.objects import interior_of, with_one_structure_each

BRICKS = 8


def wall(gap: int = 0) -> torch.Tensor:
    """Label uint8 (1, 32, 90) of bricks 1 to 8 in a row, 10 pixels wide and 20 high."""
    label = torch.zeros(1, 32, 90, dtype=torch.uint8)
    for number in range(BRICKS):
        label[0, 5:25, 5 + 10 * number : 15 + 10 * number - gap] = number + 1
    return label


def predicted(label: torch.Tensor, sure: float = 0.8) -> torch.Tensor:
    """Probabilities (8, 32, 90): ``sure`` for the label, 0.01 for others on any brick, 0.001 elsewhere."""
    result = torch.full((BRICKS, *label.shape[1:]), 0.001)
    result[:, label[0] > 0] = 0.01
    return result.scatter(0, (label.long() - 1).clamp(min=0), torch.where(label > 0, sure, 0.001))


def numbers(probabilities: torch.Tensor) -> torch.Tensor:
    """Label (H, W) of the highest probabilities."""
    return torch.where(probabilities.sum(dim=0) > 0.5, probabilities.argmax(dim=0) + 1, 0)


def test_interior_ends_between_touching_structures() -> None:
    found = interior_of(wall())[0]
    assert found.sum() == BRICKS * 8 * 18
    assert found[6:24, 6:14].all() and not found[:, [5, 14, 15, 24]].any()


def test_object_with_two_numbers_gets_that_of_its_larger_part() -> None:
    truth = wall()
    seen = truth.clone()
    seen[0, 5:12, 25:35] = 4  # seven of 20 rows of brick 3
    found = with_one_structure_each(predicted(seen), interior_of(truth)[0].float())
    assert torch.equal(numbers(found), truth[0].long())


def test_two_objects_do_not_get_the_same_number() -> None:
    """Brick 3 is seen as a second brick 4, and less as 3; brick 4 has no other candidate."""
    truth = wall()
    seen = truth.clone()
    seen[truth == 3] = 4
    probabilities = predicted(seen, 0.7)
    probabilities[2][truth[0] == 3] = 0.2
    assert (numbers(probabilities) == 4).sum() == 400
    found = with_one_structure_each(probabilities, interior_of(truth)[0].float())
    assert torch.equal(numbers(found), truth[0].long())


def test_structure_of_two_parts_keeps_both() -> None:
    """Bricks 3 and 4 are both structure 4, and look like nothing else."""
    seen = wall()
    interior = interior_of(seen)[0].float()
    seen[seen == 3] = 4
    found = with_one_structure_each(predicted(seen, 0.9), interior)
    assert torch.equal(numbers(found), seen[0].long())


def test_fragment_does_not_take_the_number_of_an_object() -> None:
    truth = wall()
    spot = torch.zeros_like(truth)
    spot[0, 28:32, 40:44] = 5
    probabilities = predicted(truth + spot, 0.6)
    interior = interior_of(truth)[0].float() + (spot[0] > 0)
    found = numbers(with_one_structure_each(probabilities, interior))
    assert torch.equal(found[:27], truth[0, :27].long())


def test_object_of_several_structures_keeps_its_numbers() -> None:
    """No border was found between bricks 3 and 4."""
    truth = wall()
    interior = interior_of(truth)[0].float()
    interior[6:24, 26:44] = 1
    found = with_one_structure_each(predicted(truth), interior)
    assert torch.equal(numbers(found), truth[0].long())


def test_probability_of_any_structure_is_unchanged() -> None:
    torch.manual_seed(0)
    probabilities = torch.rand(BRICKS + 1, 40, 50).softmax(dim=0)[1:]
    found = with_one_structure_each(probabilities, torch.rand(40, 50))
    torch.testing.assert_close(found.sum(dim=0), probabilities.sum(dim=0))


def test_without_an_interior_nothing_changes() -> None:
    probabilities = predicted(wall())
    assert torch.equal(with_one_structure_each(probabilities, torch.zeros(32, 90)), probabilities)
