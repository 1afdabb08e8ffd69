from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide

from samstudent.errors import UserError
from samstudent.sam import segment_anything
from samstudent.sam.embedding import Embedding
from samstudent.sam.prompts import Prompt, box_of


def dice(a: Any, b: Any) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def ellipse(shape: tuple[int, int], centre: tuple[int, int], radii: tuple[int, int]) -> Any:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


def picture(truth: Any, seed: int = 0) -> Any:
    """uint8 (y, x, 3): a bright shape on a dark background with noise."""
    grey = 60 + 120 * truth + np.random.default_rng(seed).normal(0, 6, truth.shape)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("shape", [(256, 256), (384, 224), (150, 420)])
@pytest.mark.parametrize("jitter", [-4, 0, 4])
def test_lite_medsam_segments_a_synthetic_ellipse(lite: Any, shape: tuple[int, int], jitter: int) -> None:
    truth = ellipse(shape, (shape[0] // 2 + 5, shape[1] // 2 - 8), (shape[0] // 4, shape[1] // 4))
    x0, y0, x1, y1 = box_of(truth)
    answer = lite.decode(lite.embed(picture(truth)), Prompt(box=(x0 + jitter, y0 + jitter, x1 + jitter, y1 - jitter)))
    assert answer.logits.shape == shape and answer.logits.dtype == np.float32
    assert answer.low_res.shape == (256, 256)
    assert dice(answer.logits > 0, truth) > 0.9
    assert 0.7 < answer.predicted_iou < 1.1


def test_lite_medsam_preprocesses_as_in_its_training(lite: Any) -> None:
    image = np.full((100, 200, 3), 50, np.uint8)
    image[:, 100:] = 250
    prepared, size = lite._prepare(image)
    assert size == (128, 256) and prepared.shape == (1, 3, 256, 256) and prepared.dtype == torch.float32
    assert prepared[0, :, :128, :120].unique().tolist() == [0] and prepared[0, :, :128, 140:].unique().tolist() == [1]
    assert (prepared[0, :, 128:] == 0).all()


def test_extreme_images_can_be_embedded(lite: Any) -> None:
    for shape in ((1, 1, 3), (1, 700, 3)):
        embedding = lite.embed(np.full(shape, 7, np.uint8))
        assert np.isfinite(embedding.features).all() and np.isfinite(embedding.pooled()).all()
        assert lite.decode(embedding, Prompt(box=(0, 0, 0, 0))).logits.shape == shape[:2]


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_images_that_are_not_rgb_are_refused(lite: Any, image: Any) -> None:
    with pytest.raises(UserError, match="uint8 image"):
        lite.embed(image)


def test_empty_prompt_is_refused(tiny: Any) -> None:
    embedding = tiny.embed(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="box or a point"):
        tiny.decode(embedding, Prompt(mask_input=np.zeros((64, 64), np.float32)))


PROMPTS = {
    "box": Prompt(box=(10, 20, 60, 90)),
    "one point": Prompt(positive=((30, 40),)),
    "points": Prompt(positive=((30, 40),), negative=((70, 90), (5, 5))),
    "all": Prompt(box=(10.5, 20, 60, 90), positive=((30, 40),), negative=((70, 90),)),
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("shape", [(120, 100), (256, 256), (90, 300)])
@pytest.mark.parametrize("with_mask", [False, True])
def test_parity_with_sam_predictor(
    tiny: Any, tiny_sam: Any, prompt: Prompt, shape: tuple[int, int], with_mask: bool
) -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    low = rng.normal(0, 5, (64, 64)).astype(np.float32) if with_mask else None
    embedding = tiny.embed(image)
    ours = tiny.decode(embedding, Prompt(prompt.box, prompt.positive, prompt.negative, low))

    predictor = SamPredictor(tiny_sam)
    predictor.set_image(image)
    points = [*prompt.positive, *prompt.negative]
    single_point = len(points) == 1 and prompt.box is None and low is None
    logits, iou, low_res = predictor.predict(
        point_coords=np.array(points) if points else None,
        point_labels=np.array([1] * len(prompt.positive) + [0] * len(prompt.negative)) if points else None,
        box=None if prompt.box is None else np.array(prompt.box),
        mask_input=None if low is None else low[None],
        multimask_output=single_point,
        return_logits=True,
    )
    best = int(iou.argmax())
    np.testing.assert_allclose(embedding.features, predictor.features.numpy(), atol=1e-4)
    np.testing.assert_allclose(ours.low_res, low_res[best], atol=1e-4)
    np.testing.assert_allclose(ours.logits, logits[best], atol=1e-4)
    assert ours.predicted_iou == pytest.approx(float(iou[best]), abs=1e-4)


def test_batched_decoding_equals_the_loop(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = tiny.embed(np.random.default_rng(1).integers(0, 256, (80, 60, 3), dtype=np.uint8))
    mask = np.zeros((64, 64), np.float32)
    prompts = [
        Prompt(box=(1, 2, 30, 40)),
        Prompt(positive=((5, 5),)),
        Prompt(box=(10, 2, 50, 40)),
        Prompt(positive=((9, 9),), negative=((1, 1), (2, 2)), mask_input=mask),
        Prompt(positive=((7, 8),)),
    ]
    looped = tiny.decode_many(embedding, prompts)
    # What a GPU would do, on the CPU: the rule looks at the device's type only to group.
    monkeypatch.setattr(tiny, "one_by_one", False)
    batched = tiny.decode_many(embedding, prompts)
    for one, other in zip(looped, batched, strict=True):
        np.testing.assert_allclose(one.low_res, other.low_res, atol=1e-4)
        assert one.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-4)


def test_coordinates_follow_resize_longest_side(tiny: Any) -> None:
    shape = (333, 217)
    points = [[(0.0, 0.0), (216.0, 332.0), (17.25, 200.0)]]
    size = ResizeLongestSide.get_preprocess_shape(*shape, 256)
    embedding = Embedding(np.zeros((1, 256, 16, 16), np.float32), shape, size, 256)
    expected = ResizeLongestSide(256).apply_coords(np.array(points), shape)
    np.testing.assert_allclose(tiny._scale(points, embedding).numpy(), expected, rtol=1e-6)


def test_medsam_resizes_the_image_to_a_square(tiny_sam: Any) -> None:
    backend = segment_anything.MedSam("medsam", "0" * 64, lambda: tiny_sam, "cpu")
    image = picture(ellipse((100, 200), (50, 100), (20, 40)))
    prepared, size = backend._prepare(image)
    assert size == (256, 256) and prepared.shape == (1, 3, 256, 256)
    assert prepared.min() == 0 and prepared.max() == 1
    answer = backend.decode(backend.embed(image), Prompt(box=(1, 1, 9, 9)))
    assert answer.logits.shape == (100, 200)
