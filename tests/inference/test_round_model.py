"""Model of a round: the masks of the server's models, to the pixel; errors of rounds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from samstudent.errors import Conflict, NotFound, UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.inference.round_model import RoundModel
from samstudent.sam.cache import EmbeddingCache
from samstudent.server.tasks.student_infer import StudentInferTask, StudentSamInferTask
from support.drawn import learn_recipes, shapes, small_task, write_png
from support.drawn_folder import write_volume
from support.infer_requests import serve
from support.student_study import DrawnStudy


def served_masks(task: Any, image: Path) -> Any:
    """Masks of the server's inference."""
    request = {"model": "student", "image": str(image), "device": "cpu", "result_extension": ".seg.nrrd"}
    file, _ = task(request)
    masks = read_masks(file, task.task, read_image(image).grid)
    Path(file).unlink()
    return masks


@pytest.mark.parametrize("policy", [False, True])
def test_masks_are_those_of_the_server(bench: Any, trained: Path, tmp_path: Path, policy: bool) -> None:
    """Of both models, with the task's recipe and with recipes of the round, also of a large image."""
    serve(bench, trained)
    study = bench.study
    if policy:
        learn_recipes(study.policy_folder("r0001"), study.task, disk={"source": "student"}, square={"source": "sam"})
    model = RoundModel.load(study, device="cpu", cache=EmbeddingCache(study.embeddings.folder, stores=False))
    for seed, size in ((200, (64, 64)), (201, (100, 110)), (202, (700, 620))):
        image = write_png(tmp_path / f"{seed}.png", shapes(seed, size)[0])
        for task, refine in ((StudentInferTask(study), False), (StudentSamInferTask(study), True)):
            expected = served_masks(task, image)
            found = model.predict(read_image(image), refine=refine)
            assert expected.any()
            np.testing.assert_array_equal(found.masks, expected)
            assert found.origin.model == ("student+sam" if refine else "student")


def test_masks_of_volumes_are_those_of_the_server(tmp_path: Path) -> None:
    task = small_task(dimension=3, student={"size": [16, 64, 64], "channels": [8, 16, 32]})
    study = DrawnStudy(str(tmp_path), str(tmp_path), task)
    serve(SimpleNamespace(study=study))
    volume = tmp_path / "volume.nii.gz"
    write_volume(volume, np.stack([shapes(7)[0]] * 5))
    model = RoundModel.load(study, device="cpu")
    for server_task, refine in ((StudentInferTask(study), False), (StudentSamInferTask(study), True)):
        expected = served_masks(server_task, volume)
        assert expected.any()
        np.testing.assert_array_equal(model.predict(read_image(volume), refine=refine).masks, expected)


def test_refined_masks_differ_from_the_students(bench: Any, trained: Path, tmp_path: Path) -> None:
    serve(bench, trained)
    image = read_image(write_png(tmp_path / "a.png", shapes(200, (100, 110))[0]))
    model = RoundModel.load(bench.study, device="cpu")
    assert (model.predict(image).masks != model.predict(image, refine=True).masks).any()


def test_quality_is_that_of_the_quality_model_where_the_round_has_one(
    bench: Any, trained: Path, tmp_path: Path
) -> None:
    serve(bench, trained)
    study, image = bench.study, read_image(write_png(tmp_path / "a.png", shapes(200)[0]))
    without = RoundModel.load(study, device="cpu").predict(image, refine=True)
    assert [s.estimated_by for s in without.structures] == ["formula", "formula"]
    learn_recipes(study.policy_folder("r0001"), study.task)
    model = RoundModel.load(study, device="cpu")
    found = model.predict(image, refine=True)
    assert [s.estimated_by for s in found.structures] == ["quality model", "quality model"]
    # The labels of ``learn_recipes`` are predicted well.
    assert all(s.quality is not None and 0.5 < s.quality <= 1 for s in found.structures)
    assert found.structures[0].quality != without.structures[0].quality
    plain = model.predict(image)
    assert [(s.present, s.quality, s.estimated_by) for s in plain.structures] == [(True, None, None)] * 2
    assert [s.pixels for s in plain.structures] == [int(mask.sum()) for mask in plain.masks]


def test_any_complete_round_can_be_loaded(bench: Any) -> None:
    first, second = serve(bench), serve(bench, seed=1)
    assert RoundModel.load(bench.study, device="cpu").student.version == second
    earlier = RoundModel.load(bench.study, "r0001", device="cpu")
    assert (earlier.student.version, earlier.round_id) == (first, "r0001")


def test_errors_of_rounds_name_the_remedy(bench: Any) -> None:
    study = bench.study
    with pytest.raises(Conflict, match=r"no round of task 'drawn' is served in this study: run one"):
        RoundModel.load(study)
    running = study.ledger.new_round("test")
    with pytest.raises(Conflict, match=f"round {running} is running: its model may be incomplete"):
        RoundModel.load(study, running)
    serve(bench)
    with pytest.raises(NotFound, match=r"round 'r0009' does not exist in .*; there are: r0001, r0002"):
        RoundModel.load(study, "r0009")
    with pytest.raises(NotFound, match="ids look like r0001"):
        RoundModel.load(study, "latest")
    study.ledger.model_path("r0002").write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        RoundModel.load(study, "r0002")


def test_a_round_that_is_not_served_is_proposed(bench: Any) -> None:
    serve(bench)
    (bench.study.folder / "champion.json").unlink()
    with pytest.raises(Conflict, match="name one of r0001, or promote it"):
        RoundModel.load(bench.study)
