from __future__ import annotations

import itertools

import pytest

from samstudent.pseudolabels.space import Space
from samstudent.task import BOX_STAGES, PAPER_STAGES, Recipe, Stage


def cells(space: Space) -> list[dict[str, str]]:
    labels = space.labels()
    return [dict(zip(labels, values, strict=True)) for values in itertools.product(*labels.values())]


@pytest.mark.parametrize("backend", ["vit_b", "lite_medsam"])
@pytest.mark.parametrize(("adapted", "count"), [(False, 864), (True, 1728)])
def test_the_grid_is_as_large_as_the_papers(backend: str, adapted: bool, count: int) -> None:
    space = Space.of(Recipe(), backend, adapted, grid=True)
    recipes = [space.recipe(cell) for cell in cells(space)]
    assert len(recipes) == count == len(set(recipes))
    for recipe in recipes:
        assert Recipe.model_validate(recipe.model_dump()) == recipe


def test_what_was_never_trained_is_left_to_the_grid() -> None:
    assert len(Space.of(Recipe(), "lite_medsam", False).labels()["stages"]) == 1
    assert len(Space.of(Recipe(), "vit_b", False).labels()["stages"]) == 4
    own = Recipe(stages=(Stage(prompts=("box", "mask")),))
    assert len(Space.of(own, "lite_medsam", False).labels()["stages"]) == 2


def test_the_base_recipe_is_in_the_space_whatever_it_says() -> None:
    base = Recipe(box_margin=0.2, morphology="close", morphology_size=5, component="largest", decoder="plain")
    space = Space.of(base, "vit_b", True)
    first = space.first_cells()
    assert space.recipe(first[0]) == base
    assert space.recipe(first[1]) == base.model_copy(update={"decoder": "adapted"})
    assert space.recipe(first[0]).stages is None


def test_first_cells_differ() -> None:
    for backend, adapted in itertools.product(("vit_b", "lite_medsam"), (False, True)):
        first = Space.of(Recipe(component="all", box_margin=0.06), backend, adapted).first_cells()
        assert len({tuple(cell.items()) for cell in first}) == len(first) <= 6


def test_simpler_comes_first() -> None:
    base = Recipe()
    space = Space.of(base, "vit_b", True)
    as_it_is, *others = space.students()
    sam = base.model_copy(update={"decoder": "plain", "stages": None})
    adapted = base.model_copy(update={"decoder": "adapted"})
    fused = sam.model_copy(update={"source": "fused"})
    uneven = sam.model_copy(update={"source": "fused", "fusion_weight": 0.25})
    border = sam.model_copy(update={"source": "border"})
    wider = sam.model_copy(update={"box_margin": 0.03})
    both = wider.model_copy(update={"stages": BOX_STAGES})
    order = [as_it_is, *others, sam, adapted, fused, uneven, border, wider, both]
    backwards = list(reversed(order))
    assert sorted(backwards, key=space.complexity) == order
    assert as_it_is.component == "all" and as_it_is.source == "student"


def test_stages_that_are_the_backends_own_are_no_departure() -> None:
    space = Space.of(Recipe(), "vit_b", False)
    named, own = Recipe(stages=PAPER_STAGES), Recipe()
    assert space.complexity(named) == space.complexity(own)


def test_one_decoding_serves_every_source() -> None:
    space = Space.of(Recipe(fusion_weight=0.4), "vit_b", False)
    sources = space.sources(space.recipe(space.first_cells()[0]))
    assert [s.source for s in sources] == ["sam", "fused", "fused", "fused", "fused", "border"]
    assert sorted(s.fusion_weight for s in sources if s.source == "fused") == [0.25, 0.4, 0.5, 0.75]
    assert len({s.model_copy(update={"source": "sam", "fusion_weight": 0.5}) for s in sources}) == 1
