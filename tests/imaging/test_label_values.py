"""Label values: whole numbers, also where they were stored as floats, in every format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.grid import Grid
from samstudent.imaging.label_writing import label_map
from samstudent.imaging.labels import read_masks, stored_values
from samstudent.task import load_task
from support.label_files import FLAT, NAMES, PLAIN_GRID, SOLID, disjoint, save_segments


def save_floats(path: Path, values: NDArray[Any]) -> Path:
    """A volume (z, y, x) of floats, or its first slice as TIFF."""
    if path.name.endswith(".tif"):
        tifffile.imwrite(path, values[0], metadata=None)
    elif ".nii" in path.name:
        nibabel.save(nibabel.Nifti1Image(values.T, np.diag([-1.0, -1, 1, 1])), path)
    elif path.name.endswith(".seg.nrrd"):
        fields = {"Segment0_Name": NAMES[0], "Segment0_LabelValue": "1", "Segment0_Layer": "0"}
        fields |= {"Segment1_Name": NAMES[1], "Segment1_LabelValue": "2", "Segment1_Layer": "0"}
        save_segments(path, values, fields)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".seg.nrrd", ".tif"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("off", [0.0, 1e-7, -1e-7, 5e-5, -9e-4, 1e-3])
def test_nearly_whole_values_are_rounded(tmp_path: Path, extension: str, dtype: Any, off: float) -> None:
    values = np.zeros((1, 6, 8))
    values[0, 1, 2:5], values[0, 4, 1:3] = 1, 2
    path = save_floats(tmp_path / f"a{extension}", np.where(values > 0, values + off, off / 2).astype(dtype))
    masks = read_masks(path, FLAT, PLAIN_GRID)
    assert (masks[0] == (values[0] == 1)).all() and (masks[1] == (values[0] == 2)).all()
    if extension != ".seg.nrrd":
        assert stored_values(path)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".seg.nrrd", ".tif"])
@pytest.mark.parametrize("value", [2.0235, 0.998, -0.5, np.nan, np.inf, -np.inf, 1e300])
def test_other_values_are_refused(tmp_path: Path, extension: str, value: float) -> None:
    values = np.zeros((1, 6, 8))
    values[0, 1, 2] = value
    path = save_floats(tmp_path / f"a{extension}", values)
    for read in (lambda: read_masks(path, FLAT, PLAIN_GRID), lambda: stored_values(path)):
        with pytest.raises(UserError, match=rf"a{extension}: value {re.escape(str(value))} is no structure"):
            read()


@pytest.mark.parametrize("slope", [1 / 3, 0.1, 1 / 7])
def test_scaled_values_are_rounded(tmp_path: Path, slope: float) -> None:
    masks = disjoint((4, 3, 2))
    stored = (label_map(masks).T / slope).round().astype(np.int16)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(slope, 0)
    nibabel.save(image, tmp_path / "a.nii")
    assert (read_masks(tmp_path / "a.nii", SOLID, Grid.of((4, 3, 2), np.eye(4))) == masks).all()


@pytest.mark.parametrize("name", ["n_float_0.9999999", "n_float_1.00005", "n_slope_third"])
def test_nearly_whole_values_of_shared_cases(name: str) -> None:
    cases = Path(__file__).resolve().parents[2] / "shared" / "cases"
    if not cases.is_dir():
        pytest.skip(f"inputs of issue 18 are not here: {cases}")
    task = load_task(str(cases / "vol.yaml"))
    image = read_image(cases / name / "a.nii.gz")
    label = next((cases / name / "labels" / "final").iterdir())
    # nibabel reads the label's values; both files have one affine.
    values = np.asarray(nibabel.load(label).dataobj).round().T
    file = np.moveaxis(image.grid.to_file(read_masks(label, task, image.grid)), 0, -1)
    assert (file[..., 0] == (values == 1)).all() and (file[..., 1] == (values == 2)).all() and file.any()
