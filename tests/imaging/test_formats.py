"""NRRD headers in all variants, compared with ITK and pynrrd."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.grid import Grid
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.task import Task
from support.nifti_files import place_by_itk

SOLID = Task(name="solid", dimension=3, structures=["alpha", "beta"], student={"size": (16, 16, 16)})
VALUES = np.random.default_rng(1).integers(0, 3, (6, 5, 4)).astype(np.uint8)
MASKS = np.stack([VALUES == 1, VALUES == 2])
#: LPS: (2, 0, 0) (0, 3, 0) (0, 0, 4) from (10, 20, 30).
LPS = "space: LPS\nspace directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)"
AFFINE = np.array([[-2.0, 0, 0, -10], [0, -3, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]])
GRID = Grid.of(VALUES.shape, AFFINE)


def canonical(values: NDArray[Any]) -> NDArray[Any]:
    return np.stack([GRID.from_file(values == value) for value in (1, 2)])


def save(
    path: Path, fields: str, values: NDArray[Any] = VALUES, *, kind: str = "uint8", body: bytes | None = None
) -> Path:
    """Write a NRRD file of (k, j, i) or more axes; ``encoding: raw`` unless ``fields`` contains an encoding."""
    sizes = " ".join(map(str, values.shape[::-1]))
    head = f"NRRD0004\ntype: {kind}\ndimension: {values.ndim}\nsizes: {sizes}\nendian: little\n{fields}\n"
    if "encoding:" not in fields:
        head += "encoding: raw\n"
    path.write_bytes(head.encode() + b"\n" + (values.tobytes() if body is None else body))
    return path


# Where it lies


@pytest.mark.parametrize(
    "fields",
    [
        LPS,
        "space: left-posterior-superior\nspace directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)",
        "space: RAS\nspace directions: (-2,0,0) (0,-3,0) (0,0,4)\nspace origin: (-10,-20,30)",
        "space: left-anterior-superior\nspace directions: (2,0,0) (0,-3,0) (0,0,4)\nspace origin: (10,-20,30)",
        "space dimension: 3\nspace directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)",
        LPS + '\nspace units: "mm" "mm" "mm"',
        LPS + "\ncenters: node node node",
        LPS + "\ncenters: cell cell cell",
    ],
)
def test_nrrd_spaces_are_read(tmp_path: Path, fields: str) -> None:
    path = save(tmp_path / "a.nrrd", fields)
    assert read_image(path).grid.affine == pytest.approx(AFFINE)
    assert place_by_itk(path) == pytest.approx(AFFINE)
    assert (read_masks(path, SOLID, GRID) == canonical(VALUES)).all()


@pytest.mark.parametrize("space", ["space dimension: 3", "space: scanner-xyz", "space: 3D-right-handed"])
def test_space_unknown_to_itk_is_read_as_ras(tmp_path: Path, space: str) -> None:
    """nibabel's affine put into a header by pynrrd."""
    path = save(
        tmp_path / "a.nrrd", f"{space}\nspace directions: (-2,0,0) (0,-3,0) (0,0,4)\nspace origin: (-10,-20,30)"
    )
    assert (read_masks(path, SOLID, GRID) == canonical(VALUES)).all()


@pytest.mark.parametrize(("unit", "scale"), [("um", 0.001), ("cm", 10), ("mm", 1), ("furlong", 1), ("m", 1000)])
def test_units_unknown_to_itk_are_converted(tmp_path: Path, unit: str, scale: float) -> None:
    """The student needs mm; clients that read with ITK need results at the position that ITK reads."""
    path = save(tmp_path / "a.nrrd", f'{LPS}\nspace units: "{unit}" "{unit}" "{unit}"')
    grid = read_image(path).grid
    assert grid.spacing == pytest.approx((4 * scale, 3 * scale, 2 * scale))
    masks = np.stack([grid.from_file(mask) for mask in MASKS])
    for extension in (".nrrd", ".seg.nrrd", ".nii.gz"):
        label = tmp_path / f"label{extension}"
        write_masks(label, masks, SOLID, grid)
        assert place_by_itk(label) == pytest.approx(AFFINE)
        assert (read_masks(label, SOLID, grid) == masks).all()
    assert (read_masks(path, SOLID, grid) == masks).all()


@pytest.mark.parametrize(
    "fields", ["spacings: 2 3 4", "space dimension: 3", "space: LPS", "axis mins: 1 2 3", "kinds: domain domain domain"]
)
def test_file_without_a_space_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: str) -> None:
    path = save(tmp_path / "a.nrrd", fields)
    missing = "space directions" if fields.startswith("space ") or fields == "space: LPS" else "space"
    assert (read_masks(path, SOLID, GRID) == canonical(VALUES)).all()
    assert f"a.nrrd: its NRRD header has no `{missing}` field: read voxel by voxel" in caplog.text
    with pytest.raises(UserError, match=rf"shape \(6, 5, 4\); its NRRD header has no `{missing}` field, so its place"):
        read_masks(save(tmp_path / "b.nrrd", fields, VALUES[1:]), SOLID, GRID)


