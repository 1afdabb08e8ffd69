from __future__ import annotations

import json
from collections.abc import Sequence
from threading import Lock
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from scipy import ndimage

from samstudent.errors import UserError
from samstudent.pseudolabels.bench import Bench
from samstudent.pseudolabels.search import Choice, OutOfFoldSlice, search
from samstudent.sam.decode import DecodePlan, decode_structures
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.fusion import combine
from samstudent.sam.prompts import Prompt, coarse_masks
from samstudent.task import Recipe
from support.drawn import FakeSam, dice, shapes

NAMES = ["disk", "square"]
BASE = Recipe()


class Oracle(FakeSam):
    """Draws the truth (in the features' channels from 1) of the structure that a box covers best.

    ``spoils``: structures of which it draws noise instead.
    """

    def __init__(self, spoils: Sequence[int] = (), seed: int = 0) -> None:
        super().__init__()
        self.spoils, self.seed, self.asked = spoils, seed, 0
        self.turn = Lock()

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
        with self.turn:
            self.asked += len(prompts)
        return [self.draw(embedding, prompt) for prompt in prompts]

    def draw(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
        assert prompt.box is not None
        box = np.zeros(embedding.features.shape[2:], bool)
        x0, y0, x1, y1 = (round(v) for v in prompt.box)
        box[y0 : y1 + 1, x0 : x1 + 1] = True
        truths = embedding.features[0, 1 : 1 + len(NAMES)] > 0
        s = int(np.argmax([dice(truth, box) if truth.any() else 0.0 for truth in truths]))
        low = self.noise(embedding, prompt) if s in self.spoils else np.where(truths[s], 6.0, -6.0)
        return DecodedMask(low.astype(np.float32), 0.9, embedding.frame)

    def noise(self, embedding: Embedding, prompt: Prompt) -> Any:
        """Always the same for one question: several are asked at once."""
        question = crc32(embedding.features.tobytes() + repr(prompt.box).encode())
        rng = np.random.default_rng([self.seed, question])
        return ndimage.gaussian_filter(rng.normal(0, 20, embedding.features.shape[2:]), 3)


def case(seed: int, blunder: float = 3.0, id: str = "") -> OutOfFoldSlice:
    """A student that is ``blunder`` pixels off; the embedding carries the truth for the oracle."""
    pixels, truth = shapes(seed)
    rng = np.random.default_rng(seed)
    moved = np.stack([ndimage.shift(m.astype(float), rng.normal(0, blunder, 2), order=1) for m in truth])
    probabilities = np.clip(ndimage.gaussian_filter(moved, (0, 1, 1)), 0.01, 0.98)
    embedding = FakeSam().embed(np.repeat(pixels[..., None], 3, axis=2))
    embedding.features[0, 1 : 1 + len(truth)] = truth
    return OutOfFoldSlice(id or f"case{seed}", seed % 3, probabilities.astype(np.float16), truth, embedding)


@pytest.fixture(scope="module")
def cases() -> list[OutOfFoldSlice]:
    return [case(seed) for seed in range(12)]


def chosen(choice: Choice) -> list[str]:
    return [choice.recipes[name].source for name in NAMES]


@pytest.mark.parametrize("seed", range(3))
def test_a_sam_of_random_weights_leaves_the_student_alone(cases: list[OutOfFoldSlice], seed: int) -> None:
    choice = search(cases, NAMES, False, BASE, Oracle(spoils=(0, 1), seed=seed), seed=seed)
    assert chosen(choice) == ["student", "student"]
    assert choice.honest_gain is not None and choice.honest_gain >= 0
    assert all(
        s.plain is not None and s.student is not None and s.plain < s.student for s in choice.structures.values()
    )


def test_a_perfect_sam_is_taken_plain_and_simple(cases: list[OutOfFoldSlice]) -> None:
    choice = search(cases, NAMES, True, BASE, Oracle())
    expected = BASE.model_copy(update={"decoder": "plain"})
    assert choice.recipes == dict.fromkeys(NAMES, expected)
    for structure in choice.structures.values():
        assert structure.dice == structure.plain == 1.0 and structure.student is not None and structure.student < 0.9
        assert structure.gain == pytest.approx(1 - structure.student, abs=0.05) and structure.cases == 12
    assert choice.honest_gain is not None and choice.honest_gain > 0.1 and choice.fallback is None


def test_each_structure_takes_what_serves_it(cases: list[OutOfFoldSlice]) -> None:
    choice = search(cases, NAMES, False, BASE, Oracle(spoils=[1]))
    assert chosen(choice) == ["sam", "student"]
    assert choice.resolved["chosen"] > choice.resolved["student"] + 0.05


def test_adapted_decoders_are_taken_where_they_are_better_and_only_for_their_fold(cases: list[OutOfFoldSlice]) -> None:
    class Watched(Oracle):
        def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
            assert {c.fold for c in cases if c.embedding is embedding} == {self.fold}
            return super().decode_many(embedding, prompts)

    adapted = {}
    for fold in range(3):
        adapted[fold] = Watched()
        adapted[fold].fold = fold  # type: ignore[attr-defined]
    choice = search(cases, NAMES, False, BASE, Oracle(spoils=(0, 1)), adapted)
    assert chosen(choice) == ["sam", "sam"]
    assert {recipe.decoder for recipe in choice.recipes.values()} == {"adapted"}
    assert all(sam.asked for sam in adapted.values())
    del adapted[2]
    with pytest.raises(UserError, match="fold 2"):
        search(cases, NAMES, False, BASE, Oracle(), adapted)


def test_nothing_is_decoded_twice(cases: list[OutOfFoldSlice]) -> None:
    backend = Oracle()
    choice = search(cases, NAMES, True, BASE, backend, trials=5)
    structures = len(cases) * len(NAMES)
    assert backend.asked <= 5 * structures
    assert sum(trial["decoded"] for trial in choice.trials) == pytest.approx(backend.asked / structures, abs=1e-3)
    # One component each, so the rule of components changes no prompt.
    rules = [trial for trial in choice.trials if trial["cell"]["component"] != "probable"]
    assert rules and all(trial["decoded"] == 0 for trial in rules if trial["cell"] == base_cell(trial))
    assert len({tuple(trial["cell"].items()) for trial in choice.trials}) == len(choice.trials)


def base_cell(trial: dict[str, Any]) -> dict[str, str]:
    """A trial's cell if it departs from the base recipe in nothing but the rule of components."""
    return {
        "decoder": "plain",
        "component": trial["cell"]["component"],
        "margin": "0.0",
        "shape": "none",
        "stages": "box",
    }


def test_trials_and_choices_repeat_and_survive_json(cases: list[OutOfFoldSlice]) -> None:
    first, second = (search(cases[:6], NAMES, False, BASE, Oracle(spoils=[0]), trials=4, seed=5) for _ in range(2))
    assert first == second
    assert Choice.from_json(json.loads(json.dumps(first.as_json()))) == first


def test_progress_reaches_the_end(cases: list[OutOfFoldSlice]) -> None:
    seen: list[tuple[int, int]] = []
    search(cases[:4], NAMES, False, BASE, Oracle(), trials=4, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4) and seen == sorted(seen)


def test_the_whole_space_without_a_limit(cases: list[OutOfFoldSlice]) -> None:
    """108 configurations of a backend that was trained with boxes: every one is tried once."""
    choice = search(cases[:2], NAMES, True, BASE, Oracle(), trials=None)
    assert len(choice.trials) == 3 * 9 * 4 == len({tuple(trial["cell"].items()) for trial in choice.trials})


def test_scores_are_those_of_combining_the_whole_image(cases: list[OutOfFoldSlice]) -> None:
    """The window that is scored misses no pixel of any source, also where SAM draws all over the image."""
    backend = Oracle(spoils=[1])
    recipes = [
        BASE.model_copy(update={"source": source, "fusion_weight": weight, "border_width": 3})
        for source, weight in (("sam", 0.5), ("fused", 0.25), ("fused", 0.75), ("border", 0.5))
    ]
    bench = Bench(cases[:3], backend, None)
    scores = bench.dice(recipes)
    assert bench.decoded == 3 * len(NAMES) == bench.present
    again = Oracle(spoils=[1])
    for i, item in enumerate(cases[:3]):
        coarse = coarse_masks(item.probabilities.astype(np.float32), BASE)
        drawn = decode_structures(coarse, item.embedding, [DecodePlan(BASE, again)] * len(coarse))
        for s, answer in enumerate(drawn):
            assert answer is not None
            probability = item.probabilities[s].astype(np.float32)
            whole = [combine(probability, answer.logits, coarse[s], recipe) >= 0.5 for recipe in recipes]
            np.testing.assert_allclose(scores[i, s], [dice(mask, item.truth[s]) for mask in whole])


def test_a_volume_is_one_case_cleaned_in_3d() -> None:
    """The speck of slice 1 is a component of its own in 2D and in 3D; that of slice 2 hangs on the structure in 3D."""
    slices = [case(seed, blunder=0.0, id="volume") for seed in (3, 3, 3)]
    truth = slices[0].truth
    y, x = map(int, ndimage.center_of_mass(truth[0]))
    slices[1].probabilities[0, 40:43, 2:5] = 0.9
    slices[2].probabilities[0] = 0.01
    slices[2].probabilities[0, y : y + 3, x : x + 3] = 0.9
    student = BASE.model_copy(update={"source": "student", "component": "largest"})
    found = Bench(slices, Oracle(), None)
    masks = [s.probabilities[0].astype(np.float32) >= 0.5 for s in slices]
    masks[1][40:43, 2:5] = False
    expected = dice(np.stack(masks), np.stack([truth[0]] * 3))
    assert found.dice([student])[0, 0, 0] == pytest.approx(expected)
    assert found.folds == [0] and found.shown.tolist() == [[True, True]]


def test_what_overlaps_is_judged_together() -> None:
    """Each mask alone is better than the student's, but each is surest where the other structure is."""

    class Grabs(Oracle):
        def draw(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
            own = super().draw(embedding, prompt).low_res > 0
            both = (embedding.features[0, 1:3] > 0).any(axis=0)
            return DecodedMask(np.where(own, 1.0, np.where(both, 6.0, -6.0)).astype(np.float32), 0.9, embedding.frame)

    poor = [case(seed, blunder=0.0) for seed in range(9)]
    for item in poor:
        for probability, truth in zip(item.probabilities, item.truth, strict=True):
            probability[...] = np.where(ndimage.binary_erosion(truth, iterations=5), 0.9, 0.01)
    alone = search(poor, NAMES, True, BASE, Grabs(), trials=2)
    assert "student" not in chosen(alone) and not alone.resolved
    together = search(poor, NAMES, False, BASE, Grabs(), trials=2)
    assert chosen(together) == ["student", "student"] and together.fallback is not None
    assert together.resolved["chosen"] < together.resolved["student"]
    assert all(structure.gain == 0 for structure in together.structures.values())


def test_without_cases_the_base_recipe() -> None:
    choice = search([], NAMES, False, BASE, Oracle())
    assert choice.recipes == dict.fromkeys(NAMES, BASE) and choice.cases == 0


def test_absent_structures_are_no_evidence_against_anyone(cases: list[OutOfFoldSlice]) -> None:
    blind = [OutOfFoldSlice(c.id, c.fold, c.probabilities * np.float16(0), c.truth & False, c.embedding) for c in cases]
    choice = search(blind, NAMES, False, BASE, Oracle(), trials=2)
    assert chosen(choice) == ["student", "student"]
    assert choice.structures["disk"].dice is None and choice.structures["disk"].cases == 0
    assert json.loads(json.dumps(choice.as_json(), allow_nan=False))


def test_faults_name_the_case(cases: list[OutOfFoldSlice]) -> None:
    with pytest.raises(UserError, match="case0: probabilities"):
        search(cases, ["disk"], False, BASE, Oracle())
    with pytest.raises(UserError, match="at least one trial"):
        search(cases, NAMES, False, BASE, Oracle(), trials=0)
