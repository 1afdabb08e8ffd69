from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose

from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.refine import refine
from samstudent.sam.transform import RefineWithSam, RefineWithSamd
from samstudent.task import Task

TASK = Task.model_validate({"name": "t", "dimension": 2, "structures": ["a", "b"], "overlap": True})


def case() -> tuple[Any, Any]:
    p = np.zeros((2, 60, 50), np.float32)
    p[0, 10:40, 10:30] = 0.9
    return p, np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)


def test_array_transform_equals_the_function(tiny: Any, tmp_path: Path) -> None:
    p, image = case()
    cache = EmbeddingCache(tmp_path)
    result = RefineWithSam(tiny, TASK, cache)(torch.from_numpy(p), torch.from_numpy(image))
    expected = refine(p, image, tiny, TASK, cache)
    np.testing.assert_array_equal(result.masks, expected.masks)
    assert result.as_json() == expected.as_json()


def test_dictionary_twin_keeps_type_meta_and_other_results(tiny: Any) -> None:
    p, image = case()
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0]))
    transform = Compose([RefineWithSamd("pred", tiny, TASK, coarse_key="coarse")])
    data = {"pred": MetaTensor(torch.from_numpy(p), affine=affine), "image_for_sam": image, "result": {"latency": 1}}
    out = transform(data)
    assert isinstance(out["pred"], MetaTensor) and out["pred"].dtype == torch.uint8
    torch.testing.assert_close(out["pred"].affine, affine.to(out["pred"].affine.dtype))
    expected = refine(p, image, tiny, TASK)
    np.testing.assert_array_equal(out["pred"].numpy(), expected.masks)
    np.testing.assert_array_equal(out["coarse"], expected.coarse)
    assert data["result"] == {"latency": 1} and out["result"]["latency"] == 1
    told = {"backend": "vit_b", "digest": "0" * 64, "adapted": None, "structures": expected.as_json()}
    assert out["result"]["sam"] == told
    json.dumps(out["result"])


def test_numpy_stays_numpy_and_a_missing_result_is_made(tiny: Any) -> None:
    p, image = case()
    out = RefineWithSamd(["pred"], tiny, TASK, image_key="picture")({"pred": p, "picture": image})
    assert type(out["pred"]) is np.ndarray and out["pred"].dtype == np.uint8
    assert [s["present"] for s in out["result"]["sam"]["structures"]] == [True, False]


def test_each_structure_may_have_a_recipe_and_decoder_of_its_own(tiny: Any) -> None:
    p, image = case()
    p[1, 20:50, 25:45] = 0.9
    adapted = copy.copy(tiny)
    adapted.digest = "1" * 64
    recipes = {
        "a": TASK.recipe.model_copy(update={"source": "student"}),
        "b": TASK.recipe.model_copy(update={"decoder": "adapted"}),
    }
    options: dict[str, Any] = {"recipes": recipes, "adapted": adapted}
    out = RefineWithSamd("pred", tiny, TASK, **options)({"pred": p, "image_for_sam": image})
    expected = refine(p, image, tiny, TASK, **options)
    np.testing.assert_array_equal(out["pred"], expected.masks)
    told = out["result"]["sam"]
    assert told["adapted"] == "1" * 64 and told["structures"][0]["source"] == "student"
    # Its recipe decides, not that SAM was there.
    np.testing.assert_array_equal(out["pred"][0], p[0] >= 0.5)


@pytest.mark.parametrize("signals", [True, False])
def test_sam_is_not_asked_for_figures_that_nobody_wants(tiny: Any, signals: bool) -> None:
    p, image = case()
    recipes = {name: TASK.recipe.model_copy(update={"source": "student"}) for name in TASK.names}
    out = RefineWithSamd("pred", tiny, TASK, recipes=recipes, signals=signals)({"pred": p, "image_for_sam": image})
    assert (out["result"]["sam"]["structures"][0]["agreement"] is not None) == signals
    again = RefineWithSam(tiny, TASK, recipes=recipes, signals=signals)(p, image)
    assert again.as_json() == out["result"]["sam"]["structures"]
    np.testing.assert_array_equal(out["pred"], p >= 0.5)


def test_the_voxels_size_decides_how_a_volume_is_cut(tiny: Any) -> None:
    p, image = np.zeros((2, 6, 8, 10), np.float32), np.zeros((6, 8, 10, 3), np.uint8)
    p[0, 1:5, 2:6, 2:8] = 0.9
    spacing = (1.0, 1.0, 8.0)
    data = {"pred": p, "image_for_sam": image, "spacing": spacing}
    task = TASK.model_copy(update={"dimension": 3})
    told = RefineWithSamd("pred", tiny, task)(data)["result"]["sam"]["structures"]
    assert told == refine(p, image, tiny, task, spacing=spacing).as_json()
    assert told != refine(p, image, tiny, task).as_json()
