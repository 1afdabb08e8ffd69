"""Study of DICOM folders: cases, files for clients, labels."""

from __future__ import annotations

import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid

from samstudent.active_learning.readable import ImageCheck
from samstudent.errors import Conflict, UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.server.datastore.label_rules import ImageRules, LabelRules
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.task import ImageSection, Task
from support.dicom_files import PLANE, save, save_series
from support.waits import until

TASK = Task(name="t", dimension=3, structures={"organ": 1}, student={"size": (16, 16, 16)})  # type: ignore[arg-type]


def opened(study: Path, dimension: int = 3, watch: bool = False) -> StudyFolderDatastore:
    return StudyFolderDatastore(
        study, auto_reload=watch, images=ImageRules(dimension=dimension), labels=LabelRules(TASK)
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study" / "p1").mkdir(parents=True)
    save_series(tmp_path / "study" / "p1" / "ct", [0, 2, 4])
    return tmp_path / "study"


def as_itk(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))


def test_series_is_a_case_with_one_file_for_clients(study: Path) -> None:
    store = opened(study)
    assert store.list_images() == ["p1_ct"]
    assert store.get_image_uri("p1_ct") == str(study / "p1" / "ct")
    info = store.get_image_info("p1_ct")
    assert info["name"] == "p1_ct.nii.gz" and not Path(info["path"]).exists()
    file = store.viewer_file("p1_ct")
    assert str(file) == info["path"]
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(study / "p1" / "ct")))
    expected, shown = reader.Execute(), as_itk(file)
    assert (sitk.GetArrayFromImage(shown) == sitk.GetArrayFromImage(expected)).all()
    end = [size - 1 for size in expected.GetSize()]
    assert shown.TransformIndexToPhysicalPoint(end) == pytest.approx(expected.TransformIndexToPhysicalPoint(end))
    assert store.viewer_grid_file("p1_ct") is None


def test_cases_and_labels_are_kept_by_a_restart(study: Path, tmp_path: Path) -> None:
    store = opened(study)
    image = read_image(store.get_image_uri("p1_ct"), 3)
    masks = np.zeros((1, *image.grid.spatial_shape), bool)
    masks[0, 1, 1, 1] = True
    write_masks(tmp_path / "l.seg.nrrd", masks, TASK, image.grid)
    store.save_label("p1_ct", str(tmp_path / "l.seg.nrrd"), "final", {})
    store.close()
    again = opened(study)
    assert again.get_labeled_images() == ["p1_ct"]
    assert again.get_image_uri("p1_ct") == str(study / "p1" / "ct")


def test_a_changed_series_has_a_new_file_for_clients(study: Path) -> None:
    store = opened(study)
    before = store.viewer_file("p1_ct")
    save(study / "p1" / "ct" / "9.dcm", PLANE, ImagePositionPatient=[0, 0, 6], InstanceNumber=9)
    after = store.viewer_file("p1_ct")
    assert as_itk(after).GetSize()[2] == 4 and not before.exists()


def test_tilted_series_has_perpendicular_axes_for_clients(study: Path, tmp_path: Path) -> None:
    save_series(study / "tilted", [0, 2, 4], lateral=0.5)
    store = opened(study)
    file = store.viewer_grid_file("tilted")
    assert file is not None and file == store.viewer_file("tilted")
    direction = np.array(as_itk(file).GetDirection()).reshape(3, 3)
    assert direction.T @ direction == pytest.approx(np.eye(3), abs=1e-6)
    own = read_image(store.get_image_uri("tilted"), 3)
    masks = np.ones((1, *own.grid.spatial_shape), bool)
    write_masks(tmp_path / "l.seg.nrrd", masks, TASK, own.grid)
    store.save_label("tilted", str(tmp_path / "l.seg.nrrd"), "final", {})
    label = store.viewer_label("tilted", "final")
    assert label is not None and as_itk(label).GetSize()[:3] == as_itk(file).GetSize()


def test_an_uploaded_dicom_file_must_be_one_case(study: Path, tmp_path: Path) -> None:
    """Otherwise the id of the response would be that of no case."""
    one, clip = save(tmp_path / "one.dcm"), save(tmp_path / "clip.dcm", np.stack([PLANE, PLANE]))
    with pytest.raises(UserError, match=r"image 'one': one DICOM slice, but the task's dimension is 3"):
        opened(study).add_image("one", str(one), {})
    with pytest.raises(UserError, match=r"image 'clip': a clip of 2 frames; copy it to the study folder"):
        opened(study, dimension=2).add_image("clip", str(clip), {})
    assert opened(study, dimension=2).add_image("one", str(one), {}) == "one"
    assert not (study / "clip.dcm").exists()


def test_a_series_is_not_removed_by_clients(study: Path) -> None:
    store = opened(study)
    with pytest.raises(Conflict, match=r"p1_ct.*DICOM series or frame, in .*p1/ct; remove its files there"):
        store.remove_image("p1_ct")
    assert len(list((study / "p1" / "ct").iterdir())) == 3


def test_frame_of_a_clip_for_clients(study: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (2, 3, 4)).astype(np.uint16)
    save(study / "us.dcm", frames)
    store = opened(study, dimension=2)
    file = store.viewer_file("us@0002")
    assert file.name == "us@0002.nrrd"
    assert (sitk.GetArrayFromImage(as_itk(file))[0] == frames[1]).all()
    grid = read_image(store.get_image_uri("us@0002"), 2).grid
    assert read_image(file, 2).grid.affine == pytest.approx(grid.affine)


