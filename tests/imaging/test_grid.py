"""Grid: every orientation with its round trip, points and pixels, singleton axes."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.grid import Grid

ORIENTATIONS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def affine_of(order: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...]) -> NDArray[Any]:
    """File axis n runs along patient axis order[n], in the direction signs[n]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (patient, sign) in enumerate(zip(order, signs, strict=True)):
        affine[patient, axis] = sign * spacing[axis]
    affine[:3, 3] = [7, -5, 3]
    return affine


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_all_48_orientations_round_trip_to_ras(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    spacing = (0.5, 1.0, 2.0)
    affine = affine_of(order, signs, spacing)
    grid = Grid.of((4, 3, 2), affine)
    file = np.arange(24).reshape(4, 3, 2)
    canonical = grid.from_file(file)
    assert canonical.shape == grid.spatial_shape and canonical.flags.c_contiguous
    assert (grid.to_file(canonical) == file).all()
    assert grid.spacing == tuple(spacing[order.index(axis)] for axis in (2, 1, 0))
    for ijk in product(range(2), range(3), range(4)):
        index = grid.index_from_file(ijk)
        assert canonical[tuple(int(v) for v in index)] == file[ijk[::-1]]
    # One step along each canonical axis is one step to the right, front, top of the patient.
    ijk_of = np.stack([grid.from_file(values) for values in np.indices((4, 3, 2))[::-1]], axis=-1)
    origin = ijk_of[0, 0, 0]
    for axis, patient in ((2, 0), (1, 1), (0, 2)):
        step = [0, 0, 0]
        step[axis] = 1
        moved = affine[:3, :3] @ (ijk_of[tuple(step)] - origin)
        assert moved[patient] == pytest.approx(grid.spacing[axis])


def test_leading_axes_are_preserved() -> None:
    grid = Grid.of((4, 3, 2), affine_of((1, 2, 0), (-1, 1, -1), (1, 1, 1)))
    stack = np.random.default_rng(0).random((5, 6, *grid.spatial_shape))
    assert grid.to_file(stack).shape == (5, 6, 4, 3, 2)
    assert (grid.to_file(stack)[1, 2] == grid.to_file(stack[1, 2])).all()
    assert (grid.from_file(grid.to_file(stack)) == stack).all()


@pytest.mark.parametrize(
    ("shape", "spatial", "ijk", "index"),
    [
        ((5, 4), (5, 4), (1, 2), (2, 1)),
        ((5, 4), (5, 4), (1, 2, 0), (2, 1)),
        ((1, 5, 4), (5, 4), (1, 2, 0), (2, 1)),
        ((1, 5, 4), (5, 4), (1, 2), (2, 1)),
        ((5, 1, 4), (5, 4), (1, 0, 2), (2, 1)),
        ((5, 4, 1), (5, 4), (0, 1, 2), (2, 1)),
        ((1, 1, 4), (1, 4), (3, 0, 0), (0, 3)),
        ((1, 1, 1), (1, 1), (0, 0, 0), (0, 0)),
    ],
)
def test_2d_is_never_flipped_whatever_its_axes(
    shape: tuple[int, ...], spatial: tuple[int, ...], ijk: tuple[int, ...], index: tuple[int, ...]
) -> None:
    grid = Grid.of(shape, np.diag([-1.0, -1.0, -1.0, 1.0]))
    file = np.arange(np.prod(shape)).reshape(shape)
    assert grid.dimension == 2 and grid.spatial_shape == spatial
    assert (grid.from_file(file) == file.reshape(spatial)).all()
    assert (grid.to_file(grid.from_file(file)) == file).all()
    assert grid.index_from_file(ijk) == index


@settings(max_examples=50)
@given(st.lists(st.floats(-0.3, 0.3), min_size=9, max_size=9), st.sampled_from(ORIENTATIONS))
def test_oblique_and_sheared_axes_have_their_nearest_direction(shear: list[float], orientation: Any) -> None:
    affine = affine_of(*orientation, (1, 1, 1))
    affine[:3, :3] += np.reshape(shear, (3, 3))
    grid = Grid.of((4, 3, 2), affine)
    file = np.arange(24).reshape(4, 3, 2)
    assert (grid.to_file(grid.from_file(file)) == file).all()
    index = grid.index_from_file((1, 2, 3))
    assert grid.from_file(file)[tuple(int(v) for v in index)] == file[3, 2, 1]


def test_canonical_axes_are_those_of_nibabel() -> None:
    affine = affine_of((2, 0, 1), (-1, 1, -1), (1, 1, 1))
    assert aff2axcodes(affine) == ("I", "R", "P")
    assert Grid.of((4, 3, 2), affine).spatial_shape == (2, 4, 3)  # z is file axis i, y is k, x is j.


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4, 5), (0, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="image or a volume"):
        Grid.of(shape, np.eye(4))


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1.0, 0, 1, 1])])
def test_an_affine_without_inverse_is_refused(affine: NDArray[Any]) -> None:
    with pytest.raises(UserError, match="no inverse"):
        Grid.of((4, 3, 2), affine)


def test_wrong_arrays_and_points_are_refused() -> None:
    grid = Grid.of((4, 3, 2), np.eye(4))
    with pytest.raises(UserError, match=r"\(2, 3, 5\) does not end with this grid's \(4, 3, 2\)"):
        grid.to_file(np.zeros((2, 3, 5)))
    with pytest.raises(UserError, match=r"does not end"):
        grid.from_file(np.zeros((3, 2)))
    with pytest.raises(UserError, match="expected i, j, k"):
        grid.index_from_file((1, 2))
    with pytest.raises(UserError, match="i, j or i, j, k"):
        Grid.of((4, 3), np.eye(4)).index_from_file((1,))
