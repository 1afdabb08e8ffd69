"""Pictures: position and colour of outlines and prompts."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from samstudent.errors import UserError
from samstudent.pseudolabels.reliability import reliability
from samstudent.research import pictures
from samstudent.research.pictures import Panel, best_median_worst

NAMES = ["nerve", "vessel"]


def masks(shape: tuple[int, ...]) -> np.ndarray:
    stack = np.zeros((2, *shape), bool)
    stack[0, ..., 5:15, 5:20] = True
    stack[1, ..., 10:25, 18:30] = True
    return stack


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def coloured(picture: np.ndarray, colour: pictures.Colour) -> np.ndarray:
    """Pixels of about this colour."""
    return np.abs(picture - np.round(np.array(colour) * 255)).max(-1) < 40


def test_structures_have_their_colours_in_the_panel_that_shows_them() -> None:
    image = np.zeros((40, 40), np.uint16)
    png = pictures.case_panels(image, [Panel("image"), Panel("truth", masks((40, 40)))], NAMES)
    picture = pixels(png)
    left, right = np.array_split(picture[: int(picture.shape[0] * 0.8)], 2, axis=1)
    for colour in pictures.colours(2):
        assert coloured(right, colour).sum() > 50
        assert not coloured(left, colour).any()


def test_colours_differ() -> None:
    palette = np.array(pictures.colours(32))
    distance = np.abs(palette[:, None] - palette[None]).max(-1) + np.eye(32)
    assert distance.min() > 0.02
    # Neighbours in the list differ clearly.
    assert np.abs(np.diff(palette, axis=0)).max(1).min() > 0.3


def test_outline_is_between_pixels_and_closed_at_the_edge() -> None:
    axes = Figure().subplots()
    mask = np.zeros((1, 10, 12), bool)
    mask[0, 2:5, 0:4] = True
    drawn = pictures.draw_outlines(axes, mask, {"nerve": (1.0, 0.0, 0.0)})
    (line,) = axes.collections[0].get_paths()
    assert drawn == {"nerve"}
    assert np.allclose(line.get_extents().extents, [-0.5, 1.5, 3.5, 4.5])


def test_prompts_are_drawn_in_x_y() -> None:
    axes = Figure().subplots()
    prompt = {"box": [3, 4, 10, 20], "positive": [[6, 12]], "negative": [[1, 2], [8, 9]]}
    pictures.draw_prompts(axes, {"nerve": [prompt]}, {"nerve": (1.0, 0.0, 0.0)})
    (box,) = axes.patches
    assert box.get_bbox().extents.tolist() == [3, 4, 10, 20]
    positive, negative = (np.asarray(c.get_offsets()).tolist() for c in axes.collections)
    assert positive == [[6, 12]]
    assert negative == [[1, 2], [8, 9]]


def test_picture_of_a_volume_is_its_fullest_slice_with_prompts() -> None:
    stack = masks((6, 40, 40))
    stack[:, :4] = False
    stack[:, 5, 12:] = False
    assert pictures.fullest_slice([np.zeros_like(stack), stack], 6) == 4
    assert pictures.fullest_slice([], 6) == 3
    axes = Figure().subplots()
    stages = [{"slice": 3, "box": [0, 0, 1, 1]}, {"slice": 4, "box": [2, 2, 3, 3]}]
    pictures.draw_prompts(axes, {"nerve": stages}, {"nerve": (1.0, 0.0, 0.0)}, z=4)
    assert [patch.get_bbox().extents.tolist() for patch in axes.patches] == [[2, 2, 3, 3]]


@pytest.mark.parametrize(
    "image", [np.zeros((30, 40, 3), np.uint8), np.zeros((5, 30, 40), np.float32), np.zeros((5, 30, 40, 3), np.uint8)]
)
def test_pictures_of_colour_images_and_volumes_are_valid(image: np.ndarray) -> None:
    shape = (30, 40) if image.shape[0] == 30 else (5, 30, 40)
    png = pictures.case_panels(image, [Panel("truth", masks(shape))], NAMES)
    assert coloured(pixels(png), pictures.colours(2)[0]).any()


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"'student' are \(2, 30, 40\).*\(2, 40, 40\)"):
        pictures.case_panels(np.zeros((40, 40)), [Panel("student", masks((30, 40)))], NAMES)


def test_prompts_of_an_unknown_structure_are_refused() -> None:
    with pytest.raises(UserError, match="'bone'"):
        pictures.case_panels(np.zeros((40, 40)), [Panel("prompts", prompts={"bone": [{"box": [0, 0, 1, 1]}]})], NAMES)


def test_reliability_picture_has_a_colour_for_each_estimate() -> None:
    true = np.linspace(0, 1, 100)
    results = {"calibrated": reliability(true, true), "formula": reliability(true * 0.5, true)}
    both = pixels(pictures.reliability_picture(results))
    one = pixels(pictures.reliability_picture({"calibrated": results["calibrated"]}))
    blue, orange = ((0x1F / 255, 0x77 / 255, 0xB4 / 255), (1.0, 0x7F / 255, 0x0E / 255))
    assert coloured(both, blue).sum() > 100 and coloured(both, orange).sum() > 100
    assert coloured(one, blue).sum() > 100 and not coloured(one, orange).any()
    with pytest.raises(UserError, match="no reliability"):
        pictures.reliability_picture({})


def test_best_median_and_worst_cases_are_selected() -> None:
    scores = {"a": 0.1, "b": 0.9, "c": 0.5, "d": math.nan}
    assert best_median_worst(scores) == {"best": "b", "median": "c", "worst": "a"}
    assert best_median_worst({"a": 0.1, "b": 0.9}) == {"best": "b", "worst": "a"}
    assert best_median_worst({"d": math.nan}) == {}
