from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose

from samstudent.sam import Refiner, SamRefine, SamRefined
from samstudent.sam.results import Refinement
from samstudent.task import Task

TASK = Task.model_validate({"name": "t", "dimension": 2, "structures": ["a", "b"], "overlap": True})


def case() -> tuple[Any, Any]:
    p = np.zeros((2, 60, 50), np.float32)
    p[0, 10:40, 10:30] = 0.9
    return p, np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)


@pytest.fixture
def refiner(tiny: Any) -> Refiner:
    return Refiner.for_task(TASK, tiny)


def test_array_transform_returns_the_masks_of_the_refiner(refiner: Refiner) -> None:
    p, image = case()
    expected = refiner.refine(p, image)
    masks = SamRefine(refiner)(torch.from_numpy(p), torch.from_numpy(image))
    assert isinstance(masks, torch.Tensor) and masks.dtype == torch.uint8
    np.testing.assert_array_equal(masks.numpy(), expected.masks)
    assert SamRefine(refiner).refine(p, image).as_json() == expected.as_json()
    channel_first = np.ascontiguousarray(image.transpose(2, 0, 1))
    np.testing.assert_array_equal(SamRefine(refiner, channel_dim=0)(p, channel_first), expected.masks)


def test_dictionary_transform_keeps_type_and_metadata(refiner: Refiner) -> None:
    p, image = case()
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0]))
    data = {"pred": MetaTensor(torch.from_numpy(p), affine=affine), "image": image, "result": {"latency": 1}}
    out = Compose([SamRefined("pred", refiner)])(data)
    assert isinstance(out["pred"], MetaTensor) and out["pred"].dtype == torch.uint8
    torch.testing.assert_close(out["pred"].affine, affine.to(out["pred"].affine.dtype))
    expected = refiner.refine(p, image)
    np.testing.assert_array_equal(out["pred"].numpy(), expected.masks)
    found = out["pred_refinement"]
    assert isinstance(found, Refinement) and found.as_json() == expected.as_json()
    np.testing.assert_array_equal(found.coarse, expected.coarse)
    assert out["result"] == {"latency": 1} and "pred_refinement" not in data


def test_several_and_missing_keys_are_supported(refiner: Refiner) -> None:
    p, image = case()
    transform = SamRefined(["a", "b", "c"], refiner, image_key="picture", postfix="sam", allow_missing_keys=True)
    out = transform({"a": p, "b": np.zeros_like(p), "picture": image})
    assert type(out["a"]) is np.ndarray and out["a"].dtype == np.uint8 and "c" not in out
    assert [s.present for s in out["a_sam"].structures] == [True, False]
    assert not out["b"].any() and not any(s.present for s in out["b_sam"].structures)
    with pytest.raises(KeyError):
        SamRefined("c", refiner)({"a": p, "image": image})


def test_voxel_size_determines_the_slice_axis(tiny: Any) -> None:
    p, image = np.zeros((2, 6, 8, 10), np.float32), np.zeros((6, 8, 10, 3), np.uint8)
    p[0, 1:5, 2:6, 2:8] = 0.9
    refiner = Refiner.for_task(TASK.model_copy(update={"dimension": 3}), tiny)
    along_x = refiner.refine(p, image, (1.0, 1.0, 8.0)).as_json()
    assert along_x != refiner.refine(p, image).as_json()
    transform = SamRefined("pred", refiner)
    assert transform({"pred": p, "image": image, "spacing": (1.0, 1.0, 8.0)})["pred_refinement"].as_json() == along_x
    # A MetaTensor knows its voxels.
    meta = MetaTensor(torch.from_numpy(p), affine=torch.diag(torch.tensor([1.0, 1.0, 8.0, 1.0])))
    assert transform({"pred": meta, "image": image})["pred_refinement"].as_json() == along_x


def test_documented_example_runs() -> None:
    example = Path(__file__).resolve().parents[2] / "docs" / "examples" / "refine_in_a_monai_pipeline.py"
    names = runpy.run_path(str(example))
    masks, truth = names["masks"], names["truth"]
    assert masks.shape == (1, 256, 256)
    overlap = 2 * (masks[0] & truth).sum() / (masks[0].sum() + truth.sum())
    assert overlap > 0.95 > names["coarse_dice"]
