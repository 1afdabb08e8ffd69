"""Requests in the exact form of Slicer's and OHIF's smart-edit panels, on synthetic images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.imaging.case import CaseImage, Grid
from samstudent.server.tasks.slice_geometry import SliceStack
from samstudent.server.tasks.smart_edit import MAX_POINTS, read_request
from samstudent.task import ImageSection

NAMES = ["radius", "ulna"]
SECTION = ImageSection(intensity="window", low=0, high=255)
#: RAS affines of a volume of 6 slices of 20 rows and 30 columns.
AXIAL = np.diag([-1.0, -1.0, 3.0, 1.0])
SAGITTAL = np.array([[0, 0, 3.0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])


def stack_of(shape: tuple[int, ...], affine: np.ndarray = AXIAL) -> SliceStack:
    """SliceStack of an image whose pixel values count up along i, j, k."""
    grid = Grid.of(shape, affine)
    stored = np.indices(shape).sum(axis=0, dtype=np.float32)
    return SliceStack.of(CaseImage(grid.from_file(stored)[None].copy(), grid), SECTION)


@pytest.fixture
def volume() -> SliceStack:
    return stack_of((6, 20, 30))


@pytest.fixture
def film() -> SliceStack:
    return stack_of((20, 30))


@pytest.mark.parametrize("affine", [AXIAL, SAGITTAL, np.diag([1.0, 1.0, -2.0, 1.0])])
def test_slices_are_those_of_the_file_in_every_orientation(affine: np.ndarray) -> None:
    stack = stack_of((6, 20, 30), affine)
    assert stack.pixels.shape == (6, 20, 30, 3)
    i, j, k = 7, 3, 5
    k, x, y = stack.locate([i, j, k])
    assert stack.pixels[k, int(y), int(x), 0] == i + j + k


@pytest.mark.parametrize("affine", [AXIAL, SAGITTAL])
def test_masks_of_slices_are_returned_on_the_grid_of_the_file(affine: np.ndarray) -> None:
    stack = stack_of((6, 20, 30), affine)
    drawn = np.zeros((1, 6, 20, 30), dtype=bool)
    drawn[0, 4, 2, 11] = True
    in_file = stack.grid.to_file(stack.to_canonical(drawn))
    assert np.argwhere(in_file).tolist() == [[0, 4, 2, 11]]


@pytest.mark.parametrize("shape", [(20, 30), (1, 20, 30), (20, 30, 1)])
def test_2d_images_are_one_slice_with_or_without_a_singleton_axis(shape: tuple[int, ...]) -> None:
    stack = stack_of(shape)
    assert stack.pixels.shape == (1, 20, 30, 3)
    asked = {(20, 30): [7, 3], (1, 20, 30): [7, 3, 0], (20, 30, 1): [0, 7, 3]}[shape]
    assert stack.locate(asked) == (0, 7.0, 3.0)
    assert stack.to_canonical(np.zeros((2, 1, 20, 30), dtype=bool)).shape == (2, 20, 30)


def test_slicer_2d_click(film: SliceStack) -> None:
    request = {"label": "ulna", "foreground": [[12, 7, 0]], "background": [[2, 3, 0]], "slice": 0, "reset_state": True}
    (ask,) = read_request(request, NAMES, film)
    assert (ask.name, ask.slice) == ("ulna", 0)
    assert (ask.prompt.box, ask.prompt.positive, ask.prompt.negative) == (None, ((12.0, 7.0),), ((2.0, 3.0),))


def test_slicer_volume_click_decodes_only_the_clicked_slice(volume: SliceStack) -> None:
    request = {"label": "radius", "foreground": [[12, 7, 4]], "background": [], "slice": 4}
    (ask,) = read_request(request, NAMES, volume)
    assert (ask.slice, ask.prompt.positive) == (4, ((12.0, 7.0),))


def test_slicer_sends_points_of_all_slices_with_slice_0(volume: SliceStack) -> None:
    request = {"label": "radius", "foreground": [[1, 1, 0], [12, 7, 4]], "background": [[3, 3, 4]], "slice": 0}
    (ask,) = read_request(request, NAMES, volume)
    assert (ask.slice, ask.prompt.positive, ask.prompt.negative) == (0, ((1.0, 1.0),), ())


def test_ohif_sends_neither_label_nor_slice(volume: SliceStack) -> None:
    request = {"foreground": [[12, 7, 3], [13, 7, 3]], "background": [[1, 2, 3]], "result_extension": ".nrrd"}
    (ask,) = read_request(request, NAMES, volume)
    assert (ask.name, ask.slice) == ("foreground", 3)
    assert (ask.prompt.positive, ask.prompt.negative) == (((12.0, 7.0), (13.0, 7.0)), ((1.0, 2.0),))


def test_no_label_means_the_only_structure_of_a_task(film: SliceStack) -> None:
    assert read_request({"foreground": [[1, 1]]}, ["femur"], film)[0].name == "femur"


def test_clicks_on_several_slices_are_all_decoded(volume: SliceStack) -> None:
    request = {"label": "ulna", "foreground": [[12, 7, 3], [13, 7, 1]], "background": [[1, 1, 3], [1, 1, 5]]}
    asks = read_request(request, NAMES, volume)
    assert [(a.slice, a.prompt.positive, a.prompt.negative) for a in asks] == [
        (1, ((13.0, 7.0),), ()),
        (3, ((12.0, 7.0),), ((1.0, 1.0),)),
    ]


def test_deepedit_request_uses_points_of_other_structures_as_negatives(volume: SliceStack) -> None:
    request = {"label": "radius", "radius": [[4, 5, 2]], "ulna": [[9, 5, 2], [9, 5, 0]], "background": [[0, 0, 2]]}
    asks = {(a.name, a.slice): a.prompt for a in read_request(request, NAMES, volume)}
    assert asks.keys() == {("radius", 2), ("ulna", 2), ("ulna", 0)}
    assert asks["radius", 2].negative == ((0.0, 0.0), (9.0, 5.0))
    assert asks["ulna", 2].negative == ((0.0, 0.0), (4.0, 5.0))
    assert asks["ulna", 0].negative == ()


def test_slicer_box_accepts_its_corners_in_any_order(film: SliceStack) -> None:
    request = {"label": "ulna", "foreground": [], "background": [], "roi": [15, 5, 12, 4, -8, 9], "slice": 0}
    (ask,) = read_request(request, NAMES, film)
    assert ask.prompt.box == (5.0, 4.0, 15.0, 12.0)


def test_a_box_is_cut_to_the_image(film: SliceStack) -> None:
    (ask,) = read_request({"label": "ulna", "roi": [-4, 40, 3, 90, 0, 0]}, NAMES, film)
    assert ask.prompt.box == (0.0, 3.0, 29.0, 19.0)


def test_box_and_click_form_one_prompt(volume: SliceStack) -> None:
    request = {"label": "ulna", "foreground": [[9, 9, 4]], "roi": [5, 15, 4, 12, -9, 9], "slice": 4}
    (ask,) = read_request(request, NAMES, volume)
    assert (ask.slice, ask.prompt.box, ask.prompt.positive) == (4, (5.0, 4.0, 15.0, 12.0), ((9.0, 9.0),))


@pytest.mark.parametrize(
    ("roi", "given", "expected"),
    [
        # Slices lie 3 mm apart and begin at 0 mm: Slicer's 12 mm is slice 4.
        ([5, 15, 4, 12, 0, 5], 12, 4),
        # No slice of the box lies at 1 mm or -1 mm (nearest: 0); as an index it lies in the box.
        ([5, 15, 4, 12, 1, 3], 1, 1),
        # Neither: the middle, where Slicer puts a box that is drawn on a slice.
        ([5, 15, 4, 12, 2, 4], 100, 3),
        ([5, 15, 4, 12, 4, 2], None, 3),
        # Four numbers: the slice is an index.
        ([5, 4, 15, 12], 3, 3),
    ],
)
def test_slice_of_a_box_without_click(volume: SliceStack, roi: list[int], given: int | None, expected: int) -> None:
    (ask,) = read_request({"label": "ulna", "roi": roi, "slice": given}, NAMES, volume)
    assert (ask.slice, ask.prompt.box) == (expected, (5.0, 4.0, 15.0, 12.0))


def test_slicer_millimetres_are_unsigned() -> None:
    affine = AXIAL.copy()
    affine[2, 3] = -30  # slices at -30, -27, ..., -15 mm
    request = {"label": "ulna", "roi": [5, 15, 4, 12, 0, 5], "slice": 24}
    assert read_request(request, NAMES, stack_of((6, 20, 30), affine))[0].slice == 2


def test_sagittal_series_has_no_position_along_k() -> None:
    request = {"label": "ulna", "roi": [5, 15, 4, 12, 2, 4], "slice": 50}
    assert read_request(request, NAMES, stack_of((6, 20, 30), SAGITTAL))[0].slice == 3


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({}, "no points"),
        ({"foreground": [], "background": []}, "no points"),
        ({"background": [[1, 1, 1]]}, "only background points"),
        ({"foreground": [[1, 1, 1]], "slice": 2}, "no points on slice 2"),
        ({"foreground": [[1, 1, 6]]}, "foreground: point .1, 1, 6. lies outside"),
        ({"foreground": [[30, 1, 1]]}, "outside of the image: x 0 to 29"),
        ({"foreground": [[1, 1, 1]], "background": [[1, -1, 1]]}, "background: point"),
        ({"foreground": [[1, 1]]}, "three numbers"),
        ({"foreground": [1, 1, 1]}, "foreground: a point is a list"),
        ({"foreground": "1,1,1"}, "foreground must be a list"),
        ({"foreground": {"x": 1}}, "foreground must be a list"),
        ({"foreground": [["a", 1, 1]]}, "foreground: a point"),
        ({"foreground": [[float("nan"), 1, 1]]}, "foreground: a point"),
        ({"foreground": [[True, 1, 1]]}, "foreground: a point"),
        ({"foreground": [[None, 1, 1]]}, "foreground: a point"),
        ({"foreground": [[1, 1, 1]] * (MAX_POINTS + 1)}, "at most"),
        ({"ulna": 5}, "ulna must be a list"),
        ({"foreground": [[1, 1, 1]], "label": ["ulna"]}, "label must be"),
        ({"foreground": [[1, 1, 1]], "slice": "1"}, "slice must be"),
        ({"foreground": [[1, 1, 1]], "slice": 1.5}, "slice must be"),
        ({"foreground": [[1, 1, 1]], "slice": 6}, "slice 6 is outside"),
        ({"roi": [1, 2, 3]}, "roi must be"),
        ({"roi": "all"}, "roi must be"),
        ({"roi": [1, 2, 3, 4, 5, None]}, "roi must be"),
        ({"roi": [40, 50, 1, 2, 0, 5]}, "roi .* outside of the image"),
        ({"roi": [1, 5, 1, 5, 7, 9]}, "roi .* outside of the image"),
    ],
)
def test_requests_that_cannot_be_decoded_are_refused(volume: SliceStack, request_: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        read_request(request_, NAMES, volume)
