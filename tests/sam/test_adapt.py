"""Adaptation of a small SAM with random weights to drawn shapes: it can only get better by learning."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from samstudent.errors import UserError
from samstudent.sam import adapt as module
from samstudent.sam.adapt import Example, adapt
from samstudent.sam.adapt_run import Run, answer_loss, batches, questions_of, rate_factor
from samstudent.sam.adapted import with_weights
from samstudent.sam.backends import Embedding, low_res_share
from samstudent.sam.decode import decode_structures, dice
from samstudent.task import AdaptSection, Recipe, Stage
from support.drawn import shapes

BOX = Recipe(stages=(Stage(prompts=("box",)),))
OPTIONS = AdaptSection(steps=48, learning_rate=3e-3, batch_size=4)


def rectangle(y0: int, x0: int, y1: int, x1: int) -> Any:
    mask = np.zeros((64, 64), np.bool_)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


NOTHING = np.zeros((64, 64), np.bool_)
SHAPE = rectangle(10, 20, 29, 39)


def blank(truth: list[Any], coarse: list[Any], id: str = "a", fold: int = 0) -> Example:
    """An example without an image, for what does not ask SAM."""
    embedding = Embedding(np.zeros((1, 256, 16, 16), np.float32), (64, 64), (256, 256), 256)
    return Example(id, fold, embedding, np.stack(truth), np.stack(coarse))


@pytest.fixture(scope="module")
def examples(small: Any) -> list[Example]:
    """Six cases in three folds; coarse masks are the truth moved by two pixels."""
    made = []
    for seed in range(6):
        pixels, truth = shapes(seed)
        image = np.repeat(pixels[..., None], 3, axis=2)
        made.append(Example(f"case{seed}", seed % 3, small.embed(image), truth, np.roll(truth, 2, axis=2), image))
    return made


class Learned:
    """Stands in for ``Run``: after the first step it has learned, and gets no better."""

    sam: Any

    def __init__(self, plain: Any, *_: Any) -> None:
        self.backend = plain

    def train(self, until: int, on_step: Any) -> None:
        self.backend = self.sam

    def weights(self) -> dict[str, Any]:
        return {"mask_decoder.x": torch.ones(1)}

    def embedding(self, example: Example) -> Embedding:
        return example.embedding


@pytest.fixture
def learned(small: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> type[Learned]:
    """Its SAM was trained for a few steps."""
    questions = [q for i, e in enumerate(examples) for q in questions_of(i, e, BOX, "vit_b")]
    run = Run(small, examples, questions, BOX.stages_for("vit_b"), OPTIONS, [0])
    run.train(40, lambda: None)
    monkeypatch.setattr(module, "Run", Learned)
    monkeypatch.setattr(Learned, "sam", run.backend, raising=False)
    return Learned


def test_it_learns_and_leaves_the_plain_sam_alone(small: Any, examples: list[Example]) -> None:
    before = {name: value.clone() for name, value in small.load().state_dict().items()}
    seen: list[tuple[int, int]] = []
    result = adapt(small, examples, BOX, OPTIONS, 0, lambda done, total: seen.append((done, total)))
    assert result.used and result.steps in (24, 32, 40, 48)
    assert result.adapted > result.plain + 0.2 and result.gain == pytest.approx(result.adapted - result.plain)
    assert [point["step"] for point in result.curve] == list(range(0, 49, 8))
    assert set(result.curve[-1]["folds"]) == {0, 1, 2} and result.labels == [f"case{i}" for i in range(6)]
    assert seen[-1] == (192, 192) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert set(result.folds) == {0, 1, 2} and all(name.startswith("mask_decoder.") for name in result.weights)

    for name, value in small.load().state_dict().items():
        assert torch.equal(before[name], value), name
    assert all(parameter.grad is None for parameter in small.load().parameters())
    # The weights of a fold are those whose Dice on its cases is in the curve.
    chosen = next(point for point in result.curve if point["step"] == result.steps)
    for fold, weights in result.folds.items():
        sam = with_weights(small, weights)
        cases = [e for e in examples if e.fold == fold]
        drawn = [(e, decode_structures(e.coarse, e.embedding, sam, BOX)) for e in cases]
        values = [dice(d[s].logits > 0, e.truth[s]) for e, d in drawn for s in (0, 1)]  # type: ignore[union-attr]
        assert np.mean(values) == pytest.approx(chosen["folds"][fold], abs=1e-3)


def test_the_same_seed_gives_the_same_weights(small: Any, examples: list[Example]) -> None:
    questions = [q for i, e in enumerate(examples) for q in questions_of(i, e, BOX, "vit_b")]
    weights = []
    for seed in (5, 5, 6):
        run = Run(small, examples, questions, BOX.stages_for("vit_b"), OPTIONS, [0, seed])
        run.train(3, lambda: None)
        weights.append(run.weights())
    same, different = (all(torch.equal(weights[0][name], w[name]) for name in weights[0]) for w in weights[1:])
    assert same and not different


@pytest.mark.parametrize("parts", ["decoder+prompt_encoder", "decoder+lora"])
def test_other_parts_learn_too_through_two_stages(small: Any, examples: list[Example], parts: Any) -> None:
    options = OPTIONS.model_copy(update={"parts": parts})
    result = adapt(small, examples[:3], Recipe(), options, 0)
    assert result.settings["stages"] == [["box"], ["positive", "negative", "logits"]]
    assert result.used and result.adapted > result.plain
    more = [name for name in result.weights if not name.startswith("mask_decoder.")]
    expected = "lora_[ab]" if parts == "decoder+lora" else "prompt_encoder"
    assert more and all(expected.split("_[")[0] in name for name in more)
    assert any(name.startswith("mask_decoder.") for name in result.weights)
    plain = small.load().state_dict()
    moved = [n for n in more if n.endswith("lora_b") or (n in plain and not torch.equal(plain[n], result.weights[n]))]
    assert moved and all(result.weights[name].abs().sum() > 0 for name in moved)
    # The change is what the record says, when it is asked as any backend.
    sam = with_weights(small, result.folds[0])
    example = next(e for e in examples[:3] if e.fold == 0)
    assert example.image is not None
    embedding = replace(sam.embed(example.image), image_size=(64, 64))
    drawn = decode_structures(example.coarse, embedding, sam, Recipe())
    values = [dice(d.logits > 0, example.truth[s]) for s, d in enumerate(drawn) if d is not None]
    point = next(p for p in result.curve if p["step"] == result.steps)
    assert np.mean(values) == pytest.approx(point["folds"][0], abs=0.02)


def test_what_is_not_better_is_not_used(small: Any, examples: list[Example]) -> None:
    options = OPTIONS.model_copy(update={"steps": 2, "learning_rate": 1e-12})
    result = adapt(small, examples, BOX, options, 0)
    assert not result.used and not result.weights and not result.folds and result.steps == 0
    assert result.plain == result.adapted and "no step did better" in result.reason


def test_it_is_used_only_where_the_gain_exceeds_its_error(
    small: Any, examples: list[Example], learned: type[Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = adapt(small, examples, BOX, OPTIONS, 0)
    assert sure.used and sure.steps == 8 and sure.gain > sure.error and set(sure.folds) == {0, 1, 2}
    assert len(sure.curve) == 5, "after three looks without a gain the runs end"
    monkeypatch.setattr(module, "_paired", lambda *_: (0.01, 0.02))
    unsure = adapt(small, examples, BOX, OPTIONS, 0)
    assert not unsure.used and not unsure.weights and not unsure.folds and unsure.steps == 8
    assert unsure.reason == "a gain of 0.0100 with a standard error of 0.0200 on 6 cases left out"


def test_gain_and_error_are_over_cases() -> None:
    examples = [blank([SHAPE], [SHAPE], id) for id in ("a", "a", "a", "b")]
    before = {(i, 0): 0.5 for i in range(4)}
    after = {(0, 0): 0.6, (1, 0): 0.7, (2, 0): 0.8, (3, 0): 0.6}
    gain, error = module._paired(before, after, examples)
    assert (gain, error) == (pytest.approx(0.15), pytest.approx(0.05))
    assert module._mean(after, examples) == pytest.approx(0.65)


def test_too_little_to_learn_from_is_no_error(small: Any, examples: list[Example]) -> None:
    two = adapt(small, examples[:2], BOX, OPTIONS, 0)
    assert not two.used and two.reason.startswith("2 labelled cases in 2 folds") and math.isnan(two.plain)
    assert two.record()["plain"] is None and "weights" not in two.record()
    # Six slices of two cases are two cases.
    slices = [replace(e, id=f"case{e.fold % 2}", fold=e.fold % 2) for e in examples]
    assert adapt(small, slices, BOX, OPTIONS, 0).reason.startswith("2 labelled cases")
    blind = [replace(e, coarse=np.zeros_like(e.coarse)) for e in examples]
    assert "in 0 cases" in adapt(small, blind, BOX, OPTIONS, 0).reason


def test_mistakes_of_the_caller_are_named(small: Any, examples: list[Example]) -> None:
    odd = replace(examples[1], coarse=examples[1].coarse[:, :32])
    with pytest.raises(UserError, match="case1: masks of shapes"):
        adapt(small, [examples[0], odd], BOX, OPTIONS, 0)
    bare = [examples[0], replace(examples[1], image=None)]
    with pytest.raises(UserError, match=r"case1: .*decoder\+lora needs the image"):
        adapt(small, bare, BOX, OPTIONS.model_copy(update={"parts": "decoder+lora"}), 0)
    with pytest.raises(UserError, match="case0: its slices are in different folds"):
        adapt(small, [examples[0], replace(examples[0], fold=1)], BOX, OPTIONS, 0)


def test_questions_come_from_the_coarse_mask_where_it_means_the_structure() -> None:
    moved, elsewhere = np.roll(SHAPE, 3, axis=1), np.roll(SHAPE, 25, axis=0)
    example = blank([SHAPE, SHAPE, SHAPE, NOTHING, NOTHING], [moved, elsewhere, NOTHING, SHAPE, NOTHING])
    asked = [(q.structure, q.source.box, q.meant) for q in questions_of(4, example, BOX, "vit_b")]
    truth = (20.0, 10.0, 39.0, 29.0)
    assert asked == [
        (0, (23.0, 10.0, 42.0, 29.0), True),
        (1, (20.0, 35.0, 39.0, 54.0), False),
        (3, truth, False),
        (1, truth, True),
        (2, truth, True),
    ]


def test_batches_ask_about_all_structures_and_cases_in_turn() -> None:
    # Structure 0 in six cases, structure 1 in one; a volume of three slices; one mistake.
    examples = [blank([SHAPE, NOTHING], [SHAPE, NOTHING], f"case{i}") for i in range(5)]
    examples += [blank([SHAPE, NOTHING], [SHAPE, NOTHING], "volume") for _ in range(3)]
    examples += [blank([NOTHING, SHAPE], [NOTHING, SHAPE], "other"), blank([NOTHING] * 2, [SHAPE, NOTHING], "wrong")]
    questions = [q for i, e in enumerate(examples) for q in questions_of(i, e, BOX, "vit_b")]
    rng = np.random.default_rng(0)
    stream = batches(examples, questions, 6, rng)
    drawn = [q for _ in range(100) for q in next(stream)]
    meant = [q for q in drawn if q.meant]
    assert len(drawn) - len(meant) == pytest.approx(100, abs=30)
    structures = Counter(q.structure for q in meant)
    assert abs(structures[0] - structures[1]) <= 1
    cases = Counter(examples[q.example].id for q in meant if q.structure == 0)
    assert max(cases.values()) - min(cases.values()) <= 1 and len(cases) == 6
    assert {q.example for q in meant} >= {5, 6, 7}


def test_the_loss_counts_neither_padding_nor_masks_that_were_not_meant() -> None:
    embedding = Embedding(np.zeros((1, 256, 16, 16), np.float32), (64, 32), (64, 32), 64)
    mask = rectangle(10, 5, 29, 24)[:, :32]
    target = torch.from_numpy(low_res_share(mask, embedding))[None]
    assert target[0, :, 32:].sum() == 0 and target.sum() == 20 * 20
    right = torch.where(target > 0.5, 20.0, -20.0)
    right[:, :, 32:] = 20.0  # padding
    one = torch.ones(1)
    assert answer_loss(right, one, target, one, embedding).item() == pytest.approx(0, abs=2e-3)
    assert answer_loss(right, one * 0.25, target, one, embedding).item() == pytest.approx(0.5625, abs=2e-3)
    wrong = torch.where(target > 0.5, -20.0, 20.0)
    assert answer_loss(wrong, one, target, one, embedding).item() > 20
    assert answer_loss(wrong, one, target, one * 0, embedding).item() == pytest.approx(1)
    # An absent structure: its predicted IoU should be 0.
    assert answer_loss(right, one * 0, target * 0, one * 0, embedding).item() == 0


def test_boxes_are_jittered_within_the_image(small: Any, examples: list[Example]) -> None:
    questions = questions_of(0, examples[0], BOX, "vit_b")
    run = Run(small, examples[:1], questions, BOX.stages_for("vit_b"), AdaptSection(jitter=0.1), [1])
    box = (30.0, 20.0, 49.0, 59.0)
    moved = np.array([run._jittered(box, examples[0].embedding) for _ in range(300)])
    assert moved.min() >= 0 and moved.max() <= 63 and (moved[:, 0] <= moved[:, 2]).all()
    np.testing.assert_allclose(moved.mean(axis=0)[:3], box[:3], atol=0.6)
    np.testing.assert_allclose(moved.std(axis=0)[:3], [2, 4, 2], rtol=0.2)


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_factor(step, 50) for step in range(50)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == 1 and rates[-1] < 0.01
    assert rate_factor(0, 1) == 1


def test_cases_left_out_are_compared_in_turn() -> None:
    examples = [blank([SHAPE] * 40, [SHAPE] * 39 + [NOTHING], f"case{i}") for i in range(5)]
    compared = module._compared(examples, np.random.default_rng(0))
    assert len(set(compared)) == len(compared) == 120
    assert Counter(i for i, _ in compared) == dict.fromkeys(range(5), 24)
    assert all(s != 39 for _, s in compared) and len({s for _, s in compared}) > 30
