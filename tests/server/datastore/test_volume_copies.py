"""Straight copies of a tilted CT for viewers, and labels on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from samstudent.imaging.dicom import geometry_of, read_dicom
from samstudent.imaging.grid import Grid
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.imaging.perpendicular import is_tilted, upright
from samstudent.imaging.resampling import to_grid
from samstudent.server.datastore.volume_copies import save_for_viewer
from samstudent.task import Task
from support.dicom_files import save

TASK = Task.model_validate(
    {"name": "t", "dimension": 3, "structures": ["a", "b"], "overlap": True, "student": {"size": [32, 32, 32]}}
)


def series(folder: Path, tilt: float, turn: bool = False) -> Path:
    """Six slices with a ball, 3 mm apart and moved by ``tilt`` mm each along their columns."""
    folder.mkdir()
    rows, columns = ([1, 0, 0], [0, 1, 0]) if not turn else ([0, 1, 0], [0, 0, -1])
    normal = np.cross(rows, columns)
    for k in range(6):
        place = np.array([5.0, -7, 11]) + k * (3 * normal + tilt * np.array(columns) - 0.3 * tilt * np.array(rows))
        y, x = np.mgrid[:24, :20]
        where = (
            place[:, None, None] + 1.5 * x * np.array(rows)[:, None, None] + 0.5 * y * np.array(columns)[:, None, None]
        )
        save(
            folder / f"{k}.dcm", pixels_at(where).astype(np.uint16), ImagePositionPatient=list(place),
            ImageOrientationPatient=[*rows, *columns], PixelSpacing=[0.5, 1.5],
        )  # fmt: skip
    return folder


def pixels_at(where: np.ndarray) -> np.ndarray:
    """Values at positions (3, ...) in LPS mm: a gradient, so that each position has its own value."""
    return 1000 + 3 * where[0] + 5 * where[1] + 7 * where[2]


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("tilt", [1.1, -0.7, 0.0])
def test_copy_has_the_pixels_at_the_positions_of_itk(tmp_path: Path, tilt: float, turn: bool) -> None:
    stored = read_dicom(series(tmp_path / "s", tilt, turn))
    assert is_tilted(*geometry_of(tmp_path / "s")) == bool(tilt)
    save_for_viewer(stored, tmp_path / "v.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "v.nii.gz"))
    array = sitk.GetArrayFromImage(image)
    inside = 0
    for k, j, i in np.ndindex(array.shape):
        if array[k, j, i] > stored.pixels.min() + 5:
            where = np.array(image.TransformIndexToPhysicalPoint((i, j, k)))
            assert array[k, j, i] == pytest.approx(float(pixels_at(where)), abs=2.5)
            inside += 1
    assert inside > 0.8 * stored.pixels.size


def test_labels_on_the_copy_are_mapped_to_the_image(tmp_path: Path) -> None:
    stored = read_dicom(series(tmp_path / "s", 1.1))
    shown = upright(stored)
    own, grid = Grid.of(stored.shape, stored.affine), Grid.of(shown.shape, shown.affine)
    assert grid.shape[0] == own.shape[0] and grid.shape[1] > own.shape[1]
    masks = np.random.default_rng(0).random((2, *own.spatial_shape)) < 0.5
    in_file = own.to_file(masks)
    moved = to_grid(in_file, type(stored)(in_file[0], own.shape, own.affine), grid, tmp_path)
    for extension in (".seg.nrrd", ".nii.gz"):
        single = moved if extension == ".seg.nrrd" else moved & np.array([True, False])[:, None, None, None]
        path = tmp_path / f"l{extension}"
        write_masks(path, single, TASK, grid)
        assert sitk.ReadImage(str(path)).GetSize() == grid.shape[::-1]
        expected = masks if extension == ".seg.nrrd" else masks & np.array([True, False])[:, None, None, None]
        assert (read_masks(path, TASK, own) == expected).all()


def test_straight_volume_has_no_copy(tmp_path: Path) -> None:
    stored = read_dicom(series(tmp_path / "s", 0.001))
    assert (upright(stored).pixels == stored.pixels).all()
    axes = upright(stored).affine[:3, :3]
    assert axes.T @ axes == pytest.approx(np.diag(np.diag(axes.T @ axes)), abs=1e-9)
