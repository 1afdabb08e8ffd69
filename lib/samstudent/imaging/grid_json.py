"""Grid of an image as JSON values, for stores that keep decoded images."""

from __future__ import annotations

import base64
from typing import Any

import nibabel
import numpy as np

from samstudent.imaging.grid import Grid


def grid_to_json(grid: Grid) -> dict[str, Any]:
    """All fields of a grid as JSON values; floats keep every bit. Of a NIfTI header its extensions are left out."""
    content: dict[str, Any] = {
        "shape": list(grid.shape),
        "affine": grid.affine.tolist(),
        "dropped": grid.dropped,
        "orientation": grid.orientation,
        "itk": None if grid.itk is None else grid.itk.tolist(),
        "others": [affine.tolist() for affine in grid.others],
    }
    if grid.nifti is not None:
        block = base64.b64encode(grid.nifti.binaryblock).decode()
        content["nifti"] = {"kind": type(grid.nifti).__name__, "order": grid.nifti.endianness, "block": block}
    return content


def grid_from_json(content: dict[str, Any]) -> Grid:
    """Reverse of ``grid_to_json``."""
    nifti = None
    if (stored := content.get("nifti")) is not None:
        kinds: dict[str, Any] = {kind.__name__: kind for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header)}
        kinds["Nifti1PairHeader"] = nibabel.nifti1.Nifti1PairHeader
        nifti = kinds[stored["kind"]](base64.b64decode(stored["block"]), stored["order"], check=False)
    return Grid(
        tuple(content["shape"]),
        np.array(content["affine"], dtype=np.float64),
        content["dropped"],
        nifti,
        content["orientation"],
        None if content["itk"] is None else np.array(content["itk"], dtype=np.float64),
        tuple(np.array(affine, dtype=np.float64) for affine in content["others"]),
    )
