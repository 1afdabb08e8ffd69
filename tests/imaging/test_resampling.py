"""Labels on the grid of their image, written by nibabel, ITK and pynrrd, over synthetic geometries."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.grid import Grid
from samstudent.imaging.label_writing import label_map, write_masks
from samstudent.imaging.labels import read_masks
from samstudent.task import Task
from support.nifti_files import place_by_itk, save_raw_nifti

SOLID = Task(name="solid", dimension=3, structures=["alpha", "beta"], student={"size": (16, 16, 16)})
DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
TURNS = [np.eye(3)[:, list(order)] * signs for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


@dataclass
class Sample:
    """Image and label as an array of the image's file."""

    values: NDArray[Any]
    sform: NDArray[Any]
    qform: NDArray[Any]
    codes: tuple[int, int]
    unit: int
    dtype: str

    def save(self, folder: Path, extension: str = ".nii.gz") -> Path:
        noise = np.random.default_rng(0).integers(0, 100, self.values.shape).astype(np.int16)
        return save_raw_nifti(
            folder / f"image{extension}", noise, self.sform, self.qform, codes=self.codes, unit=self.unit
        )


@st.composite
def affines(draw: st.DrawFn) -> NDArray[Any]:
    """Affines of all 48 orientations, oblique or not, of any position and spacing."""
    affine = np.eye(4)
    oblique = Rotation.from_euler("xyz", draw(st.sampled_from([(0, 0, 0), (20, -10, 35)])), degrees=True).as_matrix()
    spacing = draw(st.lists(st.sampled_from([0.5, 1.0, 2.5]), min_size=3, max_size=3))
    affine[:3, :3] = oblique @ draw(st.sampled_from(TURNS)) * spacing
    affine[:3, 3] = draw(st.lists(st.integers(-30, 30), min_size=3, max_size=3))
    return affine


@st.composite
def samples(draw: st.DrawFn, codes: tuple[tuple[int, int], ...] = ()) -> Sample:
    shape = tuple(draw(st.lists(st.integers(3, 6), min_size=3, max_size=3)))
    sform = draw(affines())
    qform = sform.copy()
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    change = draw(st.sampled_from(["none", "moved", "flipped", "other"]))
    if change == "moved":
        qform[:3, 3] += draw(st.sampled_from([(12, 0, 5), (0.3, -7.7, 40)]))
    elif change == "flipped":  # In place: the same box.
        axis = draw(st.integers(0, 2))
        qform[:3, 3] += qform[:3, axis] * (shape[2 - axis] - 1)
        qform[:3, axis] *= -1
    elif change == "other":
        other = draw(affines())
        qform[:3, :3] = other[:3, :3] / np.linalg.norm(other[:3, :3], axis=0) * spacing
        qform[:3, 3] = other[:3, 3]
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 3, shape)
    return Sample(
        values,
        sform,
        qform,
        draw(st.sampled_from(codes) if codes else st.tuples(st.integers(0, 4), st.integers(0, 4))),
        draw(st.sampled_from([0, 1, 2, 3])),
        draw(st.sampled_from(DTYPES)),
    )


def by_nibabel(drawn: Sample, image: Path, folder: Path, whole_header: bool, slope: float = 1.0) -> Path:
    """With the image's header, both transforms and all; or with the affine that nibabel sees, in whatever unit."""
    source: Any = nibabel.load(image)
    data = (drawn.values.T / slope).astype(drawn.dtype)
    label = nibabel.Nifti1Image(data, source.affine, source.header if whole_header else None, dtype=drawn.dtype)
    label.set_data_dtype(drawn.dtype)
    nibabel.save(label, folder / "label.nii.gz")
    return folder / "label.nii.gz"


def by_itk(drawn: Sample, image: Path, folder: Path, extension: str) -> Path:
    label = sitk.GetImageFromArray(drawn.values.astype(drawn.dtype))
    label.CopyInformation(sitk.ReadImage(str(image)))
    sitk.WriteImage(label, str(folder / f"label{extension}"), useCompression=True)
    return folder / f"label{extension}"


def by_pynrrd(drawn: Sample, image: Path, folder: Path, encoding: str) -> Path:
    """Segments in two layers, the list axis last, the image's place as ITK sees it, in NRRD's other spaces."""
    ras = place_by_itk(image)
    sign, space = {"gzip": ([1, 1, 1], "RAS"), "raw": ([-1, 1, 1], "left-anterior-superior")}.get(
        encoding, ([-1, -1, 1], "left-posterior-superior")
    )
    layers = np.stack([drawn.values.T == 1, drawn.values.T == 2], axis=-1).astype(drawn.dtype)
    header = {
        "space": space,
        "space directions": np.vstack([(np.diag(sign) @ ras[:3, :3]).T, np.full((1, 3), np.nan)]),
        "space origin": sign * ras[:3, 3],
        "kinds": ["domain"] * 3 + ["list"],
        "encoding": encoding,
    }
    for i, name in enumerate(("ALPHA", "Beta ")):
        header |= {f"Segment{i}_ID": f"s{i}", f"Segment{i}_Name": name, f"Segment{i}_Layer": str(i)}
        header[f"Segment{i}_LabelValue"] = "1"
    nrrd.write(str(folder / "label.seg.nrrd"), layers, header)
    return folder / "label.seg.nrrd"


