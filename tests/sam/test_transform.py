from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
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
    assert out["result"]["sam"] == {"backend": "vit_b", "digest": "0" * 64, "structures": expected.as_json()}
    json.dumps(out["result"])


def test_numpy_stays_numpy_and_a_missing_result_is_made(tiny: Any) -> None:
    p, image = case()
    out = RefineWithSamd(["pred"], tiny, TASK, image_key="picture")({"pred": p, "picture": image})
    assert type(out["pred"]) is np.ndarray and out["pred"].dtype == np.uint8
    assert [s["present"] for s in out["result"]["sam"]["structures"]] == [True, False]