def test_a_new_series_is_noticed(study: Path) -> None:
    store = opened(study, watch=True)
    try:
        made = save_series(study.parent / "elsewhere", [0, 2])
        for file in made.iterdir():
            file.rename(file.with_suffix(""))
        made.rename(study / "p2")
        time.sleep(0.1)
        for _ in until(20):
            if "p2" in store.list_images():
                break
        assert "p2" in store.list_images()
    finally:
        store._observer.stop()


def test_a_name_in_the_list_leads_to_nothing_outside(study: Path) -> None:
    store = opened(study)
    with store.transaction() as model:
        model.objects["p1_ct"].image.info["name"] = "../../etc"
    assert Path(store.get_image_uri("p1_ct")).parent == study


def test_client_gets_the_shown_channel_of_a_4d_nifti(tmp_path: Path) -> None:
    task = TASK.model_copy(update={"image": ImageSection(channels=["T1", "T2"], sam_channel="T2")})  # type: ignore[arg-type]
    (tmp_path / "study").mkdir()
    volumes = np.stack([np.zeros((4, 5, 6)), np.arange(120.0).reshape(4, 5, 6)], axis=-1).astype(np.float32)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(volumes, affine), tmp_path / "study" / "a.nii.gz")  # type: ignore[no-untyped-call]
    store = StudyFolderDatastore(tmp_path / "study", images=ImageRules.of(task), labels=LabelRules(task))
    assert store.list_images() == ["a"]
    image = read_image(store.get_image_uri("a"), 3)
    assert image.pixels.shape == (2, 6, 5, 4)
    file = store.viewer_file("a")
    assert file.name == "a.nii.gz" and store.get_image_info("a")["path"] == str(file)
    assert (sitk.GetArrayFromImage(as_itk(file)) == volumes[..., 1].T).all()
    assert read_image(file, 3).grid.affine == pytest.approx(image.grid.affine)
    store.remove_image("a")
    assert not (tmp_path / "study" / "a.nii.gz").exists()


def test_channels_in_files_are_kept_by_a_restart(tmp_path: Path) -> None:
    task = TASK.model_copy(update={"image": ImageSection(channels=["T1", "T2"], sam_channel="T2")})  # type: ignore[arg-type]
    (tmp_path / "study" / "p1").mkdir(parents=True)
    for name in ("T1", "T2"):
        save_series(tmp_path / "study" / "p1" / name, [0, 2], SeriesDescription=name, SeriesInstanceUID=generate_uid())
    store = StudyFolderDatastore(tmp_path / "study", images=ImageRules.of(task), labels=LabelRules(task))
    path = store.get_image_uri("p1")
    assert read_image(path, 3).pixels.shape == (2, 2, 3, 4)
    assert store.viewer_file("p1").name == "p1.nii.gz"
    store.close()
    again = StudyFolderDatastore(tmp_path / "study", images=ImageRules.of(task), labels=LabelRules(task))
    assert again.list_images() == ["p1"] and again.get_image_uri("p1") == path
    with pytest.raises(Conflict, match="has several files"):
        again.remove_image("p1")
    with again.transaction() as model:
        model.objects["p1"].image.info["name"] = "p1/{T1,../../../etc}"
    assert "etc" not in again.get_image_uri("p1")


def test_problems_of_images_have_no_paths(study: Path, tmp_path: Path) -> None:
    (study / "p1" / "ct" / "1.dcm").unlink()
    save_series(study / "p1" / "cut", [0, 2, 4], SeriesInstanceUID=generate_uid())
    whole = (study / "p1" / "cut" / "1.dcm").read_bytes()
    (study / "p1" / "cut" / "1.dcm").write_bytes(whole[:-8])
    check = ImageCheck(tmp_path / "state.sqlite", 3)
    store = StudyFolderDatastore(study, images=ImageRules.of(TASK, check), labels=LabelRules(TASK))
    # Two slices are always evenly spaced.
    assert store.image_problem("p1_ct") is None
    save(study / "p1" / "ct" / "9.dcm", PLANE, ImagePositionPatient=[0, 0, 6], InstanceNumber=9)
    assert str(store.image_problem("p1_ct")).startswith("ct: slices are missing, doubled or unevenly spaced: 0.dcm and")
    assert str(store.image_problem("p1_cut")).startswith("cut/1.dcm: no image of this folder's series, or corrupt")


def test_client_gets_the_shown_channel_with_the_voxels_of_the_first(tmp_path: Path) -> None:
    """Points of a client are voxels of its image, and those of the case are the first channel's."""
    task = TASK.model_copy(update={"image": ImageSection(channels=["T1", "T2"], sam_channel="T2")})  # type: ignore[arg-type]
    for name, step in (("T1", 1.0), ("T2", 2.0)):
        (tmp_path / "study" / "p1").mkdir(parents=True, exist_ok=True)
        save_series(
            tmp_path / "study" / "p1" / name, [step * index for index in range(int(6 / step) + 1)],
            SeriesDescription=name, SeriesInstanceUID=generate_uid(),
        )  # fmt: skip
    store = StudyFolderDatastore(tmp_path / "study", images=ImageRules.of(task), labels=LabelRules(task))
    case, shown = read_image(store.get_image_uri("p1"), 3), read_image(store.viewer_file("p1"), 3)
    assert shown.grid.shape == case.grid.shape == (7, 3, 4)
    assert shown.grid.affine == pytest.approx(case.grid.affine) and shown.pixels[0] == pytest.approx(case.pixels[1])