def test_spacings_without_a_space_are_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nrrd", "spacings: 2 3 4")
    grid = read_image(path).grid
    assert grid.spacing == pytest.approx((4, 3, 2)) and grid.itk_affine == pytest.approx(place_by_itk(path))


# Layers, types, encodings


@pytest.mark.parametrize("axis", range(4))
def test_list_axis_can_be_any_axis(tmp_path: Path, axis: int) -> None:
    """``axis`` counts as NRRD does, the fastest first."""
    layers = np.stack([VALUES == 1, VALUES == 2], axis=3 - axis).astype(np.uint8)
    kinds, directions = ["domain"] * 3, ["(2,0,0)", "(0,3,0)", "(0,0,4)"]
    kinds.insert(axis, "list")
    directions.insert(axis, "none")
    fields = f"kinds: {' '.join(kinds)}\nspace: LPS\nspace directions: {' '.join(directions)}\nspace origin: (10,20,30)"
    names = "".join(f"\nSegment{i}_ID:={n}\nSegment{i}_Name:={n}" for i, n in enumerate(("alpha", "beta")))
    path = save(tmp_path / "a.seg.nrrd", fields + names, layers)
    assert (read_masks(path, SOLID, GRID) == canonical(VALUES)).all()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("int8", "i1"), ("short", "<i2"), ("uint16", "<u2"), ("int", "<i4"), ("unsigned int", "<u4"),
     ("longlong", "<i8"), ("uint64", "<u8"), ("float", "<f4"), ("double", "<f8")],
)  # fmt: skip
def test_value_types_of_both_endiannesses_are_read(tmp_path: Path, kind: str, dtype: str) -> None:
    path = save(tmp_path / "a.nrrd", LPS, VALUES.astype(dtype), kind=kind)
    assert (read_masks(path, SOLID, GRID) == canonical(VALUES)).all()
    big = save(tmp_path / "b.nrrd", LPS, VALUES.astype(dtype.replace("<", ">")), kind=kind)
    big.write_bytes(big.read_bytes().replace(b"endian: little", b"endian: big"))
    assert (read_masks(big, SOLID, GRID) == canonical(VALUES)).all()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("raw", VALUES.tobytes()),
        # Without the time, which would give the test another name in each process.
        ("gzip", gzip.compress(VALUES.tobytes(), mtime=0)),
        ("gz", gzip.compress(VALUES.tobytes(), mtime=0)),
        ("ascii", " ".join(map(str, VALUES.ravel())).encode()),
        ("text", "\n".join(map(str, VALUES.ravel())).encode()),
        ("hex", VALUES.tobytes().hex().encode()),
    ],
    ids=["raw", "gzip", "gz", "ascii", "text", "hex"],
)
def test_all_encodings_are_read(tmp_path: Path, encoding: str, body: bytes) -> None:
    path = save(tmp_path / "a.nrrd", f"{LPS}\nencoding: {encoding}", body=body)
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) == VALUES).all()
    assert (read_masks(path, SOLID, GRID) == canonical(VALUES)).all()


# What is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("encoding: bzip2", "its encoding is bzip2, which ITK and 3D Slicer do not read; save it as gzip or raw"),
        ("encoding: bz2", "its encoding is bzip2"),
        (
            "space: LPS\nspacings: 2 3 4",
            "has `spacings` beside `space`, which ITK refuses; expected `space directions`",
        ),
        ("data file: b.raw", "its pixels are in another file; save it with an attached header"),
        ("datafile: b.raw", "its pixels are in another file"),
        ("Data File: LIST", "its pixels are in another file"),
        ("data file: a:=b.raw", "its pixels are in another file"),
    ],
)
def test_invalid_headers_are_named(tmp_path: Path, fields: str, message: str) -> None:
    body = bz2.compress(VALUES.tobytes()) if "bz" in fields else None
    for name in ("a.nrrd", "a.nhdr"):
        with pytest.raises(UserError, match=message):
            read_masks(save(tmp_path / name, fields, body=body), SOLID, GRID)


def test_externally_compressed_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nrrd", LPS)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match=r"a\.nrrd: a NRRD file compressed as a whole; decompress it, or save it with"):
        read_masks(path, SOLID, GRID)
    path.write_bytes(path.read_bytes()[:15])
    with pytest.raises(UserError, match=r"a\.nrrd"):
        read_masks(path, SOLID, GRID)


def test_key_value_pairs_are_not_fields(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nrrd", LPS + "\ndata file:=none\nencoding note:=bzip2\n# data file: none")
    assert (read_masks(path, SOLID, GRID) == canonical(VALUES)).all()
