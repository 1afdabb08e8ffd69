"""Label files, written and read by samstudent and by independent software: names, values, other grids."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import apply_orientation, inv_ornt_aff
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import NotFound, UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.grid import LPS_TO_RAS, Grid
from samstudent.imaging.label_writing import label_map, write_masks
from samstudent.imaging.labels import other_names, read_ignore, read_masks, read_rejected
from samstudent.imaging.seg_nrrd import color, into_layers
from samstudent.imaging.structure_names import IGNORE, REJECTED
from samstudent.task import Task
from support.label_files import FLAT, NAMES, PLAIN_GRID, SOLID, disjoint, save_segments


def overlapping(shape: tuple[int, ...]) -> NDArray[Any]:
    """Masks: radius and ulna share pixels, the lunate is separate."""
    masks = np.zeros((3, *shape), dtype=bool)
    masks[0, ..., 0:3], masks[1, ..., 2:4], masks[2, ..., 5] = True, True, True
    return masks


def physical(image: Any, ijk: tuple[int, ...]) -> list[float]:
    """RAS position of a voxel by SimpleITK."""
    x, y, z = image.TransformIndexToPhysicalPoint(ijk)
    return [-x, -y, z]


# What is written lies on the image's grid


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".seg.nrrd"])
@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_all_orientations_round_trip(
    tmp_path: Path, extension: str, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * signs * [0.5, 1, 2]
    affine[:3, 3] = [3, 4, 5]
    grid = Grid.of((4, 3, 2), affine)
    masks = disjoint(grid.spatial_shape)
    path = tmp_path / f"a{extension}"
    write_masks(path, masks, SOLID, grid)
    assert (read_masks(path, SOLID, grid) == masks).all()
    image = sitk.ReadImage(str(path))
    assert (sitk.GetArrayFromImage(image) == grid.to_file(label_map(masks))).all()
    for ijk in ((0, 0, 0), (1, 2, 3)):
        assert physical(image, ijk) == pytest.approx((affine @ [*ijk, 1])[:3], abs=1e-5)


@pytest.mark.parametrize("extension", [".seg.nrrd", ".nrrd", ".nii.gz", ".nii", ".png", ".tif", ".tiff"])
@pytest.mark.parametrize("shape", [(6, 8), (1, 6, 8), (6, 1, 8), (6, 8, 1), (1, 1, 1)])
def test_2d_labels_round_trip(tmp_path: Path, extension: str, shape: tuple[int, ...]) -> None:
    grid = Grid.of(shape, np.diag([-0.2, -0.3, 1, 1]))
    masks = disjoint(grid.spatial_shape)
    path = tmp_path / f"a{extension}"
    write_masks(path, masks, FLAT, grid)
    assert (read_masks(path, FLAT, grid) == masks).all()
    if extension not in (".png", ".tif", ".tiff"):
        image = sitk.ReadImage(str(path))
        assert image.GetSize() == (shape if len(shape) == 3 else (1, *shape))[::-1]
        assert physical(image, (0, 0, 0)) == pytest.approx([0, 0, 0])
    else:
        with Image.open(path) as image:
            assert (np.asarray(image) == label_map(masks)).all()


def test_sheared_geometry_is_preserved(tmp_path: Path) -> None:
    affine = np.array([[1, 0.3, 0, 5], [0, 1.2, 0, 6], [0, 0.1, 2, 7], [0, 0, 0, 1.0]])
    grid = Grid.of((4, 3, 2), affine)
    for extension in (".nii", ".nrrd"):
        path = tmp_path / f"a{extension}"
        write_masks(path, disjoint((4, 3, 2)), SOLID, grid)
        assert read_image(path).grid.affine == pytest.approx(affine, abs=1e-6), extension
    header = nibabel.load(tmp_path / "a.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1), (4, 2), (0, 0)])
def test_both_transforms_of_a_nifti_source_are_preserved(tmp_path: Path, sform: int, qform: int) -> None:
    source = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), None)
    source.header.set_zooms((1.5, 2, 3))
    moved = np.array([[-1.5, 0, 0, 9], [0, 2, 0, 8], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    source.set_sform(moved + np.diag([0, 0, 0.5, 0]), sform)
    source.set_qform(moved, qform)
    nibabel.save(source, tmp_path / "image.nii")
    grid = read_image(tmp_path / "image.nii").grid
    masks = disjoint(grid.spatial_shape)
    write_masks(tmp_path / "label.nii.gz", masks, SOLID, grid)
    image, label = nibabel.load(tmp_path / "image.nii"), nibabel.load(tmp_path / "label.nii.gz")
    assert label.affine == pytest.approx(image.affine)
    assert int(label.header["sform_code"]) == sform and int(label.header["qform_code"]) == qform
    assert label.header.get_zooms() == pytest.approx(image.header.get_zooms())
    assert label.get_qform() == pytest.approx(image.get_qform(), abs=1e-6)
    assert label.get_sform() == pytest.approx(image.get_sform(), abs=1e-6)
    assert label.get_data_dtype() == np.uint8
    assert (read_masks(tmp_path / "label.nii.gz", SOLID, grid) == masks).all()


def test_nrrd_for_ohif_is_uncompressed(tmp_path: Path) -> None:
    grid = Grid.of((1, 6, 8), np.diag([-0.2, -0.2, 1, 1]))
    for extension in (".nrrd", ".seg.nrrd"):
        path = tmp_path / f"a{extension}"
        write_masks(path, disjoint((6, 8)), FLAT, grid, compress=False)
        header = nrrd.read_header(str(path))
        assert header["encoding"] == "raw" and header["type"] in ("uint8", "unsigned char")
        assert list(header["sizes"]) == [8, 6, 1]
        assert path.read_bytes().endswith(label_map(disjoint((6, 8))).tobytes())


def test_unsupported_masks_are_refused_by_the_writer(tmp_path: Path) -> None:
    masks = disjoint((6, 8))
    with pytest.raises(UserError, match="labels are written as"):
        write_masks(tmp_path / "a.jpg", masks, FLAT, PLAIN_GRID)
    with pytest.raises(UserError, match=r"masks of shape \(2, 6, 8\)"):
        write_masks(tmp_path / "a.png", masks[:2], FLAT, PLAIN_GRID)
    with pytest.raises(UserError, match=r"only \.seg\.nrrd"):
        write_masks(tmp_path / "a.png", masks, FLAT, PLAIN_GRID, marked={IGNORE: masks})
    with pytest.raises(UserError, match="a volume needs"):
        write_masks(tmp_path / "a.png", disjoint((4, 3, 2)), SOLID, Grid.of((4, 3, 2), np.eye(4)))
    assert list(tmp_path.iterdir()) == []


# .seg.nrrd


def test_only_overlaps_use_layers(tmp_path: Path) -> None:
    masks = overlapping((6, 8))
    path = tmp_path / "a.seg.nrrd"
    write_masks(path, masks, FLAT, PLAIN_GRID)
    assert (read_masks(path, FLAT, PLAIN_GRID) == masks).all()
    header = nrrd.read_header(str(path))
    assert list(header["sizes"]) == [2, 8, 6, 1] and header["kinds"] == ["list", "domain", "domain", "domain"]
    assert [header[f"Segment{i}_Layer"] for i in range(3)] == ["0", "1", "0"]
    assert [header[f"Segment{i}_LabelValue"] for i in range(3)] == ["1", "2", "3"]
    # Slicer crops a whole layer to the extent of its first segment.
    assert {header[f"Segment{i}_Extent"] for i in range(3)} == {"0 7 0 5 0 0"}
    write_masks(path, disjoint((6, 8)), FLAT, PLAIN_GRID)
    assert list(nrrd.read_header(str(path))["sizes"]) == [8, 6, 1]


def test_an_independent_reader_finds_the_segments(tmp_path: Path) -> None:
    """Like slicerio: layer and value in the header select pixels of the array."""
    masks = overlapping((4, 3, 6))
    grid = Grid.of((4, 3, 6), np.eye(4))
    write_masks(tmp_path / "a.seg.nrrd", masks, SOLID, grid)
    array, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    for i, name in enumerate(NAMES):
        assert header[f"Segment{i}_Name"] == name
        layer = array[int(header[f"Segment{i}_Layer"])]
        assert ((layer == int(header[f"Segment{i}_LabelValue"])).transpose(2, 1, 0) == masks[i]).all()
        assert len([float(part) for part in header[f"Segment{i}_Color"].split()]) == 3


def test_ignored_regions(tmp_path: Path) -> None:
    masks, ignore = overlapping((6, 8)), np.zeros((3, 6, 8), dtype=bool)
    ignore[0, 4:], ignore[2, 3:5] = True, True
    path = tmp_path / "a.seg.nrrd"
    write_masks(path, masks, FLAT, PLAIN_GRID, marked={IGNORE: ignore})
    assert (read_ignore(path, FLAT, PLAIN_GRID) == ignore).all()
    assert (read_masks(path, FLAT, PLAIN_GRID) == masks).all()
    header = nrrd.read_header(str(path))
    assert [header[f"Segment{i}_Name"] for i in range(3, 5)] == ["ignore:radius", "ignore:lunate"]
    assert {header["Segment3_Layer"], header["Segment4_Layer"]} == {"2", "3"}
    write_masks(path, masks, FLAT, PLAIN_GRID)
    assert not read_ignore(path, FLAT, PLAIN_GRID).any()
    write_masks(tmp_path / "a.png", masks, FLAT, PLAIN_GRID)
    assert not read_ignore(tmp_path / "a.png", FLAT, PLAIN_GRID).any()


def test_rejected_masks_are_stored_with_the_others(tmp_path: Path) -> None:
    masks, rejected = overlapping((6, 8)), np.zeros((3, 6, 8), dtype=bool)
    ignore = rejected.copy()
    rejected[2, 3:5, 2:], ignore[2, 2:5] = True, True
    path = tmp_path / "a.seg.nrrd"
    write_masks(path, masks, FLAT, PLAIN_GRID, marked={IGNORE: ignore, REJECTED: rejected})
    assert (read_rejected(path, FLAT, PLAIN_GRID) == rejected).all()
    assert (read_ignore(path, FLAT, PLAIN_GRID) == ignore).all()
    assert (read_masks(path, FLAT, PLAIN_GRID) == masks).all()
    with pytest.raises(UserError, match=r"only \.seg\.nrrd"):
        write_masks(tmp_path / "a.png", masks, FLAT, PLAIN_GRID, marked={REJECTED: rejected})


def test_absent_structures_and_empty_labels_round_trip(tmp_path: Path) -> None:
    for extension in (".seg.nrrd", ".nii.gz", ".png"):
        write_masks(tmp_path / f"a{extension}", np.zeros((3, 6, 8), dtype=bool), FLAT, PLAIN_GRID)
        assert not read_masks(tmp_path / f"a{extension}", FLAT, PLAIN_GRID).any()


def test_segments_are_identified_by_name(tmp_path: Path) -> None:
    masks = disjoint((6, 8))
    array = (masks[0] * 7 + masks[1] * 3 + masks[2] * 9).astype(np.uint8)[None]
    fields = {}
    for i, (name, value) in enumerate([("lunate", 9), ("Segment_1", 1), ("radius", 7), ("ulna", 3)]):
        fields |= {f"Segment{i}_ID": f"S_{i}", f"Segment{i}_Name": name, f"Segment{i}_Layer": "0"}
        fields[f"Segment{i}_LabelValue"] = str(value)
    path = save_segments(tmp_path / "a.seg.nrrd", array, fields)
    assert (read_masks(path, FLAT, PLAIN_GRID, names=["ulna", "radius"]) == masks).all()


def test_files_without_layer_and_value_are_read(tmp_path: Path) -> None:
    """Like MONAI Label's own writer: one frame for each segment, with ID and name only."""
    masks = overlapping((6, 8))
    array = np.moveaxis(masks[::-1, None].astype(np.uint8), 0, -1)
    fields = {f"Segment{i}_{key}": name for i, name in enumerate(NAMES[::-1]) for key in ("ID", "Name")}
    assert (read_masks(save_segments(tmp_path / "a.seg.nrrd", array, fields), FLAT, PLAIN_GRID) == masks).all()


