"""Multi-frame DICOM: volumes with known geometry, compared with the same slices in files, and with ITK."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom import geometry_of, read_dicom
from samstudent.imaging.dicom_seg_write import SegDescription, write_seg
from samstudent.imaging.dicom_series import open_series
from samstudent.imaging.folder import list_folder
from samstudent.imaging.labels import read_masks
from samstudent.task import Task
from support.dicom_files import save_series
from support.dicom_frames import item, save_enhanced

FRAMES = (np.arange(4 * 3 * 5).reshape(4, 3, 5) * 7).astype(np.uint16)
POSITIONS = [[-3, -4, 2.0 * index] for index in range(4)]
TASK = Task(name="t", dimension=3, structures={"a": 1, "b": 2}, student={"size": (16, 16, 16)})  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [False, True])
def test_enhanced_mr_is_a_volume(tmp_path: Path, packed: bool) -> None:
    path = save_enhanced(tmp_path / "a.dcm", FRAMES, POSITIONS, packed=packed)
    image = read_image(path, 3)
    assert (image.grid.to_file(image.pixels)[0] == FRAMES).all()
    assert image.grid.spacing == pytest.approx((2, 0.5, 0.25))
    assert image.grid.affine @ [0, 0, 3, 1] == pytest.approx([3, 4, 6, 1])
    shape, affine = geometry_of(path)
    assert shape == (4, 3, 5) and affine == pytest.approx(image.grid.affine)


def test_frames_are_placed_as_by_itk(tmp_path: Path) -> None:
    path = save_enhanced(tmp_path / "a.dcm", FRAMES, POSITIONS)
    expected = sitk.ReadImage(str(path))
    stored = read_dicom(path)
    assert (stored.pixels == sitk.GetArrayFromImage(expected)).all()
    for ijk in ((0, 0, 0), (4, 2, 3)):
        x, y, z = expected.TransformIndexToPhysicalPoint(ijk)
        assert stored.affine @ [*ijk, 1] == pytest.approx([-x, -y, z, 1])


def test_frames_in_any_order_are_sorted_by_position(tmp_path: Path) -> None:
    order = [2, 0, 3, 1]
    path = save_enhanced(tmp_path / "a.dcm", FRAMES[order], [POSITIONS[index] for index in order])
    image = read_image(path, 3)
    assert (image.grid.to_file(image.pixels)[0] == FRAMES).all()


def test_each_frame_has_its_own_rescale_and_window(tmp_path: Path) -> None:
    windows = [{"FrameVOILUTSequence": item(WindowCenter=40.5, WindowWidth=101)}] * 4
    path = save_enhanced(tmp_path / "a.dcm", FRAMES, POSITIONS, ct=True, per_frame=windows)
    image = read_image(path, 3)
    expected = FRAMES * 2.0 - 1024 + np.arange(4)[:, None, None]
    assert (image.grid.to_file(image.pixels)[0] == expected).all()
    # The window of 40 HU +- 50 is above all values here, which range from -1024 to -606.
    assert image.window is None and "does not meet its pixels" in image.notes[0]


def test_of_several_echoes_the_first_is_read(tmp_path: Path) -> None:
    frames = np.concatenate([FRAMES, FRAMES + 1000])
    echoes = [{"MREchoSequence": item(EffectiveEchoTime=time)} for time in (10.0,) * 4 + (80.0,) * 4]
    path = save_enhanced(tmp_path / "a.dcm", frames, POSITIONS * 2, per_frame=echoes)
    image = read_image(path, 3)
    assert (image.grid.to_file(image.pixels)[0] == FRAMES).all()
    assert image.notes == (
        "of 2 images at each position (by EffectiveEchoTime) those with 10.0 are taken, 4 are skipped",
    )


def test_a_gap_between_frames_is_named(tmp_path: Path) -> None:
    path = save_enhanced(tmp_path / "a.dcm", FRAMES, [[0, 0, z] for z in (0, 2, 4, 8)])
    with pytest.raises(UserError, match=r"a\.dcm, frame 3 and a\.dcm, frame 4 are 4\.00 mm apart.*1 slice is missing"):
        read_image(path, 3)


def test_frames_that_are_not_all_described_are_refused(tmp_path: Path) -> None:
    path = save_enhanced(tmp_path / "a.dcm", FRAMES, POSITIONS)
    data = pydicom.dcmread(path)
    del data.PerFrameFunctionalGroupsSequence[2:]
    data.save_as(path)
    with pytest.raises(UserError, match="corrupt, describes 2 of its 4 frames"):
        read_image(path, 3)


def test_more_frames_than_pixels_are_refused(tmp_path: Path) -> None:
    path = save_enhanced(tmp_path / "a.dcm", FRAMES, POSITIONS)
    data = pydicom.dcmread(path)
    data.NumberOfFrames = 100_000
    data.save_as(path)
    with pytest.raises(UserError, match="truncated"):
        read_image(path, 3)


def test_multi_frame_file_in_a_folder_is_a_case(tmp_path: Path) -> None:
    (tmp_path / "p1").mkdir()
    save_enhanced(tmp_path / "p1" / "IM1", FRAMES, POSITIONS)
    save_enhanced(tmp_path / "flat.dcm", FRAMES, POSITIONS)
    files = list_folder(tmp_path, dimension=3).files
    assert files == {"flat": tmp_path / "flat.dcm", "p1": tmp_path / "p1"}
    assert read_image(files["p1"], 3).grid.shape == (4, 3, 5)
    assert len(list_folder(tmp_path, dimension=2).files) == 8  # each frame


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_dicom_seg_refers_to_the_frames(tmp_path: Path, order: list[int]) -> None:
    path = save_enhanced(tmp_path / "a.dcm", FRAMES[order], [POSITIONS[index] for index in order])
    grid = read_image(path, 3).grid
    masks = np.zeros((2, *grid.spatial_shape), bool)
    masks[0, 1:3, 1, 1:4], masks[1, 3, 0, 0] = True, True
    seg = write_seg(tmp_path / "seg.dcm", masks, TASK, grid, path, SegDescription("test", "AUTOMATIC"))
    assert (read_masks(tmp_path / "seg.dcm", TASK, grid) == masks).all()
    source = pydicom.dcmread(path)
    (instance,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID
    groups = source.PerFrameFunctionalGroupsSequence
    heights = [float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in groups]
    for frame in highdicom.seg.segread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        height = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        assert heights[int(reference.ReferencedFrameNumber) - 1] == height


def test_geometry_is_that_of_the_slices_in_files(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 2, 4], lateral=0.3)
    headers = [one.header for one in open_series(folder).slices]
    frames = np.stack([pydicom.dcmread(one.path).pixel_array for one in open_series(folder).slices])
    path = save_enhanced(tmp_path / "a.dcm", frames, [header.ImagePositionPatient for header in headers])
    one, other = read_image(path, 3), read_image(folder, 3)
    assert (one.pixels == other.pixels).all() and one.grid.affine == pytest.approx(other.grid.affine)
