"""``samstudent.open_study``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import samstudent
from samstudent.errors import Conflict, NotFound, UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.inference.round_model import RoundModel
from samstudent.rounds import study as study_module
from samstudent.task import ImageSection
from support.drawn import FakeSam, dice, shapes, small_task, write_png
from support.infer_requests import serve
from support.student_study import bench, trained

__all__ = ["bench", "trained"]


@pytest.fixture
def opened(bench: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    serve(bench, trained)
    (tmp_path / "task.yaml").write_text(bench.study.task.model_dump_json())
    monkeypatch.setattr(study_module, "load_backend", lambda section: FakeSam())
    return samstudent.open_study(bench.folder, tmp_path / "task.yaml", device="cpu")


def test_import_is_fast() -> None:
    code = "import samstudent, sys; print(sorted({'torch', 'numpy', 'monai', 'monailabel'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_predict_takes_files_cases_arrays_and_images(opened: Any, bench: Any, tmp_path: Path) -> None:
    file = bench.folder / "c0.png"
    image = read_image(file)
    expected = RoundModel.load(bench.study, device="cpu").predict(image)
    pixels, truth = shapes(0)
    for form in (file, str(file), "c0", image, pixels, np.stack([pixels] * 3, -1)):
        found = opened.predict(form)
        np.testing.assert_array_equal(found.masks, expected.masks)
    assert opened.structures == ["disk", "square"] and dice(found["disk"], truth[0]) > 0.85
    np.testing.assert_array_equal(found.label_map(), found["disk"] + 2 * found["square"])
    with pytest.raises(NotFound, match="structure 'ring': the task has disk, square"):
        found["ring"]
    saved = expected.save(tmp_path / "c0.seg.nrrd")
    np.testing.assert_array_equal(read_masks(saved, opened.task, image.grid), expected.masks)
    with pytest.raises(UserError, match="DICOM SEG needs a DICOM image"):
        expected.save(tmp_path / "c0.dcm")
    with pytest.raises(UserError, match="an array: DICOM SEG"):
        found.save(tmp_path / "c0.dcm")


def test_nothing_is_written_into_the_study(opened: Any, bench: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in bench.folder.rglob("*")}
    opened.refine("c0", opened.predict("c0", refine=True).masks)
    assert {path: path.stat().st_mtime_ns for path in bench.folder.rglob("*")} == before


def test_refined_prediction_has_figures(opened: Any, bench: Any) -> None:
    found = opened.predict("c0", refine=True)
    np.testing.assert_array_equal(
        found.masks, RoundModel.load(bench.study, device="cpu").predict(opened.read("c0"), refine=True).masks
    )
    assert all(0 < structure.quality <= 1 and structure.agreement > 0.5 for structure in found.structures)


def test_refine_redraws_masks_of_any_form(opened: Any, tmp_path: Path) -> None:
    pixels, truth = shapes(3)
    coarse = np.roll(truth, 2, axis=2)
    image = opened.read(pixels)
    write_masks(tmp_path / "coarse.png", coarse, opened.task, image.grid)
    found = opened.refine(image, coarse)
    assert dice(found["disk"], truth[0]) > dice(coarse[0], truth[0])
    assert found.origin.model == "sam" and found.origin.round is None
    for form in (coarse.astype(float), {"disk": coarse[0], "square": coarse[1]}, tmp_path / "coarse.png"):
        np.testing.assert_array_equal(opened.refine(image, form).masks, found.masks)
    one = opened.refine(image, {"disk": coarse[0]})
    assert [structure.present for structure in one.structures] == [True, False]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((1, 64, 64)), r"masks of shape \(1, 64, 64\)"),
        (np.full((2, 64, 64), 2.0), "values from 2 to 2; expected 0 and 1"),
        ({"ring": np.zeros((64, 64))}, "masks of ring: the task has disk, square"),
        ({"disk": np.zeros((6, 4))}, r"mask of 'disk' has the shape \(6, 4\)"),
    ],
)
def test_masks_that_do_not_fit(opened: Any, masks: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened.refine("c0", masks)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((0, 64)), {}, r"an array of shape \(0, 64\) and type float64: expected numbers, at least one"),
        (np.zeros((64, 64), complex), {}, "type complex128: expected numbers"),
        (np.zeros((3, 64, 64)), {}, r"an array of shape \(3, 64, 64\): the task needs \(y, x\) or \(y, x, 3\)"),
        (np.zeros((64, 64)), {"spacing": [1]}, r"spacing \[1\]: expected 2 numbers above 0, along y, x"),
        (np.full((64, 64), np.nan), {}, "NaN"),
        ("c99", {}, "c99: no such file or folder, and no case"),
    ],
)
def test_images_that_do_not_fit(opened: Any, image: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened.predict(image, **options)


def test_folder_of_one_image(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    path = write_png(tmp_path / "new" / "a.png", shapes(1)[0])
    assert opened.read(tmp_path / "new").path == path
    write_png(tmp_path / "new" / "b.png", shapes(2)[0])
    with pytest.raises(UserError, match=r"new: 2 images; expected one \(a, b\)"):
        opened.read(tmp_path / "new")


def test_rounds(opened: Any, bench: Any) -> None:
    first = opened.predict("c0")
    assert (opened.rounds, opened.served_round, first.origin.round) == (["r0001"], "r0001", "r0001")
    serve(bench, seed=2)
    assert opened.predict("c0").origin.round == opened.served_round == "r0002"
    assert (opened.predict("c0", round_id="r0001").masks == first.masks).all()
    with pytest.raises(NotFound, match="there are: r0001, r0002"):
        opened.predict("c0", round_id="r0003")


def test_studies_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such study folder"):
        samstudent.open_study(tmp_path / "none", "phantom")
    task = small_task()
    with pytest.raises(Conflict, match="no round of task 'drawn' is served"):
        samstudent.open_study(tmp_path, task).predict(shapes(0)[0])


def test_volume_as_array_has_the_spacing(tmp_path: Path) -> None:
    task = small_task(dimension=3, student={"size": [16, 64, 64], "channels": [8, 16, 32]})
    image = samstudent.open_study(tmp_path, task).read(np.zeros((4, 5, 6)), spacing=(3.0, 0.5, 0.25))
    assert (image.grid.spatial_shape, image.grid.spacing) == ((4, 5, 6), (3.0, 0.5, 0.25))


def test_named_channels_of_files_folders_and_arrays(opened: Any, tmp_path: Path) -> None:
    image = ImageSection(channels=["T1", "T2"])  # type: ignore[arg-type]
    opened.task = opened.task.model_copy(update={"image": image})
    pixels = [shapes(seed)[0] for seed in (0, 1)]
    (tmp_path / "p1").mkdir()
    for name, channel in zip(("T1", "T2"), pixels, strict=True):
        write_png(tmp_path / "p1" / f"a_{name}.png", channel)
    found = opened.read(tmp_path / "p1").pixels
    assert (found == np.stack(pixels)).all() and (opened.read(np.stack(pixels, -1)).pixels == found).all()
    with pytest.raises(UserError, match=r"the task needs \(y, x, 2\)"):
        opened.read(pixels[0])
    (tmp_path / "p1" / "a_T2.png").unlink()
    with pytest.raises(UserError, match=r"p1: 0 cases with the task's channels; expected one .*lacks T2"):
        opened.read(tmp_path / "p1")