def test_slicers_empty_segmentation_is_one_voxel(tmp_path: Path) -> None:
    fields = {"Segment0_ID": "radius", "Segment0_Name": "radius", "Segment0_Layer": "0", "Segment0_LabelValue": "1"}
    path = save_segments(tmp_path / "a.seg.nrrd", np.zeros((1, 1, 1), np.uint8), fields)
    assert not read_masks(path, FLAT, PLAIN_GRID).any()
    assert not read_masks(path, SOLID, Grid.of((4, 3, 2), np.eye(4))).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Segment0_ID": "radius", "Segment0_Layer": "2"}, "layer 2, but the file has 1"),
        ({"Segment0_ID": "radius", "Segment0_Layer": "x"}, "must be whole numbers"),
        ({"Segment0_ID": "Segment_1", "Segment0_Layer": "0"}, r"none of its structures \['Segment_1'\]"),
    ],
)
def test_invalid_segments_are_refused(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    path = save_segments(tmp_path / "a.seg.nrrd", np.ones((1, 6, 8), np.uint8), fields)
    with pytest.raises(UserError, match=message):
        read_masks(path, FLAT, PLAIN_GRID)


def test_label_map_with_the_extension_of_a_segmentation_is_read(tmp_path: Path) -> None:
    """Slicer's MONAI Label module writes this when overlaps are switched off."""
    masks = disjoint((6, 8))
    path = save_segments(tmp_path / "a.seg.nrrd", label_map(masks)[None], {})
    assert (read_masks(path, FLAT, PLAIN_GRID, names=["lunate", "ulna", "radius"]) == masks[::-1]).all()


# Label maps


def save_map(path: Path, values: NDArray[Any]) -> Path:
    Image.fromarray(values).save(path)
    return path


def test_values_are_read_by_the_names_of_the_client(tmp_path: Path) -> None:
    masks = disjoint((6, 8))
    path = save_map(tmp_path / "a.png", label_map(masks))
    assert (read_masks(path, FLAT, PLAIN_GRID) == masks).all()
    read = read_masks(path, FLAT, PLAIN_GRID, names=["lunate", "cyst", "radius"])
    assert (read[0] == masks[2]).all() and not read[1].any() and (read[2] == masks[0]).all()
    read = read_masks(path, FLAT, PLAIN_GRID, names=["RADIUS ", "Ulna", "lunate bone"])
    assert (read[0] == masks[0]).all() and (read[1] == masks[1]).all() and not read[2].any()


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        (np.full((6, 8), 4, np.uint8), None, r"a\.tif: value 4 is no structure; .* 0 to 3"),
        (np.full((6, 8), 255, np.uint8), None, "value 255"),
        (np.full((6, 8), 2, np.uint8), ["radius"], "value 2 .* 0 to 1"),
        (np.full((6, 8), 1.5, np.float32), None, "value 1.5"),
        (np.full((6, 8), np.nan, np.float32), None, "value nan"),
        (np.full((6, 8), -1, np.int32), None, "value -1"),
        (np.full((6, 8), 1, np.uint8), ["cyst"], r"none of its structures \['cyst'\]"),
        (np.full((6, 8), 1, np.uint8), ["", "radius"], r"value 1 has no name; named are \['radius'\]"),
    ],
)
def test_undefined_values_are_refused(
    tmp_path: Path, values: NDArray[Any], names: list[str] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_masks(save_map(tmp_path / "a.tif", values), FLAT, PLAIN_GRID, names=names)


def test_bit_masks_are_read(tmp_path: Path) -> None:
    masks = overlapping((6, 8))
    values = (masks[0] * 1 + masks[1] * 2 + masks[2] * 4).astype(np.uint8)
    path = save_map(tmp_path / "a.png", values)
    assert (read_masks(path, FLAT, PLAIN_GRID, bits=True) == masks).all()
    with pytest.raises(UserError, match=r"value 8 .* 0 to 7"):
        read_masks(save_map(tmp_path / "b.png", np.full((6, 8), 8, np.uint8)), FLAT, PLAIN_GRID, bits=True)


def test_floats_that_are_whole_are_values(tmp_path: Path) -> None:
    masks = disjoint((4, 3, 2))
    nibabel.save(nibabel.Nifti1Image(label_map(masks).T.astype(np.float64), np.eye(4)), tmp_path / "a.nii")
    assert (read_masks(tmp_path / "a.nii", SOLID, Grid.of((4, 3, 2), np.eye(4))) == masks).all()


@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_palette_index_is_the_value(tmp_path: Path, extension: str) -> None:
    masks = disjoint((6, 8))
    image = Image.fromarray(label_map(masks), mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    image.save(tmp_path / f"a{extension}")
    assert (read_masks(tmp_path / f"a{extension}", FLAT, PLAIN_GRID) == masks).all()


def test_grey_saved_as_colour_and_real_colour(tmp_path: Path) -> None:
    masks = disjoint((6, 8))
    path = save_map(tmp_path / "a.png", np.dstack([label_map(masks)] * 3))
    assert (read_masks(path, FLAT, PLAIN_GRID) == masks).all()
    path = save_map(tmp_path / "b.png", np.dstack([label_map(masks), *[np.zeros((6, 8), np.uint8)] * 2]))
    with pytest.raises(UserError, match="3 channels"):
        read_masks(path, FLAT, PLAIN_GRID)


def test_one_bit_is_the_first_structure(tmp_path: Path) -> None:
    path = save_map(tmp_path / "a.png", disjoint((6, 8))[0])
    assert (read_masks(path, FLAT, PLAIN_GRID)[0] == disjoint((6, 8))[0]).all()


def test_files_that_are_not_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="JPEG changes label values"):
        read_masks(save_map(tmp_path / "a.jpg", np.zeros((6, 8), np.uint8)), FLAT, PLAIN_GRID)
    with pytest.raises(NotFound):
        read_masks(tmp_path / "none.png", FLAT, PLAIN_GRID)
    path = save_map(tmp_path / "a.png", np.random.default_rng(0).integers(0, 4, (60, 80), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"a\.png"):
        read_masks(path, FLAT, PLAIN_GRID)
    (tmp_path / "empty.nii.gz").touch()
    with pytest.raises(UserError, match="empty"):
        read_masks(tmp_path / "empty.nii.gz", FLAT, PLAIN_GRID)


def test_smaller_structure_is_on_top_in_label_maps() -> None:
    masks = np.zeros((3, 6, 8), dtype=bool)
    masks[0, 2, 2], masks[1], masks[2, 1:4, 1:4] = True, True, True
    values = label_map(masks)
    assert values[2, 2] == 1 and values[1, 1] == 3 and values[0, 0] == 2 and values.dtype == np.uint8


# Labels on another grid


AFFINE = np.array([[0, 0, 2, 10], [-0.5, 0, 0, 20], [0, 1, 0, 30], [0, 0, 0, 1.0]])
GRID = Grid.of((6, 7, 8), AFFINE)


def save_nifti(path: Path, values: NDArray[Any], affine: NDArray[Any] | None) -> Path:
    """values: (k, j, i)."""
    nibabel.save(nibabel.Nifti1Image(values.astype(np.uint8).T, affine), path)
    return path


def inner() -> NDArray[Any]:
    """Masks on GRID that leave its border free, canonical."""
    values = np.zeros(GRID.shape, dtype=np.uint8)
    values[2:5, 2:5, 3:7] = np.random.default_rng(3).integers(0, 4, (3, 3, 4))
    return GRID.from_file(np.stack([values == value for value in (1, 2, 3)]))


def test_cropped_label_is_placed_on_the_image(tmp_path: Path) -> None:
    file = GRID.to_file(label_map(inner()))
    start = AFFINE @ [3, 2, 2, 1]
    affine = AFFINE.copy()
    affine[:, 3] = start
    path = save_nifti(tmp_path / "a.nii", file[2:5, 2:5, 3:7], affine)
    assert (read_masks(path, SOLID, GRID) == inner()).all()


def test_label_larger_than_the_image_is_cropped(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[:, 3] = AFFINE @ [-2, -1, -3, 1]
    path = save_nifti(tmp_path / "a.nii", np.pad(GRID.to_file(label_map(inner())), ((3, 3), (1, 1), (2, 2))), affine)
    assert (read_masks(path, SOLID, GRID) == inner()).all()


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_reoriented_label_is_mapped_to_the_image(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    masks = disjoint(GRID.spatial_shape)
    orientation = np.column_stack([order, signs])
    data = GRID.to_file(label_map(masks)).T
    moved = apply_orientation(data, orientation)
    path = save_nifti(tmp_path / "a.nii", moved.T, AFFINE @ inv_ornt_aff(orientation, data.shape))
    assert (read_masks(path, SOLID, GRID) == masks).all()


@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_flipped_label_of_a_square_image_is_mapped(tmp_path: Path, signs: tuple[int, ...]) -> None:
    """The shape is ambiguous here; only the geometry is not."""
    grid = Grid.of((5, 5, 5), np.diag([-1.0, -1, 1, 1]))
    masks = disjoint((5, 5, 5))
    orientation = np.column_stack([(2, 0, 1), signs])
    data = grid.to_file(label_map(masks)).T
    affine = grid.affine @ inv_ornt_aff(orientation, data.shape)
    path = save_nifti(tmp_path / "a.nii", apply_orientation(data, orientation).T, affine)
    assert (read_masks(path, SOLID, grid) == masks).all()


def test_label_of_another_spacing_is_resampled_by_nearest_neighbour(tmp_path: Path) -> None:
    grid = Grid.of((4, 4, 4), np.eye(4))
    masks = disjoint((4, 4, 4))
    fine = label_map(masks).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    affine = np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = -0.25
    assert (read_masks(save_nifti(tmp_path / "a.nii", fine, affine), SOLID, grid) == masks).all()


def test_rounded_headers_are_equal_grids(tmp_path: Path) -> None:
    masks = disjoint(GRID.spatial_shape)
    path = save_nifti(tmp_path / "a.nii", GRID.to_file(label_map(masks)), AFFINE + 0.001)
    assert (read_masks(path, SOLID, GRID) == masks).all()


def test_labels_at_another_position_are_refused(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 3] += 4
    with pytest.raises(UserError, match="another place"):
        read_masks(save_nifti(tmp_path / "a.nii", np.ones(GRID.shape), affine), SOLID, GRID)
    affine[0, 3] += 500
    with pytest.raises(UserError, match=r"\(3, 3, 3\) lies outside the image of shape \(6, 7, 8\)"):
        read_masks(save_nifti(tmp_path / "b.nii", np.ones((3, 3, 3)), affine), SOLID, GRID)


def test_other_shapes_without_geometry_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"label of shape \(7, 8\) for an image of shape \(6, 8\)"):
        read_masks(save_map(tmp_path / "a.png", np.zeros((7, 8), np.uint8)), FLAT, PLAIN_GRID)
    with pytest.raises(UserError, match=r"label of shape \(3, 3, 3\) for an image of shape \(6, 7, 8\)"):
        read_masks(save_nifti(tmp_path / "a.nii", np.ones((3, 3, 3)), None), SOLID, GRID)
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((1, 3, 3), np.uint8)), str(tmp_path / "a.nrrd"))
    with pytest.raises(UserError, match=r"label of shape \(1, 3, 3\) for an image of shape \(6, 8\)"):
        read_masks(tmp_path / "a.nrrd", FLAT, PLAIN_GRID)


def test_volume_label_without_geometry_needs_the_same_shape(tmp_path: Path) -> None:
    masks = disjoint(GRID.spatial_shape)
    path = save_nifti(tmp_path / "a.nii", GRID.to_file(label_map(masks)), None)
    assert (read_masks(path, SOLID, GRID) == masks).all()


def test_cropped_label_of_slicer_for_a_png_is_placed(tmp_path: Path) -> None:
    masks = np.zeros((3, 6, 8), dtype=bool)
    masks[1, 2:4, 3:7] = True
    image = sitk.GetImageFromArray(label_map(masks)[None, 2:4, 3:7])
    image.SetOrigin((3, 2, 0))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert (read_masks(tmp_path / "a.nrrd", FLAT, PLAIN_GRID) == masks).all()


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1, 1, 1]), np.diag([2.0, 2, 2, 1])])
def test_2d_labels_of_the_same_shape_need_no_geometry(tmp_path: Path, affine: NDArray[Any]) -> None:
    masks = disjoint((6, 8))
    path = save_nifti(tmp_path / "a.nii", label_map(masks)[None], affine)
    for grid in (PLAIN_GRID, Grid.of((1, 6, 8), np.diag([-0.5, -0.5, 1, 1]))):
        assert (read_masks(path, FLAT, grid) == masks).all()