WRITERS = {
    "nibabel, the image's header": lambda d, i, f: by_nibabel(d, i, f, True),
    "nibabel, the affine alone": lambda d, i, f: by_nibabel(d, i, f, False),
    "ITK, NIfTI": lambda d, i, f: by_itk(d, i, f, ".nii.gz"),
    "ITK, NRRD": lambda d, i, f: by_itk(d, i, f, ".nrrd"),
    "pynrrd, gzip": lambda d, i, f: by_pynrrd(d, i, f, "gzip"),
    "pynrrd, raw": lambda d, i, f: by_pynrrd(d, i, f, "raw"),
    "pynrrd, ascii": lambda d, i, f: by_pynrrd(d, i, f, "ascii"),
}


@settings(max_examples=60)
@given(drawn=samples(), writer=st.sampled_from(list(WRITERS)))
def test_label_round_trip_is_lossless(drawn: Sample, writer: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = drawn.save(folder)
        if drawn.dtype in ("u8", "i8") and "ITK, NIfTI" in writer:
            drawn.dtype = "i4"  # ITK writes no 64 bits to NIfTI
        grid = read_image(image).grid
        expected = np.stack([grid.from_file(drawn.values == value) for value in (1, 2)])
        assert (read_masks(WRITERS[writer](drawn, image, folder), SOLID, grid) == expected).all()


@settings(max_examples=30)
@given(drawn=samples(), extension=st.sampled_from([".seg.nrrd", ".nrrd", ".nii", ".nii.gz"]))
def test_written_label_is_aligned_with_the_image_in_each_reader(drawn: Sample, extension: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = drawn.save(folder, ".nii")
        grid = read_image(image).grid
        masks = np.stack([grid.from_file(drawn.values == value) for value in (1, 2)])
        label = folder / f"label{extension}"
        write_masks(label, masks, SOLID, grid)
        assert (sitk.GetArrayFromImage(sitk.ReadImage(str(label))) == drawn.values).all()
        ours, theirs = place_by_itk(label), place_by_itk(image)
        assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-6 * np.abs(theirs).max())
        if extension.startswith(".nii"):
            assert (nibabel.load(label).affine == nibabel.load(image).affine).all()
        assert (read_masks(label, SOLID, grid) == masks).all()


@settings(max_examples=30)
@given(
    drawn=samples(((2, 1), (1, 1), (4, 1), (1, 0), (0, 1))),
    cut=st.lists(st.integers(0, 1), min_size=6, max_size=6),
    by=st.sampled_from(["nibabel", "ITK"]),
)
def test_cropped_label_is_placed_on_the_image(drawn: Sample, cut: list[int], by: str) -> None:
    """If it fits both transforms, the position of the writing library decides."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = drawn.save(folder)
        grid = read_image(image).grid
        parts = tuple(
            slice(start, size - end) for start, end, size in zip(cut[::2], cut[1::2], drawn.values.shape, strict=True)
        )
        kept = np.zeros_like(drawn.values)
        kept[parts] = drawn.values[parts]
        if by == "ITK":
            label = sitk.GetImageFromArray(drawn.values.astype(np.uint8))
            label.CopyInformation(sitk.ReadImage(str(image)))
            sitk.WriteImage(label[parts[2], parts[1], parts[0]], str(folder / "label.nrrd"))
            path = folder / "label.nrrd"
        else:
            source: Any = nibabel.load(image)
            start = source.affine @ [parts[2].start, parts[1].start, parts[0].start, 1]
            affine = np.column_stack([source.affine[:, :3], start])
            cropped = nibabel.Nifti1Image(drawn.values.T[parts[::-1]].astype(np.uint8), affine)
            cropped.header["xyzt_units"] = source.header["xyzt_units"]
            nibabel.save(cropped, folder / "label.nii")
            path = folder / "label.nii"
        expected = np.stack([grid.from_file(kept == value) for value in (1, 2)])
        assert (read_masks(path, SOLID, grid) == expected).all()


@settings(max_examples=20)
@given(drawn=samples(), orientation=st.sampled_from(["LPS", "RAS", "PIR", "ASL"]), by=st.booleans())
def test_reoriented_label_is_mapped_to_the_image(drawn: Sample, orientation: str, by: bool) -> None:
    drawn.qform, drawn.codes = drawn.sform, (2, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = drawn.save(folder)
        grid = read_image(image).grid
        if by:
            label = sitk.ReadImage(str(by_itk(drawn, image, folder, ".nrrd")))
            sitk.WriteImage(sitk.DICOMOrient(label, orientation), str(folder / "turned.nrrd"))
        else:
            turned = nibabel.as_closest_canonical(nibabel.load(by_nibabel(drawn, image, folder, True)))
            nibabel.save(turned, folder / "turned.nii")
        expected = np.stack([grid.from_file(drawn.values == value) for value in (1, 2)])
        assert (read_masks(folder / f"turned.{'nrrd' if by else 'nii'}", SOLID, grid) == expected).all()


@pytest.mark.parametrize(("dtype", "slope"), [("u1", 0.5), ("i2", 0.25), ("i4", 2.0), ("u1", 1.0)])
def test_labels_with_a_slope_are_scaled(tmp_path: Path, dtype: str, slope: float) -> None:
    values = np.random.default_rng(2).integers(0, 2, (3, 4, 5)) * 2
    path = save_raw_nifti(tmp_path / "a.nii", (values / slope).astype(dtype), np.eye(4), np.eye(4), slope=slope)
    grid = read_image(path).grid
    assert (read_masks(path, SOLID, grid)[1] == grid.from_file(values == 2)).all()


def test_ambiguous_position_of_a_label_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sform is the qform mirrored, and the label's finer grid fits both."""
    sform = np.diag([1.0, 1, 1, 1])
    qform = np.diag([-1.0, 1, 1, 1])
    qform[0, 3] = 3
    values = np.random.default_rng(0).integers(0, 3, (4, 4, 4)).astype(np.uint8)
    image = save_raw_nifti(tmp_path / "a.nii", values, sform, qform, codes=(2, 1))
    grid = read_image(image).grid
    fine = sitk.Expand(sitk.ReadImage(str(image)), [2, 2, 2], sitk.sitkNearestNeighbor)
    sitk.WriteImage(fine, str(tmp_path / "label.nrrd"))
    masks = read_masks(tmp_path / "label.nrrd", SOLID, grid)
    assert (masks[1] == grid.from_file(values == 2)).all()
    assert "its place on the image is ambiguous" in caplog.text and "label.nrrd" in caplog.text
    caplog.clear()
    write_masks(tmp_path / "own.nrrd", masks, SOLID, grid)
    assert (read_masks(tmp_path / "own.nrrd", SOLID, grid) == masks).all()
    assert not caplog.text


def test_label_that_matches_no_transform_is_refused(tmp_path: Path) -> None:
    moved = np.eye(4)
    moved[:3, 3] = 50, 0, 0
    values = np.ones((3, 4, 5), np.uint8)
    grid = read_image(save_raw_nifti(tmp_path / "a.nii", values, np.eye(4), moved, codes=(2, 1))).grid
    elsewhere = save_raw_nifti(tmp_path / "b.nii", values, np.eye(4) + np.eye(4, k=3) * 7, moved + np.eye(4, k=3) * 9)
    with pytest.raises(UserError, match=r"b\.nii: has the image's shape \(3, 4, 5\) but another place: its affine is"):
        read_masks(elsewhere, SOLID, grid)


def test_cropped_label_of_an_image_without_codes_is_placed(tmp_path: Path) -> None:
    """Slicer uses ITK's default position for such an image and its cropped segmentation."""
    values = np.zeros((4, 5, 6), np.uint8)
    values[1:3, 2:4, 3:6] = 2
    image = save_raw_nifti(tmp_path / "a.nii", values, np.diag([2.0, 2, 3, 1]), np.diag([2.0, 2, 3, 1]), codes=(0, 0))
    part = sitk.ReadImage(str(image))[3:6, 2:4, 1:3]
    sitk.WriteImage(part, str(tmp_path / "label.nrrd"))
    grid = read_image(image).grid
    assert (read_masks(tmp_path / "label.nrrd", SOLID, grid)[1] == grid.from_file(values == 2)).all()


def test_label_without_codes_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grid = Grid.of((3, 4, 5), np.diag([1.0, 2, 3, 1]))
    values = np.ones((3, 4, 5), np.uint8)
    path = save_raw_nifti(tmp_path / "a.nii", values, np.eye(4), np.eye(4), codes=(0, 0))
    assert label_map(read_masks(path, SOLID, grid)).all()
    assert "a.nii: its sform and qform codes are 0: read voxel by voxel" in caplog.text
    small = save_raw_nifti(tmp_path / "b.nii", values[1:], np.eye(4), np.eye(4), codes=(0, 0))
    with pytest.raises(
        UserError, match=r"shape \(3, 4, 5\); its sform and qform codes are 0, so its place is not defined"
    ):
        read_masks(small, SOLID, grid)
