"""SAM 2's real network, small and with random weights: what matters is that ours and SAM 2's own handling agree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.build_sam import build_sam2_video_predictor
from sam2.sam2_image_predictor import SAM2ImagePredictor

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.pseudolabels.embedding_head import Reader, reader_cases, train_reader
from samstudent.sam.backends import load_backend
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.prompts import Prompt
from samstudent.sam.refine import refine
from samstudent.sam.sam2_video import EXAMPLE, Sam2, build, made_ready
from samstudent.task import SamSection, Task
from samstudent.util.device import autocast
from support.drawn import case_image

BOX = (5.0, 6.0, 30.0, 31.0)


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build_sam2_video_predictor(EXAMPLE, None, "cpu", hydra_overrides_extra=["++model.image_size=256"])
    return made_ready(model)


@pytest.fixture(scope="module")
def backend(model: Any) -> Sam2:
    return Sam2("sam2", "0" * 64, lambda: model, "cpu")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """uint8 (5, 40, 50, 3) with a disk that wanders, and the folder of JPEGs that it was read back from."""
    folder = tmp_path_factory.mktemp("video")
    y, x = np.mgrid[:40, :50]
    slices = []
    for z in range(5):
        disk = (y - 18) ** 2 + (x - 15 - 3 * z) ** 2 < 100
        Image.fromarray(np.repeat((60 + 120 * disk)[..., None], 3, -1).astype(np.uint8)).save(folder / f"{z}.jpg")
        slices.append(np.asarray(Image.open(folder / f"{z}.jpg").convert("RGB")))
    return np.stack(slices), folder


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(box=BOX),
        Prompt(box=BOX, positive=((10.0, 12.0),), negative=((40.0, 3.0),)),
        Prompt(positive=((9.0, 9.0),)),
    ],
)
def test_images_are_answered_as_by_sam2s_own_predictor(backend: Sam2, model: Any, volume: Any, prompt: Prompt) -> None:
    image = volume[0][0]
    oracle = SAM2ImagePredictor(model)
    oracle._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]  # it takes 1024 pixels for granted
    oracle.set_image(image)
    points = [*prompt.positive, *prompt.negative]
    alone = prompt.box is None
    _, iou, low_res = oracle.predict(
        point_coords=np.array(points) if points else None,
        point_labels=np.array([1] * len(prompt.positive) + [0] * len(prompt.negative)) if points else None,
        box=None if alone else np.array(prompt.box),
        multimask_output=alone,
    )
    answer = backend.decode(backend.embed(image), prompt)
    assert answer.predicted_iou == pytest.approx(iou.max(), abs=1e-5)
    np.testing.assert_allclose(answer.low_res, low_res[iou.argmax()], atol=1e-4)
    assert answer.logits.shape == (40, 50)


def test_embeddings_pass_through_the_cache_and_logits_can_be_fed_back(
    backend: Sam2, volume: Any, tmp_path: Path
) -> None:
    cache = EmbeddingCache(tmp_path)
    fresh, kept = (cache.embed(backend, volume[0][0]) for _ in range(2))
    first, again = backend.decode(fresh, Prompt(box=BOX)), backend.decode(kept, Prompt(box=BOX))
    np.testing.assert_array_equal(first.low_res, again.low_res)
    second = backend.decode(kept, Prompt(positive=((10.0, 12.0),), mask_input=first.low_res))
    assert not np.array_equal(second.low_res, first.low_res)


def test_several_prompts_in_one_batch(backend: Sam2, volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = backend.embed(volume[0][0])
    prompts = [Prompt(box=BOX), Prompt(box=(20, 5, 45, 30))]
    single = backend.decode_many(embedding, prompts)
    monkeypatch.setattr(backend, "loops", False)
    for one, batched in zip(single, backend.decode_many(embedding, prompts), strict=True):
        np.testing.assert_allclose(one.low_res, batched.low_res, atol=1e-3)


def test_a_volume_is_followed_as_sam2_follows_a_folder_of_jpegs(backend: Sam2, model: Any, volume: Any) -> None:
    pixels, folder = volume
    boxes = {0: {1: BOX}, 7: {2: (8.0, 8.0, 30.0, 30.0), 3: (10.0, 8.0, 33.0, 30.0)}}
    found = backend.track(pixels, boxes)
    assert {index: sorted(slices) for index, slices in found.items()} == {0: [*range(5)], 7: [*range(5)]}

    with torch.inference_mode(), autocast(torch.device("cpu")):
        state = model.init_state(str(folder))
        for index, given in boxes.items():
            for z, box in given.items():
                model.add_new_points_or_box(state, z, index, box=box)
        walks = [
            {z: dict(zip(ids, out, strict=True)) for z, ids, out in model.propagate_in_video(state, start, None, back)}
            for start, back in ((1, False), (2, True))
        ]
    forward, backward = walks
    expected = {0: [backward[0], *(forward[z] for z in range(1, 5))]}
    expected[7] = [backward[0], backward[1], *(forward[z] for z in range(2, 5))]
    for index, slices in expected.items():
        for z, of_slice in enumerate(slices):
            np.testing.assert_allclose(found[index][z], of_slice[index][0].float().numpy(), atol=2e-2)


def test_walks_no_farther_than_asked_and_answers_on_the_grid_asked_for(backend: Sam2, volume: Any) -> None:
    found = backend.track(volume[0], {0: {2: (2, 3, 15, 15)}}, span=(1, 3), size=(20, 25))
    assert sorted(found[0]) == [1, 2, 3]
    assert found[0][1].shape == (20, 25) and found[0][1].dtype == np.float16
    full = backend.track(volume[0], {0: {2: (4, 6, 30, 30)}}, span=(2, 2))
    # The same box and network: only the size at which the logits are asked for differs.
    shrunk = torch.nn.functional.interpolate(torch.from_numpy(full[0][2][None, None]).float(), (20, 25), mode="area")
    assert np.corrcoef(shrunk.numpy().ravel(), found[0][2].ravel().astype(np.float32))[0, 1] > 0.9


def test_refinement_of_a_volume_lets_sam2_follow_it(backend: Sam2, volume: Any) -> None:
    task = Task.model_validate(
        {"name": "t", "dimension": 3, "structures": ["a", "b"], "student": {"size": [16, 16, 16]}}
    )
    p = np.zeros((2, 5, 40, 50), np.float32)
    p[0, 1:4, 8:28, 5:30] = 0.9
    result = refine(p, volume[0], backend, task)
    a, b = result.structures
    assert result.masks.shape == p.shape and a.present and not b.present
    assert [entry["slice"] for entry in a.prompts] == [1] and a.prompts[0]["box"] == [5, 8, 29, 27]
    assert result.masks[0, 1:4].any(axis=(1, 2)).all() and not result.masks[0, [0, 4]].any()


def test_readers_read_its_coarsest_level(backend: Sam2, volume: Any, tmp_path: Path) -> None:
    content = {"name": "v", "dimension": 2, "structures": ["disk"], "student": {"size": [32, 32], "channels": [8, 16]}}
    task = Task.model_validate(content)
    image = case_image(volume[0][0, ..., 0])
    truth = np.zeros((1, 40, 50), np.bool_)
    truth[0, 8:28, 5:25] = True
    train_reader(reader_cases(image, LabelledMasks(truth), task, backend, None), task, tmp_path / "reader.pt", steps=2)
    assert Reader.load(tmp_path / "reader.pt", task, backend, None).predict(image).shape == (1, 40, 50)


def test_one_state_leaves_nothing_to_the_next(backend: Sam2, volume: Any) -> None:
    one = backend.track(volume[0], {0: {1: BOX}}, span=(0, 2))
    backend.track(volume[0][::-1], {5: {3: (20, 20, 30, 30)}}, span=(2, 3))
    two = backend.track(volume[0], {0: {1: BOX}}, span=(0, 2))
    for z in range(3):
        np.testing.assert_array_equal(one[0][z], two[0][z])


def test_mistakes_are_named(backend: Sam2, volume: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one box"):
        backend.track(volume[0], {0: {}})
    with pytest.raises(UserError, match=r"boxes on slices \[7\]"):
        backend.track(volume[0], {0: {7: BOX}})
    with pytest.raises(UserError, match="uint8 volume"):
        backend.track(volume[0][0], {0: {0: BOX}})
    with pytest.raises(UserError, match="uint8 image"):
        backend.embed(volume[0])
    with pytest.raises(UserError, match="not a config of sam2"):
        build("configs/none.yaml", None)
    with pytest.raises(ValueError, match="config"):
        SamSection(backend="sam2", checkpoint=tmp_path)
    with pytest.raises(ValueError, match="config"):
        SamSection(backend="lite_medsam", config=EXAMPLE)


def test_loads_a_checkpoint_through_the_task_file(tmp_path: Path) -> None:
    checkpoint = tmp_path / "sam2.pt"
    # As Meta saves them: under "model".
    torch.save({"model": build(EXAMPLE, None).state_dict()}, checkpoint)
    backend = load_backend(SamSection(backend="sam2", checkpoint=checkpoint, config=EXAMPLE))
    backend.load()
    other = SamSection(backend="sam2", checkpoint=checkpoint, config="configs/sam2.1/sam2.1_hiera_b+.yaml")
    with pytest.raises(UserError, match="not the weights"):
        load_backend(other).load()


def test_sam2_is_not_imported_unless_used() -> None:
    code = "import sys, samstudent.sam.backends, samstudent.sam.sam2_video; sys.exit('sam2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