# Names, layers, colours


def test_empty_label_info_allows_empty_labels_only(tmp_path: Path) -> None:
    """Slicer then also exports its background, which would become the first structure by the task's values."""
    grid = Grid.of((4, 5), LPS_TO_RAS)
    for values, fits in ((np.zeros((4, 5), np.uint8), True), (np.ones((4, 5), np.uint8), False)):
        Image.fromarray(values).save(tmp_path / "label.png")
        if fits:
            assert not read_masks(tmp_path / "label.png", FLAT, grid, names=[]).any()
        else:
            with pytest.raises(UserError, match="names no segment"):
                read_masks(tmp_path / "label.png", FLAT, grid, names=[])


def test_masks_are_divided_into_layers() -> None:
    a, b, c = (np.array(mask, dtype=bool) for mask in ([1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]))
    assert into_layers([a, b, c]) == [0, 1, 0]
    assert into_layers([a, a, a]) == [0, 1, 2]
    assert into_layers([]) == []


def test_colours_are_fixed_and_distinguishable() -> None:
    colors = np.array([color(i) for i in range(32)])
    assert ((colors >= 0) & (colors <= 1)).all() and color(3) == color(3)
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=2) + np.eye(32)
    assert apart.min() > 0.08 and np.diagonal(apart, 1).min() > 0.3


