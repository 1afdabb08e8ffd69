"""Grids as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from samstudent.imaging.case import read_image
from samstudent.imaging.grid import Grid
from samstudent.imaging.grid_json import grid_from_json, grid_to_json


def there_and_back(grid: Grid) -> Grid:
    return grid_from_json(json.loads(json.dumps(grid_to_json(grid))))


def test_json_round_trip_of_a_grid_is_exact() -> None:
    affine = np.diag([0.1, 1 / 3, 2.0, 1.0])
    grid = Grid.of((4, 5, 6), affine, itk=2 * affine, others=(3 * affine,))
    found = there_and_back(grid)
    assert found.shape == grid.shape and (found.affine == affine).all() and found.spacing == grid.spacing
    assert found.itk is not None and (found.itk == 2 * affine).all() and (found.others[0] == 3 * affine).all()


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_json_includes_the_nifti_header(tmp_path: Path, kind: type) -> None:
    image = kind(np.zeros((6, 5, 4), np.int16), np.diag([-1.0, 2.0, 3.0, 1.0]))
    image.set_qform(np.diag([1.0, 2.0, 3.0, 1.0]), 1)
    nibabel.save(image, tmp_path / "image.nii.gz")
    grid = read_image(tmp_path / "image.nii.gz").grid
    found = there_and_back(grid)
    assert found.nifti.binaryblock == grid.nifti.binaryblock and type(found.nifti) is type(grid.nifti)
    pixels = np.arange(120.0).reshape(found.shape)
    assert (found.from_file(pixels) == grid.from_file(pixels)).all()
