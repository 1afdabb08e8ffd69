"""NIfTI headers: both transforms, codes, units, and files with wrong names, compared with nibabel and ITK."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.task import Task
from support.nifti_files import place_by_itk, save_raw_nifti

SOLID = Task(name="solid", dimension=3, structures=["alpha", "beta"], student={"size": (16, 16, 16)})
SFORM = np.array([[1.0, 0, 0, 10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
QFORM = np.array([[-1.0, 0, 0, 12], [0, 2, 0, 23], [0, 0, 3, 25], [0, 0, 0, 1]])
VALUES = np.random.default_rng(1).integers(0, 3, (4, 5, 6)).astype(np.uint8)


@pytest.mark.parametrize("sform", range(5))
@pytest.mark.parametrize("qform", range(5))
def test_nibabel_uses_the_sform_and_itk_usually_the_qform(tmp_path: Path, sform: int, qform: int) -> None:
    path = save_raw_nifti(tmp_path / "a.nii", VALUES, SFORM, QFORM, codes=(sform, qform))
    image = read_image(path)
    grid = image.grid
    assert grid.affine == pytest.approx(nibabel.load(path).affine)
    assert grid.itk_affine == pytest.approx(place_by_itk(path))
    default = np.diag([-1.0, -2, 3, 1])  # without codes only the spacing counts
    expected = SFORM if sform and (sform == 1 or not qform) else QFORM if qform else default
    assert grid.itk_affine == pytest.approx(expected, abs=1e-5)
    assert bool(image.notes) == bool(sform and expected is QFORM)  # doctor says that the readers differ


@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 1), (2, 1), (0, 0)])
@pytest.mark.parametrize(("unit", "scale"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (3 + 8, 0.001), (7, 1)])
def test_units_become_mm(tmp_path: Path, codes: tuple[int, int], unit: int, scale: float) -> None:
    path = save_raw_nifti(tmp_path / "a.nii", VALUES, SFORM, QFORM, codes=codes, unit=unit)
    grid = read_image(path).grid
    assert grid.spacing == pytest.approx((3 * scale, 2 * scale, scale))
    assert grid.itk_affine == pytest.approx(place_by_itk(path))
    masks = np.stack([grid.from_file(VALUES) == value for value in (1, 2)])
    for extension in (".nii", ".nii.gz"):
        label = tmp_path / f"label{extension}"
        write_masks(label, masks, SOLID, grid)
        ours, theirs = nibabel.load(label).header, nibabel.load(path).header
        for field in ("xyzt_units", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "pixdim"):
            assert ours[field].tobytes() == theirs[field].tobytes(), field
        assert (read_masks(label, SOLID, grid) == masks).all()
    write_masks(tmp_path / "label.nrrd", masks, SOLID, grid)
    assert place_by_itk(tmp_path / "label.nrrd") == pytest.approx(place_by_itk(path))


NAN = float("nan")


@pytest.mark.parametrize(
    ("codes", "fields", "expected"),
    [
        ((1, 1), {"srow_x": [0, 0, 0, 0]}, QFORM),
        ((2, 1), {"srow_x": [NAN] * 4}, QFORM),
        ((2, 1), {"srow_z": [1, 0, 0, 0]}, QFORM),
        ((2, 1), {"quatern_b": NAN}, SFORM),
        ((2, 1), {"quatern_b": 1.0, "quatern_c": 0.9}, SFORM),
        ((2, 0), {"pixdim": [0, 1, 2, 3, 1, 1, 1, 1]}, SFORM),
    ],
)
def test_invalid_transform_is_replaced_by_the_other(
    tmp_path: Path, codes: tuple[int, int], fields: dict[str, Any], expected: Any
) -> None:
    path = save_raw_nifti(tmp_path / "a.nii", VALUES, SFORM, QFORM, codes=codes, **fields)
    grid = read_image(path).grid
    assert grid.affine == pytest.approx(expected, abs=1e-5)
    masks = np.stack([grid.from_file(VALUES) == value for value in (1, 2)])
    write_masks(tmp_path / "label.nii", masks, SOLID, grid)
    ours, theirs = nibabel.load(tmp_path / "label.nii").header, nibabel.load(path).header
    for field in ("srow_x", "srow_z", "quatern_b", "sform_code", "qform_code"):
        assert ours[field].tobytes() == theirs[field].tobytes(), field
    assert (read_masks(tmp_path / "label.nii", SOLID, grid) == masks).all()


@pytest.mark.parametrize(
    ("codes", "fields", "message"),
    [
        ((2, 0), {"srow_x": [0, 0, 0, 0]}, r"a\.nii: neither sform nor qform is set and has an inverse \(sform_code 2"),
        ((2, 0), {"srow_x": [NAN] * 4}, "neither sform nor qform is set and has an inverse"),
        ((0, 1), {"quatern_b": NAN}, "neither sform nor qform"),
        ((0, 1), {"quatern_b": 1.0, "quatern_c": 0.9}, r"a\.nii: its NIfTI header cannot be used"),
        ((0, 0), {"pixdim": [1, NAN, 2, 3, 1, 1, 1, 1]}, r"its voxel sizes \(pixdim\) cannot be used: \[nan, 2"),
    ],
)
def test_invalid_transforms_are_refused(
    tmp_path: Path, codes: tuple[int, int], fields: dict[str, Any], message: str
) -> None:
    path = save_raw_nifti(tmp_path / "a.nii", VALUES, SFORM, QFORM, codes=codes, **fields)
    with pytest.raises(UserError, match=message):
        read_image(path)


def test_left_handed_quaternion_is_read(tmp_path: Path) -> None:
    mirrored = QFORM * [1, 1, -1, 1]
    path = save_raw_nifti(tmp_path / "a.nii", VALUES, SFORM, mirrored, codes=(0, 2))
    assert np.linalg.det(mirrored) * np.linalg.det(QFORM) < 0
    grid = read_image(path).grid
    assert grid.affine == pytest.approx(mirrored, abs=1e-5)
    assert grid.itk_affine == pytest.approx(mirrored, abs=1e-5)


def test_sheared_image_has_the_position_of_nibabel(tmp_path: Path) -> None:
    sheared = SFORM.copy()
    sheared[0, 1] = 0.5
    path = save_raw_nifti(tmp_path / "a.nii", VALUES, sheared, QFORM, codes=(1, 0))
    with pytest.raises(RuntimeError, match="orthonormal"):
        place_by_itk(path)
    grid = read_image(path).grid
    masks = np.stack([grid.from_file(VALUES) == value for value in (1, 2)])
    for extension in (".seg.nrrd", ".nrrd", ".nii.gz"):
        write_masks(tmp_path / f"label{extension}", masks, SOLID, grid)
        assert (read_masks(tmp_path / f"label{extension}", SOLID, grid) == masks).all()
        assert read_image(tmp_path / f"label{extension}").grid.affine == pytest.approx(sheared, abs=1e-6)


def test_voxels_in_nanometres_are_read(tmp_path: Path) -> None:
    path = save_raw_nifti(tmp_path / "a.nii", VALUES, SFORM / 250, QFORM / 250 * [1, 1, 1, 250], unit=3)
    assert read_image(path).grid.spacing == pytest.approx((12e-6, 8e-6, 4e-6))


# What lies under which name


def test_format_is_identified_by_content(tmp_path: Path) -> None:
    packed = save_raw_nifti(tmp_path / "a.nii.gz", VALUES, SFORM, SFORM)
    for name in ("gzip_inside.nii", "UPPER.NII.GZ", "no_extension"):
        (tmp_path / name).write_bytes(packed.read_bytes())
    for name in ("not_packed.nii.gz", "UPPER.NII", "plain"):
        (tmp_path / name).write_bytes(gzip.decompress(packed.read_bytes()))
    save_raw_nifti(tmp_path / "big_endian.nii", VALUES.astype(np.int16), SFORM, SFORM, order=">")
    nibabel.save(nibabel.Nifti2Image(VALUES.T, SFORM), tmp_path / "version2.nii")
    nibabel.save(nibabel.Nifti2Image(VALUES.T, SFORM), tmp_path / "version2.nii.gz")
    for path in tmp_path.iterdir():
        image = read_image(path)
        assert (image.grid.to_file(image.pixels[0]) == VALUES).all(), path
        assert image.grid.affine == pytest.approx(SFORM), path
        masks = read_masks(path, SOLID, image.grid)
        assert (masks[1] == image.grid.from_file(VALUES == 2)).all(), path


def test_other_nifti_variants_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(VALUES.T, np.eye(4)), tmp_path / "analyze.hdr")
    nibabel.save(nibabel.Nifti1Pair(VALUES.T, np.eye(4)), tmp_path / "pair.hdr")
    for name in ("analyze.hdr", "analyze.img", "pair.hdr", "pair.img"):
        with pytest.raises(
            UserError, match=r"Analyze, or NIfTI in two files \(\.hdr and \.img\); save it as one \.nii"
        ):
            read_image(tmp_path / name)
    (tmp_path / "pair.nii").write_bytes((tmp_path / "pair.hdr").read_bytes() + bytes(4))
    with pytest.raises(UserError, match="its pixels are in another file"):
        read_image(tmp_path / "pair.nii")
    (tmp_path / "analyze.nii").write_bytes((tmp_path / "analyze.hdr").read_bytes())
    (tmp_path / "zeros.nii.gz").write_bytes(gzip.compress(bytes(1000)))
    for name in ("analyze.nii", "zeros.nii.gz"):
        with pytest.raises(UserError, match=r"has no NIfTI header \(Analyze, or something else\); save it as NIfTI"):
            read_image(tmp_path / name)


def test_colour_file_is_not_a_label(tmp_path: Path) -> None:
    colours = np.zeros((6, 5, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"] = VALUES.T
    nibabel.save(nibabel.Nifti1Image(colours, SFORM), tmp_path / "a.nii")
    grid = read_image(tmp_path / "a.nii").grid
    with pytest.raises(UserError, match="3 channels without names; expected a label map of one"):
        read_masks(tmp_path / "a.nii", SOLID, grid)