# Real images


@pytest.mark.parametrize(
    ("name", "task", "extension"),
    [
        ("ultrasound/images/0242.png", FLAT, ".nii.gz"),
        ("wrist/images/0003_0662359226_01_WRI-R1_M011.png", FLAT, ".seg.nrrd"),
        ("dicom/dx/thorax.dcm", FLAT, ".nrrd"),
        ("dicom/ct", SOLID, ".nii.gz"),
        ("dicom/mr_hippocampus", SOLID, ".seg.nrrd"),
        ("hippocampus/images/hippocampus_003.nii.gz", SOLID, ".nii.gz"),
    ],
)
def test_real_images_round_trip(tmp_path: Path, shared_data: Path, name: str, task: Task, extension: str) -> None:
    grid = read_image(shared_data / name, task.dimension).grid
    masks = disjoint(grid.spatial_shape)
    path = tmp_path / f"a{extension}"
    write_masks(path, masks, task, grid)
    assert (read_masks(path, task, grid) == masks).all()
    label = sitk.ReadImage(str(path))
    source = str(shared_data / name)
    slices = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(source) if (shared_data / name).is_dir() else ()
    image = sitk.ReadImage(slices or source)
    image = sitk.JoinSeries([image]) if image.GetDimension() == 2 else image
    assert label.GetSize()[:2] == image.GetSize()[:2]
    for ijk in ((0, 0, 0), (5, 9, label.GetDepth() - 1)):
        assert physical(label, ijk) == pytest.approx(physical(image, ijk), abs=1e-3)


