"""Clicks on synthetic shapes, with the real LiteMedSAM and with fake backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samstudent.sam.click_decoder import ClickDecoder, click_decoder
from samstudent.sam.clicks import BOX_ONLY, SCALES, boxes_around, cut_by_points, mask_of_clicks
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.prompts import Prompt
from samstudent.task import BOX_STAGES, Recipe

SIDE = 256


def disc(x: float, y: float, radius: float, shape: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def film(*shapes: np.ndarray) -> np.ndarray:
    """uint8 (y, x, 3): bright shapes on a dark, noisy background."""
    grey = np.random.default_rng(0).normal(60, 8, shapes[0].shape)
    for shape in shapes:
        grey[shape] += 90
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


class Answering:
    """Backend whose result for a prompt is given by a function: (mask, predicted IoU)."""

    digest = embedding_digest = preprocessing = ""

    def __init__(self, answer: Any, name: str = "lite_medsam") -> None:
        self.name, self.answer, self.asked = name, answer, []

    def embed(self, image: np.ndarray) -> Embedding:
        return Embedding(np.zeros((1, 256, 64, 64), np.float32), (SIDE, SIDE), (SIDE, SIDE), SIDE)

    def decode(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
        self.asked.append(prompt)
        mask, iou = self.answer(prompt)
        return DecodedMask(np.where(mask, 5, -5).astype(np.float32), iou, embedding.frame)

    def decode_many(self, embedding: Embedding, prompts: Any) -> list[DecodedMask]:
        return [self.decode(embedding, prompt) for prompt in prompts]


def in_box(prompt: Prompt) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    x0, y0, x1, y1 = (int(v) for v in prompt.box)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


def test_box_only_models_are_those_of_the_recipe() -> None:
    names = ("lite_medsam", "vit_b", "vit_l", "vit_h", "medsam")
    assert {n for n in names if Recipe().stages_for(n) == BOX_STAGES} == set(BOX_ONLY)


@pytest.mark.parametrize(("x", "y", "radius"), [(128, 128, 30), (60, 180, 20), (190, 70, 45)])
def test_click_segments_a_disc(lite: Any, x: int, y: int, radius: int) -> None:
    truth = disc(x, y, radius)
    drawing = mask_of_clicks(lite, lite.embed(film(truth)), Prompt(positive=((x + radius / 4, y - radius / 4),)))
    assert dice(drawing.mask, truth) > 0.85
    assert drawing.prompt.box is not None and not drawing.prompt.positive


def test_box_segments_a_disc(lite: Any) -> None:
    truth = disc(100, 120, 25)
    drawing = mask_of_clicks(lite, lite.embed(film(truth)), Prompt(box=(75, 95, 125, 145)))
    assert dice(drawing.mask, truth) > 0.9
    assert drawing.as_json()["prompts"] == [{"box": [75, 95, 125, 145]}]


def test_background_click_removes_the_neighbour(lite: Any) -> None:
    wanted, neighbour = disc(100, 128, 26), disc(148, 128, 26)
    embedding = lite.embed(film(wanted | neighbour))
    drawing = mask_of_clicks(lite, embedding, Prompt(positive=((95.0, 128.0),), negative=((155.0, 128.0),)))
    assert not drawing.mask[128, 155]
    assert dice(drawing.mask, wanted) > 0.75


def test_models_trained_with_points_get_points() -> None:
    truth = disc(50, 60, 20)
    backend = Answering(lambda _: (truth, 0.7), name="vit_b")
    prompt = Prompt(box=(30, 40, 70, 80), positive=((50.0, 60.0),), negative=((9.0, 9.0),))
    drawing = mask_of_clicks(backend, backend.embed(film(truth)), prompt)
    assert backend.asked == [prompt]
    assert (drawing.mask == truth).all()
    assert drawing.as_json() == {"present": True, "prompts": [prompt.as_json()], "predicted_iou": 0.7}


def test_click_decoder_gets_prompts_with_more_than_a_click_or_a_box() -> None:
    backend, clicks = Answering(lambda p: (in_box(p), 0.5)), Answering(lambda _: (disc(50, 60, 20), 0.7))
    backend.digest, clicks.digest = "plain", "of clicks"
    embedding = backend.embed(film(disc(0, 0, 1)))
    box = Prompt(box=(30, 40, 70, 80))
    for alone in (box, Prompt(positive=((50.0, 60.0),))):
        assert mask_of_clicks(backend, embedding, alone, ClickDecoder(clicks)).clicks is None and not clicks.asked
    asked = len(backend.asked)
    both = Prompt(box=(30, 40, 70, 80), negative=((9.0, 9.0),))
    for prompt in (both, Prompt(positive=((50.0, 60.0), (52.0, 70.0)))):
        found = mask_of_clicks(backend, embedding, prompt, ClickDecoder(clicks))
        assert (
            found.as_json()["clicks"] == "of clicks"
            and found.prompt == prompt
            and (found.mask == disc(50, 60, 20)).all()
        )
    assert len(backend.asked) == asked
    adapted = ClickDecoder(clicks, least=1)
    assert mask_of_clicks(backend, embedding, Prompt(positive=((50.0, 60.0),)), adapted).clicks == "of clicks"
    assert mask_of_clicks(backend, embedding, box, adapted).clicks is None


def test_click_decoder_in_the_package_segments_from_two_clicks(lite: Any) -> None:
    truth = disc(120, 110, 30)
    decoder = click_decoder(lite)
    assert decoder is not None
    prompt = Prompt(positive=((126.0, 104.0), (108.0, 118.0)))
    found = mask_of_clicks(lite, lite.embed(film(truth)), prompt, ClickDecoder(decoder))
    assert found.prompt.positive and dice(found.mask, truth) > 0.85


def test_box_with_the_highest_predicted_iou_is_chosen() -> None:
    def answer(prompt: Prompt) -> tuple[np.ndarray, float]:
        side = prompt.box[2] - prompt.box[0]
        # The largest promises most, but its mask misses the click.
        return (disc(0, 0, 5), 0.99) if side > 90 else (in_box(prompt), 0.9 if 40 < side < 60 else 0.5)

    backend = Answering(answer)
    drawing = mask_of_clicks(backend, backend.embed(film(disc(0, 0, 1))), Prompt(positive=((128.0, 128.0),)))
    assert len(backend.asked) == len(SCALES)
    assert drawing.predicted_iou == 0.9
    assert drawing.mask[128, 128]


def test_box_without_the_background_click_is_preferred() -> None:
    backend = Answering(lambda p: (in_box(p), (p.box[2] - p.box[0]) / SIDE))  # the larger the better
    embedding = backend.embed(film(disc(0, 0, 1)))
    alone = mask_of_clicks(backend, embedding, Prompt(positive=((128.0, 128.0),)))
    decoded = mask_of_clicks(backend, embedding, Prompt(positive=((128.0, 128.0),), negative=((150.0, 128.0),)))
    assert alone.mask[128, 150]
    assert decoded.mask[128, 128] and not decoded.mask[128, 150]
    assert decoded.mask.sum() == in_box(decoded.prompt).sum()


@given(
    st.lists(st.tuples(st.floats(0, 299), st.floats(0, 199)), min_size=1, max_size=5),
)
def test_boxes_contain_all_points_and_are_in_the_image(points: list[tuple[float, float]]) -> None:
    boxes = boxes_around(points, (200, 300))
    assert boxes and len(set(boxes)) == len(boxes)
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 <= x1 <= 299 and 0 <= y0 <= y1 <= 199
        assert all(x0 <= x + 1e-9 and x <= x1 + 1e-9 and y0 <= y + 1e-9 and y <= y1 + 1e-9 for x, y in points)


def test_respect_keeps_the_clicked_component_only() -> None:
    mask = disc(50, 50, 10) | disc(150, 150, 20)
    assert (cut_by_points(mask, [(50.0, 50.0)], []) == disc(50, 50, 10)).all()
    assert (cut_by_points(mask, [(50.0, 50.0), (150.0, 150.0)], []) == mask).all()


def test_respect_keeps_all_components_if_no_click_is_on_the_mask() -> None:
    mask = disc(50, 50, 10)
    assert (cut_by_points(mask, [(200.0, 200.0)], [(5.0, 5.0)]) == mask).all()


def test_respect_removes_a_component_from_a_box_without_click() -> None:
    mask = disc(50, 50, 10) | disc(150, 150, 20)
    assert (cut_by_points(mask, [], [(50.0, 50.0)]) == disc(150, 150, 20)).all()


def test_respect_never_keeps_a_background_click() -> None:
    kept = cut_by_points(disc(100, 100, 40), [(90.0, 100.0)], [(110.0, 100.0), (100.0, 130.0)])
    assert kept[100, 90] and not kept[100, 110] and not kept[130, 100]


def test_clicks_on_the_border_are_valid() -> None:
    mask = np.ones((SIDE, SIDE), dtype=bool)
    assert cut_by_points(mask, [(-0.4, -0.5)], [(SIDE - 0.6, SIDE - 0.6)])[0, 0]
