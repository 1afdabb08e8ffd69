from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from segment_anything.utils.transforms import ResizeLongestSide

from samstudent.errors import UserError
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.prompts import Prompt
from samstudent.sam.refiner import Refiner, RefinerOptions
from samstudent.sam.results import Refinement
from samstudent.sam.volume_refinement import SliceOptions
from samstudent.task import Recipe, Stage, Task

NAMES = ["a", "b", "c"]


def task(dimension: int = 2, **more: Any) -> Task:
    size = {"student": {"size": [32, 32, 32]}} if dimension == 3 else {}
    return Task.model_validate({"name": "t", "dimension": dimension, "structures": NAMES, **size, **more})


def refine(p: Any, image: Any, sam: Any, task: Task, cache: Any = None, **more: Any) -> Refinement:
    """By a refiner of the task; ``more``: recipes, adapted, prompt_all, or of the call."""
    of_refiner = {key: more.pop(key) for key in ("recipes", "adapted") if key in more}
    options = RefinerOptions(more.pop("prompt_all", True), SliceOptions.of(task.recipe))
    return Refiner.for_task(task, sam, cache, options=options, **of_refiner).refine(p, image, **more)


class Painter:
    """Backend whose mask is a function of the prompt, on an image of equal size. Records the prompts."""

    name, digest, embedding_digest, preprocessing = "vit_b", "0" * 64, "0" * 64, "painter-1"

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.asked: list[Prompt] = []
        self.embedded: list[Any] = []

    def embed(self, image: Any) -> Embedding:
        self.embedded.append(image)
        return Embedding(np.zeros((1, 256, 4, 4), np.float32), image.shape[:2], image.shape[:2], max(image.shape[:2]))

    def decode(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
        return self.decode_many(embedding, [prompt])[0]

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
        self.asked += prompts
        square = np.full((embedding.side, embedding.side), -5, np.float32)
        answers = []
        for prompt in prompts:
            low_res = square.copy()
            self.draw(low_res, prompt)
            answers.append(DecodedMask(low_res, 0.75, embedding.frame))
        return answers


def fill_box(logits: Any, prompt: Prompt) -> None:
    if prompt.box:
        x0, y0, x1, y1 = map(int, prompt.box)
        logits[y0 : y1 + 1, x0 : x1 + 1] = 5
    else:
        x, y = map(int, prompt.positive[0])
        logits[y - 4 : y + 5, x - 4 : x + 5] = 5


def blocks() -> Any:
    """Structure a on the left, b on the right, c absent; float32 (3, 40, 40)."""
    p = np.zeros((3, 40, 40), np.float32)
    p[0, 10:20, 5:15] = 0.9
    p[1, 10:30, 20:35] = 0.8
    return p


IMAGE = np.zeros((40, 40, 3), np.uint8)
BOX = {"recipe": {"stages": [{"prompts": ["box"]}]}}


def test_result_is_the_mask_of_sam() -> None:
    result = refine(blocks(), IMAGE, Painter(fill_box), task(overlap=True, **BOX))
    np.testing.assert_array_equal(result.masks, blocks() > 0.5)
    np.testing.assert_array_equal(result.coarse, blocks() > 0.5)
    a, b, c = result.structures
    assert (a.name, a.present, a.refined, a.agreement, a.predicted_iou) == ("a", True, True, 1, 0.75)
    assert a.prompts == [{"stage": 1, "box": [5, 10, 14, 19]}]
    assert b.agreement == 1
    assert c.as_json() == {
        "name": "c",
        "present": False,
        "prompts": [],
        "predicted_iou": None,
        "agreement": None,
        "refined": False,
        "source": None,
        "stability": None,
    }
    assert json.loads(json.dumps(result.as_json()))[0]["name"] == "a"


def test_stages_of_the_paper_are_run_in_order() -> None:
    painter = Painter(fill_box)
    result = refine(blocks(), IMAGE, painter, task(overlap=True))
    first, second = painter.asked[:2], painter.asked[2:]
    assert [(p.box is not None, p.positive, p.negative, p.mask_input is not None) for p in first] == [
        (True, (), (), False)
    ] * 2
    a, b = second
    assert a.box is None and len(a.positive) == 1 and a.negative == b.positive and b.negative == a.positive
    assert a.mask_input is not None and (a.mask_input[10:20, 5:15] == 5).all()  # stage 1's own logits
    assert result.structures[0].prompts[1]["mask_input"] == "logits"
    # The last stage alone decides.
    np.testing.assert_array_equal(result.masks[0].sum(), 81)


def test_mask_stage_uses_the_coarse_mask_as_input() -> None:
    painter = Painter(fill_box)
    result = refine(blocks(), IMAGE, painter, task(recipe={"stages": [{"prompts": ["box", "mask"]}]}))
    given = painter.asked[0].mask_input
    assert given is not None and given.shape == (16, 16)
    assert given[6, 4] > 0 > given[2, 10]
    assert result.structures[0].prompts[0]["mask_input"] == "mask"


def test_absent_structure_has_no_prompt_and_no_mask() -> None:
    painter = Painter(fill_box)
    result = refine(np.full((3, 40, 40), 0.2, np.float32), IMAGE, painter, task())
    assert not result.masks.any() and not painter.asked
    assert not any(s.present for s in result.structures)


def test_dilation_widens_the_box_but_not_the_coarse_mask() -> None:
    recipe = {"morphology": "dilate", "morphology_size": 5, **BOX["recipe"]}
    result = refine(blocks(), IMAGE, Painter(fill_box), task(overlap=True, recipe=recipe))
    assert result.structures[0].prompts[0]["box"] == [3, 8, 16, 21]
    np.testing.assert_array_equal(result.coarse, blocks() > 0.5)
    assert result.structures[0].agreement == pytest.approx(2 * 100 / (100 + 14 * 14))


def test_empty_mask_of_sam_is_replaced_by_the_coarse_mask() -> None:
    def only_b(logits: Any, prompt: Prompt) -> None:
        if prompt.box and prompt.box[0] > 15:
            logits[10:30, 10:35] = 5  # reaches into a

    result = refine(blocks(), IMAGE, Painter(only_b), task(overlap=False, **BOX))
    a, b, _ = result.structures
    assert (a.present, a.refined, a.agreement) == (True, False, 0)
    assert b.refined
    assert result.masks[0].sum() == 50 and not (result.masks[0] & result.masks[1]).any()
    overlapping = refine(blocks(), IMAGE, Painter(only_b), task(overlap=True, **BOX))
    np.testing.assert_array_equal(overlapping.masks[0], overlapping.coarse[0])


def test_forbidden_overlap_is_resolved_by_the_highest_logit() -> None:
    def draw(logits: Any, prompt: Prompt) -> None:
        assert prompt.box
        wide = prompt.box[0] > 15
        logits[:, 10:] = 3 if wide else -5
        if not wide:
            logits[:, :20] = 1
            logits[:5, :20] = 4

    forbidden = refine(blocks(), IMAGE, Painter(draw), task(overlap=False, **BOX)).masks
    assert not (forbidden[0] & forbidden[1]).any()
    assert forbidden[0, :5, 10:20].all() and forbidden[1, 5:, 10:20].all()
    allowed = refine(blocks(), IMAGE, Painter(draw), task(overlap=True, **BOX)).masks
    assert allowed[:2, :, 10:20].all()


@settings(max_examples=15)
@given(
    p=arrays(np.float32, (3, 20, 26), elements=st.floats(0, 1, width=32)),
    overlap=st.booleans(),
    stages=st.sampled_from([None, (Stage(prompts=("box", "mask")), Stage(prompts=("positive", "logits")))]),
)
def test_refinement_is_deterministic_and_consistent(tiny: Any, p: Any, overlap: bool, stages: Any) -> None:
    p[:, 5:12, 5:12] += 0.3
    image = np.random.default_rng(0).integers(0, 256, (20, 26, 3), dtype=np.uint8)
    refiner = Refiner(tiny, None, dict.fromkeys(NAMES, Recipe(stages=stages, threshold=0.8)), overlap)
    one, two = (refiner.refine(p, image) for _ in range(2))
    np.testing.assert_array_equal(one.masks, two.masks)
    assert one.as_json() == two.as_json()
    for mask, coarse, result in zip(one.masks, one.coarse, one.structures, strict=True):
        assert result.present == coarse.any()
        assert result.present or not mask.any()
    assert overlap or one.masks.sum(axis=0).max() <= 1
    np.testing.assert_array_equal(one.soft >= 0.5, one.masks)


def test_parity_with_segment_anything(tiny: Any, tiny_sam: Any) -> None:
    """The paper's recipe, written as a plain loop over segment-anything's own modules."""
    height, width = 150, 110
    image = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    p = np.zeros((3, height, width), np.float32)
    p[0, 20:61, 10:41] = 0.9
    p[1, 80:131, 50:101] = 0.7
    p[2, 20:51, 70:91] = 0.8
    boxes = np.array([[10, 20, 40, 60], [50, 80, 100, 130], [70, 20, 90, 50]])
    centres = np.array([[25, 40], [75, 105], [80, 35]])

    resize = ResizeLongestSide(tiny_sam.image_encoder.img_size)
    pixels = torch.as_tensor(resize.apply_image(image)).permute(2, 0, 1).contiguous()[None]
    expected = []
    with torch.no_grad():
        features = tiny_sam.image_encoder(tiny_sam.preprocess(pixels))
        for i in range(3):
            box = torch.as_tensor(resize.apply_boxes(boxes[i : i + 1], (height, width)), dtype=torch.float)
            sparse, dense = tiny_sam.prompt_encoder(points=None, boxes=box, masks=None)
            low_res, _ = tiny_sam.mask_decoder(features, tiny_sam.prompt_encoder.get_dense_pe(), sparse, dense, False)
            order = [i, *(j for j in range(3) if j != i)]
            points = torch.as_tensor(resize.apply_coords(centres[order], (height, width)), dtype=torch.float)[None]
            clicks = points, torch.tensor([[1, 0, 0]])
            sparse, dense = tiny_sam.prompt_encoder(points=clicks, boxes=None, masks=low_res)
            low_res, iou = tiny_sam.mask_decoder(features, tiny_sam.prompt_encoder.get_dense_pe(), sparse, dense, False)
            full = tiny_sam.postprocess_masks(low_res, pixels.shape[-2:], (height, width))
            expected.append((full[0, 0].numpy(), low_res[0, 0].numpy(), float(iou)))

    last: list[DecodedMask] = []

    class Recorder:
        name, digest, embedding_digest = tiny.name, tiny.digest, tiny.embedding_digest
        preprocessing = tiny.preprocessing
        embed, decode = tiny.embed, tiny.decode

        def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
            last[:] = tiny.decode_many(embedding, prompts)
            return last

    result = refine(p, image, Recorder(), task(overlap=True))
    for i, (logits, low_res, iou) in enumerate(expected):
        np.testing.assert_allclose(last[i].low_res, low_res, atol=1e-4)
        np.testing.assert_allclose(last[i].logits, logits, atol=1e-4)
        sure = np.abs(logits) > 1e-4
        assert result.structures[i].predicted_iou == pytest.approx(iou, abs=1e-4)
        if (logits > 0).any():
            np.testing.assert_array_equal(result.masks[i][sure], (logits > 0)[sure])
    assert any((logits > 0).any() for logits, _, _ in expected)


def test_each_structure_has_its_own_recipe() -> None:
    painter, adapted = Painter(fill_box), Painter(lambda logits, prompt: logits.fill(5))
    box = (Stage(prompts=("box",)),)
    recipes = {"a": Recipe(source="student", stages=box), "b": Recipe(stages=box)}
    result = refine(blocks(), IMAGE, painter, task(overlap=True, **BOX), adapted={"b": adapted}, recipes=recipes)
    a, b, _ = result.structures
    np.testing.assert_array_equal(result.masks[0], result.coarse[0])
    assert result.masks[1].all() and (b.source, b.refined) == ("sam", True)
    # The student's mask stays, with SAM's figures.
    assert (a.source, a.refined, a.agreement, a.predicted_iou) == ("student", False, 1, 0.75)
    assert len(painter.asked) == 1 and len(adapted.asked) == 1


def test_sam_is_not_run_on_masks_that_the_student_keeps_unless_all_are_prompted() -> None:
    painter = Painter(fill_box)
    result = refine(blocks(), IMAGE, painter, task(recipe={"source": "student"}), prompt_all=False)
    assert not painter.asked
    np.testing.assert_array_equal(result.masks, blocks() > 0.5)
    a = result.structures[0]
    assert (a.present, a.source, a.agreement, a.predicted_iou, a.stability) == (True, "student", None, None, None)
    np.testing.assert_allclose(result.soft[0], np.maximum(blocks()[0], 0.001), atol=1e-3)


def test_sam_mask_of_an_unrefined_structure_takes_no_pixels_from_others() -> None:
    def draw(logits: Any, prompt: Prompt) -> None:
        assert prompt.box
        logits[:] = 9 if prompt.box[0] < 15 else -5
        if prompt.box[0] > 15:
            fill_box(logits, prompt)

    recipes = {"a": Recipe(source="student", stages=(Stage(prompts=("box",)),))}
    result = refine(blocks(), IMAGE, Painter(draw), task(overlap=False, **BOX), recipes=recipes)
    np.testing.assert_array_equal(result.masks, blocks() > 0.5)
    a, b, _ = result.structures
    assert b.agreement == 1 and a.agreement == pytest.approx(2 * 100 / (100 + 1600 - 300))


def test_recipes_for_unknown_structures_are_refused() -> None:
    with pytest.raises(UserError, match=r"\['d'\].*'a', 'b', 'c'"):
        refine(blocks(), IMAGE, Painter(fill_box), task(), recipes={"d": Recipe()})


def test_stability_is_the_iou_of_masks_at_two_thresholds() -> None:
    def fading(logits: Any, prompt: Prompt) -> None:
        fill_box(logits, prompt)
        logits[:, 20:28] = np.where(logits[:, 20:28] > 0, 0.5, -5)

    result = refine(blocks(), IMAGE, Painter(fading), task(overlap=True, **BOX))
    a, b, c = result.structures
    assert a.stability == 1 and b.stability == pytest.approx(7 / 15) and c.stability is None
    json.dumps(result.as_json())


@pytest.mark.parametrize("overlap", [True, False])
def test_large_image_is_refined_at_512_pixels_and_returned_in_its_size(overlap: bool) -> None:
    """Twice the working grid: masks on even pixels are returned exactly."""

    class Scaling(Painter):
        """Prompts come in pixels of the image that the embedding says, the answer is drawn in the model's."""

        def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
            assert embedding.image_size == (320, 512)
            self.asked += prompts
            answers = []
            for prompt in prompts:
                assert prompt.box
                low_res = np.full((1024, 1024), -5, np.float32)
                x0, y0, x1, y1 = (int(2 * v) for v in prompt.box)
                low_res[y0 : y1 + 2, x0 : x1 + 2] = 5
                answers.append(DecodedMask(low_res, 0.75, embedding.frame))
            return answers

    p = np.full((3, 640, 1024), 0.01, np.float32)
    p[0, 100:200, 300:500] = 0.9
    p[0, 500:502, 900:902] = 0.99  # one pixel of the working grid: noise
    p[1, 300:600, 100:240] = 0.8
    painter = Scaling(fill_box)
    result = refine(p, np.zeros((640, 1024, 3), np.uint8), painter, task(overlap=overlap, **BOX))
    p[0, 500:502, 900:902] = 0
    expected = p > 0.5
    assert painter.asked[0].box == (150, 50, 249, 99)
    assert result.structures[0].prompts == [{"stage": 1, "box": [300, 100, 499, 199]}]
    # Interpolation takes a pixel off a corner, no more.
    assert np.count_nonzero(result.coarse != expected) <= 8 >= np.count_nonzero(result.masks != expected)
    assert result.soft.dtype == np.float16 and result.soft.shape == p.shape
    np.testing.assert_array_equal(result.soft >= 0.5, result.masks)
    assert result.structures[0].agreement == 1 and not result.soft[2].any()


def test_masks_are_on_the_grid_of_the_probabilities() -> None:
    """The probabilities of a large image may be on the working grid: then nothing is enlarged."""
    p = np.zeros((3, 320, 512), np.float32)
    p[0, 50:100, 150:250] = 0.9

    class Drawing(Painter):
        def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
            self.asked += prompts
            low_res = np.full((1024, 1024), -5, np.float32)
            low_res[100:200, 300:500] = 5
            return [DecodedMask(low_res, 0.75, embedding.frame) for _ in prompts]

    painter = Drawing(fill_box)
    result = refine(p, np.zeros((640, 1024, 3), np.uint8), painter, task(**BOX))
    assert painter.asked[0].box == (150, 50, 249, 99)
    assert result.masks.shape == p.shape and np.count_nonzero(result.masks != (p > 0.5)) <= 4
    with pytest.raises(UserError, match=r"\(3, 640, 1024\)"):
        refine(p[:, :-1], np.zeros((640, 1024, 3), np.uint8), painter, task(**BOX))


def test_enlarged_result_is_disjoint() -> None:
    """A one-pixel structure of the working grid is enlarged in blocks, beside a larger one that overlaps it."""
    p = np.zeros((3, 1024, 1024), np.float32)
    p[0, 500:502, 500:502] = 0.55
    p[1] = 0.45
    recipe = {"source": "student", "min_size": 1, "threshold": 0.4}
    masks = refine(p, np.zeros((1024, 1024, 3), np.uint8), Painter(fill_box), task(recipe=recipe)).masks
    assert masks[0].any() and masks[1].any() and masks.sum(axis=0).max() == 1


def volume() -> Any:
    """a: a block in slices 1 to 3 and, apart from it, a larger but fainter one in slice 7; b in slice 3."""
    p = np.zeros((3, 8, 40, 40), np.float32)
    p[0, 1:4, 10:20, 5:15] = 0.9
    p[0, 7, 2:38, 2:38] = 0.6
    p[1, 3, 25:35, 20:35] = 0.9
    return p


def test_volume_is_refined_by_slices_with_3d_components() -> None:
    painter, seen = Painter(fill_box), []
    result = refine(
        volume(), np.zeros((8, 40, 40, 3), np.uint8), painter, task(3, **BOX), progress=lambda i, n: seen.append((i, n))
    )
    assert len(painter.embedded) == 3 and seen == [(1, 3), (2, 3), (3, 3)]
    expected = volume() > 0.8
    np.testing.assert_array_equal(result.coarse, expected)
    np.testing.assert_array_equal(result.masks, expected)
    a, b, c = result.structures
    assert [entry["slice"] for entry in a.prompts] == [1, 2, 3] and [entry["slice"] for entry in b.prompts] == [3]
    assert a.agreement == 1 and a.predicted_iou == pytest.approx(0.75) and not c.present


def test_figures_of_a_volume_are_over_all_slices() -> None:
    calls = iter([1.0, 0.4])

    class Moody(Painter):
        def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
            answers = super().decode_many(embedding, prompts)
            return [DecodedMask(a.low_res, next(calls), embedding.frame) for a in answers]

    def nothing_on_the_small_one(logits: Any, prompt: Prompt) -> None:
        if prompt.box and prompt.box[2] > 12:
            fill_box(logits, prompt)

    p = np.zeros((3, 4, 40, 40), np.float32)
    p[0, 1, 5:25, 5:25] = 0.9
    p[0, 2, 5:10, 5:10] = 0.9
    result = refine(p, np.zeros((4, 40, 40, 3), np.uint8), Moody(nothing_on_the_small_one), task(3, **BOX))
    a = result.structures[0]
    assert a.predicted_iou == pytest.approx((400 * 1.0 + 25 * 0.4) / 425)
    assert a.agreement == pytest.approx(2 * 400 / (425 + 400)) and a.refined
    np.testing.assert_array_equal(result.masks[0], p[0] > 0.5)  # the failed slice shows the coarse mask
    np.testing.assert_array_equal(result.soft >= 0.5, result.masks)
    assert a.source == "sam" and a.stability == pytest.approx(400 / 425)


def test_mismatched_shapes_are_named() -> None:
    with pytest.raises(UserError, match=r"\(2, 40, 40\) do not fit: 3 structures.*\(3, 40, 40\)"):
        refine(blocks()[:2], IMAGE, Painter(fill_box), task())
    with pytest.raises(UserError, match="do not fit"):
        refine(blocks(), np.zeros((40, 41, 3), np.uint8), Painter(fill_box), task())


def test_lite_medsam_improves_a_coarse_mask(lite: Any) -> None:
    """A real model, end to end: a coarse mask with gaps of a synthetic ellipse."""
    y, x = np.mgrid[:300, :200]
    truth = ((y - 140) / 80) ** 2 + ((x - 90) / 50) ** 2 <= 1
    image = np.repeat((60 + 120 * truth).astype(np.uint8)[..., None], 3, axis=2)
    p = np.zeros((3, 300, 200), np.float32)
    p[0] = 0.9 * (((y - 140) / 80) ** 2 + ((x - 90) / 50) ** 2 <= 1)
    p[0, 70:200:4, :90] = 0  # the student's mask has gaps
    coarse_dice = 2 * float(((p[0] > 0.5) & truth).sum()) / float((p[0] > 0.5).sum() + truth.sum())
    result = refine(p, image, lite, task())
    refined_dice = 2 * float((result.masks[0] & truth).sum()) / float(result.masks[0].sum() + truth.sum())
    assert refined_dice > 0.9 and refined_dice > coarse_dice