def test_real_labels_are_read(shared_data: Path) -> None:
    hippocampus = Task(name="h", dimension=3, structures=["anterior", "posterior"], student={"size": (16, 16, 16)})
    image = read_image(shared_data / "hippocampus/images/hippocampus_001.nii.gz", 3)
    path = shared_data / "hippocampus/labels/hippocampus_001.nii.gz"
    masks = read_masks(path, hippocampus, image.grid)
    values = nibabel.load(path).get_fdata()
    assert [int(mask.sum()) for mask in masks] == [int((values == value).sum()) for value in (1, 2)]
    ultrasound = Task(name="u", dimension=2, structures=["nerve", "vessel"])
    image = read_image(shared_data / "ultrasound/images/0242.png", 2)
    masks = read_masks(shared_data / "ultrasound/labels/0242.png", ultrasound, image.grid)
    with Image.open(shared_data / "ultrasound/labels/0242.png") as reference:
        assert (label_map(masks) == np.asarray(reference)).all()


# Names that vary, and the inputs of issue 18


def test_segments_are_found_by_case_spaces_and_unicode_form(tmp_path: Path) -> None:
    task = Task(name="t", dimension=2, structures=["left_lung", "ulna", "alpha"], overlap=True)
    masks = disjoint((6, 8))
    fields: dict[str, str] = {}
    written = ["Left  lung", "FULL", "ALPHA ", "alpha", "Ignore: left lung", "REJECTED :Alpha", "cyst"]
    for i, name in enumerate(written):
        layer = (0, 1, 2, 3, 4, 5, 5)[i]
        fields |= {f"Segment{i}_ID": f"S{i}", f"Segment{i}_Name": name, f"Segment{i}_Layer": str(layer)}
        fields[f"Segment{i}_LabelValue"] = str(i + 1)
    more = ~masks.any(axis=0)
    layers = [masks[0] * 1, masks[1] * 2, masks[2] * 3, more * 4, masks[1] * 5, masks[2] * 6]
    path = save_segments(tmp_path / "a.seg.nrrd", np.stack(layers, axis=-1)[None].astype(np.uint8), fields)
    # pynrrd writes ASCII alone, Slicer UTF-8: a space that does not break, wide letters.
    content = path.read_bytes().replace(b"Left  lung", "Left\u00a0 lung".encode())
    path.write_bytes(content.replace(b"Name:=FULL", "Name:=\uff35\uff2c\uff2e\uff21".encode()))
    read = read_masks(path, task, PLAIN_GRID)
    assert (read[:2] == masks[:2]).all()
    assert (read[2] == masks[2] | more).all()  # Two segments of one structure are one.
    ignored, rejected = read_ignore(path, task, PLAIN_GRID), read_rejected(path, task, PLAIN_GRID)
    assert (ignored[0] == masks[1]).all() and not ignored[1:].any()
    assert (rejected[2] == masks[2]).all() and not rejected[:2].any()
    assert other_names(path, task) == {"cyst", "REJECTED :Alpha"}


def test_client_names_are_matched_alike(tmp_path: Path) -> None:
    masks = disjoint((6, 8))
    path = save_map(tmp_path / "a.png", label_map(masks))
    assert (read_masks(path, FLAT, PLAIN_GRID, names=["Radius ", "ULNA", "lunate"]) == masks).all()
    united = read_masks(path, FLAT, PLAIN_GRID, names=["Radius", "radius", "cyst"])
    assert (united[0] == masks[0] | masks[1]).all() and not united[1:].any()
    assert other_names(path, FLAT, ["Radius", "cyst"]) == {"cyst"}


CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="the issue's inputs are not here")
@pytest.mark.parametrize(
    "name",
    ["n_s2q1_flipped_nii", "n_s2q1_moved_seg", "n_s4q1_moved_nii", "n_unit_micron", "r_names_case", "r_names_spaces",
     "r_no_space"],
)  # fmt: skip
def test_shared_labels_are_read(tmp_path: Path, name: str) -> None:
    """Label and image have the same array in ITK; so has the written file."""
    image = CASES / name / "a.nii.gz"
    (label,) = (CASES / name / "labels" / "final").iterdir()
    task = Task(name="vol", dimension=3, structures=["alpha", "beta"], student={"size": (16, 32, 32)})
    grid = read_image(image, 3).grid
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(label)))
    masks = read_masks(label, task, grid)
    assert (masks == np.stack([grid.from_file(values == value) for value in (1, 2)])).all() and masks.any(
        axis=(1, 2, 3)
    ).all()
    seen = sitk.ReadImage(str(image))
    for extension in (".seg.nrrd", ".nrrd", ".nii.gz"):
        write_masks(tmp_path / f"a{extension}", masks, task, grid)
        answer = sitk.ReadImage(str(tmp_path / f"a{extension}"))
        assert (sitk.GetArrayFromImage(answer) == values).all()
        for ijk in ((0, 0, 0), tuple(size - 1 for size in seen.GetSize())):
            assert physical(answer, ijk) == pytest.approx(physical(seen, ijk), abs=1e-3)
