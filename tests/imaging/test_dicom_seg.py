"""DICOM SEG: lossless round trip, for synthetic images with known masks and for real ones."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid

from samstudent.errors import UserError
from samstudent.imaging import dicom_seg_frames, dicom_size_checks
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_dx_write import dx_image, save_film
from samstudent.imaging.dicom_seg import is_automatic, references_of, segments_of, structures_of
from samstudent.imaging.dicom_seg_write import SegDescription, write_seg
from samstudent.imaging.image_paths import channels_path
from samstudent.imaging.labels import other_names, read_ignore, read_masks
from samstudent.task import Task
from support.dicom_files import save, save_series
from support.dicom_segs import a_film, a_series, make_task, random_masks

DESCRIPTION = SegDescription("Label", "MANUAL")


def round_trip(
    path: Path, task: Task, masks: NDArray[Any], folder: Path, description: SegDescription = DESCRIPTION
) -> Any:
    seg = write_seg(folder / "seg.dcm", masks, task, read_image(path).grid, path, description)
    return seg, read_masks(folder / "seg.dcm", task, read_image(path).grid)


# ---- equal to the pixel ----


def test_radiograph_round_trip(tmp_path: Path) -> None:
    film, task = a_film(tmp_path), make_task(2)
    masks = random_masks(film, task)
    seg, back = round_trip(film, task, masks, tmp_path)
    assert (masks[0] & masks[1]).any() and (back == masks).all()
    assert references_of(seg) == (str(pydicom.dcmread(film).SeriesInstanceUID), [pydicom.dcmread(film).SOPInstanceUID])


def test_radiograph_without_a_position_round_trip(tmp_path: Path) -> None:
    film, task = a_film(tmp_path, FrameOfReferenceUID="1.2.9"), make_task(2)
    masks = random_masks(film, task)
    assert (round_trip(film, task, masks, tmp_path)[1] == masks).all()


@pytest.mark.parametrize("flip", [[1, 0, 0, 0, 1, 0], [-1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]])
def test_series_with_empty_slices_round_trip(tmp_path: Path, flip: list[int]) -> None:
    """For every orientation and every order of the files."""
    normal = np.cross(flip[:3], flip[3:])
    folder = tmp_path / "series"
    folder.mkdir()
    for i, height in enumerate([9, 0, 6, 3]):
        save(
            folder / f"{i}.dcm", np.full((3, 4), i, np.uint16), ImageOrientationPatient=flip,
            ImagePositionPatient=list(map(float, normal * height)), FrameOfReferenceUID="1.2.4", SliceThickness=3,
        )  # fmt: skip
    task = make_task(3)
    masks = random_masks(folder, task)
    masks[:, 1] = False  # nothing at all on this slice
    masks[1, 2] = False
    masks[2] = False  # a structure that is nowhere
    seg, back = round_trip(folder, task, masks, tmp_path)
    assert (back == masks).all()
    assert len(seg.SegmentSequence) == 3
    frames = sum(bool(mask.any()) for stack in read_image(folder).grid.to_file(masks) for mask in stack)
    assert seg.NumberOfFrames == frames


def test_tilted_series_round_trip(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 2, 4], lateral=0.3, FrameOfReferenceUID="1.2.4", SliceThickness=2)
    task = make_task(3)
    masks = random_masks(folder, task)
    assert (round_trip(folder, task, masks, tmp_path)[1] == masks).all()


@pytest.mark.parametrize("lateral", [0.0, 0.3])
def test_segmentation_of_channels_refers_to_the_first(tmp_path: Path, lateral: float) -> None:
    """Masks are on the grid of the case, which is not that of a tilted series."""
    for name in ("a", "b"):
        fields = {"FrameOfReferenceUID": "1.2.4", "SliceThickness": 2, "SeriesInstanceUID": generate_uid()}
        save_series(tmp_path / name, [0, 2, 4], lateral=lateral, **fields)
    path, task = channels_path([tmp_path / "a", tmp_path / "b"], tmp_path), make_task(3)
    grid = read_image(path, 3).grid
    masks = np.zeros((len(task.names), *grid.spatial_shape), bool)
    masks[0, 1] = True
    seg = write_seg(tmp_path / "seg.dcm", masks, task, grid, path, DESCRIPTION)
    assert references_of(seg)[0] == str(pydicom.dcmread(tmp_path / "a" / "0.dcm").SeriesInstanceUID)
    back = read_masks(tmp_path / "seg.dcm", task, read_image(tmp_path / "a").grid)
    assert back[0].any(axis=(1, 2)).tolist() == [False, True, False] and back[0, 1].all() and not back[1:].any()


def test_single_slice_as_a_2d_case_round_trip(tmp_path: Path) -> None:
    path, task = save(tmp_path / "a.dcm", FrameOfReferenceUID="1.2.4", SliceThickness=2), make_task(2)
    masks = random_masks(path, task)
    assert (round_trip(path, task, masks, tmp_path)[1] == masks).all()


def test_empty_label_round_trip(tmp_path: Path) -> None:
    film, task = a_film(tmp_path), make_task(2)
    _, back = round_trip(film, task, random_masks(film, task, share=0), tmp_path)
    assert not back.any()


def test_real_images(shared_data: Path, tmp_path: Path) -> None:
    for source, dimension in (("mr_hippocampus", 3), ("dx/thorax.dcm", 2)):
        path, task = shared_data / "dicom" / source, make_task(dimension)
        masks = random_masks(path, task)
        masks[:, 2] = False
        assert (round_trip(path, task, masks, tmp_path)[1] == masks).all()


def test_real_ct(shared_data: Path, tmp_path: Path) -> None:
    """Its UIDs were removed at its publication; clinical images have them."""
    study, series = generate_uid(), generate_uid()
    (tmp_path / "ct").mkdir()
    for file in (shared_data / "dicom" / "ct").iterdir():
        image = pydicom.dcmread(file)
        image.SOPClassUID, image.SOPInstanceUID = (
            image.file_meta.MediaStorageSOPClassUID,
            image.file_meta.MediaStorageSOPInstanceUID,
        )
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.save_as(tmp_path / "ct" / file.name)
    task = make_task(3)
    masks = random_masks(tmp_path / "ct", task)
    masks[:, 3:7] = False
    assert (round_trip(tmp_path / "ct", task, masks, tmp_path)[1] == masks).all()
    with pytest.raises(UserError, match="SOPInstanceUID"):
        write_seg(
            tmp_path / "x.dcm", masks, task, read_image(tmp_path / "ct").grid, shared_data / "dicom" / "ct", DESCRIPTION
        )


# ---- what it says ----


def test_highdicom_reads_names_codes_colours_and_provenance(tmp_path: Path) -> None:
    code = {"value": "39607008", "meaning": "Lung", "side": "left", "color": "#ff0000"}
    film, task = a_film(tmp_path), make_task(2, codes={"left lung": code})
    description = SegDescription(
        "Pseudo label, task t", "AUTOMATIC", "student+sam", {"student": "a" * 64, "sam_digest": "b" * 64},
        {"left lung": 0.75}, creator="nightly", time=1.7e9, uids=("1.2.5", "1.2.6"),
        structures=["left lung", "rib"],
    )  # fmt: skip
    round_trip(film, task, random_masks(film, task), tmp_path, description)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert (seg.SeriesInstanceUID, seg.SOPInstanceUID) == ("1.2.5", "1.2.6")
    assert (seg.SeriesDescription, str(seg.ContentCreatorName)) == ("Pseudo label, task t", "nightly^")
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["left lung", "rib"]
    lung, rib = seg.SegmentSequence
    kind = lung.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("39607008", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert rib.SegmentedPropertyTypeCodeSequence[0].CodeValue == "rib"
    algorithm = lung.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "student+sam"
    assert algorithm.AlgorithmParameters == f"student={'a' * 64},sam_digest={'b' * 64},quality=0.7500"
    assert lung.SegmentDescription == "quality 0.750"
    red = highdicom.color.CIELabColor.from_rgb(255, 0, 0).value
    assert tuple(lung.RecommendedDisplayCIELabValue) == red != tuple(rib.RecommendedDisplayCIELabValue)
    assert is_automatic(seg)


def test_the_same_label_has_the_same_time_whenever_it_is_written(tmp_path: Path) -> None:
    film, task = a_film(tmp_path), make_task(2)
    description = SegDescription("Label", "MANUAL", time=1.7e9, uids=("1.2.5", "1.2.6"))
    first, second = (round_trip(film, task, random_masks(film, task), tmp_path, description)[0] for _ in range(2))
    assert (first.ContentDate, first.ContentTime) == (second.ContentDate, second.ContentTime)


# ---- what others wrote ----


def edited(path: Path, change: Any) -> Path:
    seg = pydicom.dcmread(path)
    change(seg)
    seg.save_as(path)
    return path


def test_segments_are_found_by_label_or_code_in_any_order(tmp_path: Path) -> None:
    film = a_film(tmp_path)
    lung = {"value": "39607008", "meaning": "Lung"}
    codes = {"left lung": {**lung, "side": "left"}, "rib": {**lung, "side": "right"}}
    task = make_task(2, codes=codes)
    other = make_task(2, structures=["rib", "left lung", "heart"], codes=codes)
    masks = random_masks(film, task)
    round_trip(film, task, masks, tmp_path)

    def rename(seg: Any) -> None:
        for segment, label in zip(seg.SegmentSequence, ("Lunge links", "HEART", "x"), strict=True):
            segment.SegmentLabel = label

    path = edited(tmp_path / "seg.dcm", rename)
    assert structures_of(pydicom.dcmread(path), task) == {1: "left lung", 2: "heart", 3: "rib"}
    assert (read_masks(path, other, read_image(film).grid) == masks[[2, 0, 1]]).all()
    assert not read_ignore(path, task, read_image(film).grid).any()
    assert not other_names(path, task)
    assert other_names(path, make_task(2, structures=["heart"])) == {"Lunge links", "x"}


def test_segments_without_codes_or_algorithm(tmp_path: Path) -> None:
    film, task = a_film(tmp_path), make_task(2)
    masks = random_masks(film, task)
    round_trip(film, task, masks, tmp_path)

    def strip(seg: Any) -> None:
        for segment in seg.SegmentSequence:
            del segment.SegmentedPropertyTypeCodeSequence, segment.SegmentAlgorithmType
        del seg.ReferencedSeriesSequence

    path = edited(tmp_path / "seg.dcm", strip)
    assert (read_masks(path, task, read_image(film).grid) == masks).all()
    assert not is_automatic(pydicom.dcmread(path))
    assert segments_of(pydicom.dcmread(path))[0].code is None


def test_fractional_segments_are_thresholded_at_one_half(tmp_path: Path) -> None:
    film, task = a_film(tmp_path), make_task(2)
    image = pydicom.dcmread(film)
    values = np.random.default_rng(0).integers(0, 256, (1, image.Rows, image.Columns, 1)) / 255
    description = highdicom.seg.SegmentDescription(
        1, "heart", pydicom.sr.codedict.codes.SCT.AnatomicalStructure, pydicom.sr.codedict.codes.SCT.Heart, "MANUAL"
    )
    highdicom.seg.Segmentation(
        [image], values, "FRACTIONAL", [description], generate_uid(), 1, generate_uid(), 1, "x", "x", "1", "1"
    ).save_as(tmp_path / "f.dcm")
    back = read_masks(tmp_path / "f.dcm", task, read_image(film).grid)
    assert (back[1] == (values[0, ..., 0] >= 0.5)).all()


def test_frames_on_another_grid_are_resampled(tmp_path: Path) -> None:
    """A viewer segmented a series of the same space with slices twice as thick."""
    series, task = a_series(tmp_path), make_task(3)
    thick = save_series(tmp_path / "thick", [1.5, 7.5], FrameOfReferenceUID="1.2.4", SliceThickness=6)
    masks = random_masks(thick, task)
    write_seg(tmp_path / "seg.dcm", masks, task, read_image(thick).grid, thick, DESCRIPTION)
    back = read_masks(tmp_path / "seg.dcm", task, read_image(series).grid)
    assert (back == np.repeat(masks, 2, axis=1)).all()


def test_frames_of_a_tilted_series_are_resampled(tmp_path: Path) -> None:
    """Masks on every other slice of a tilted series, with pixels of half the size."""
    fields = {"FrameOfReferenceUID": "1.2.4", "SliceThickness": 2}
    fine = save_series(tmp_path / "fine", [0, 2, 4, 6], lateral=0.5, PixelSpacing=[1.0, 1.0], **fields)
    coarse, task = tmp_path / "coarse", make_task(3, structures=["heart"])
    coarse.mkdir()
    for i, height in enumerate((0, 4)):
        place = [0, 0.5 * height, height]
        save(
            coarse / f"{i}.dcm",
            np.zeros((3, 8), np.uint16),
            ImagePositionPatient=place,
            PixelSpacing=[1, 0.5],
            **fields,
        )
    masks = np.zeros((1, *read_image(coarse).grid.spatial_shape), bool)
    masks[0, :, 1] = True
    write_seg(tmp_path / "seg.dcm", masks, task, read_image(coarse).grid, coarse, DESCRIPTION)
    back = read_masks(tmp_path / "seg.dcm", task, read_image(fine).grid)
    assert back[0, [0, 2]].any(axis=2).tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize("thickness", [3, None])
def test_slices_between_frames_stay_empty(tmp_path: Path, thickness: int | None) -> None:
    """Writers omit empty frames, so frames may be far apart."""
    series, task = a_series(tmp_path), make_task(3, structures=["heart"])
    fields = {"FrameOfReferenceUID": "1.2.4", "SliceThickness": 3, "PixelSpacing": [1.0, 0.5]}
    coarse = save_series(tmp_path / "coarse", [9, 0, 12, 6, 3], **fields)
    masks = np.zeros((1, *read_image(coarse).grid.spatial_shape), bool)
    masks[0, [0, 4]] = True
    write_seg(tmp_path / "seg.dcm", masks, task, read_image(coarse).grid, coarse, DESCRIPTION)

    def without_thickness(seg: Any) -> None:
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        for keyword in ("SliceThickness", "SpacingBetweenSlices"):
            if thickness is None and keyword in measures:
                delattr(measures, keyword)

    back = read_masks(edited(tmp_path / "seg.dcm", without_thickness), task, read_image(series).grid)
    assert back[0].any(axis=(1, 2)).tolist() == [True, False, False, False]


@pytest.mark.parametrize("spacing", ["SpacingBetweenSlices", "SliceThickness", None])
def test_cropped_frames_keep_their_thickness(tmp_path: Path, spacing: str | None) -> None:
    """Masks on slices 4 and 12 of an image of 1 mm, on a grid that was cropped in plane."""
    fields = {"FrameOfReferenceUID": "1.2.4", "SliceThickness": 1, "PixelSpacing": [1.0, 1.0]}
    heights, task = list(map(float, range(20))), make_task(3, structures=["heart"])
    grids = {}
    for size in (6, 10):
        (tmp_path / str(size)).mkdir()
        for height in heights:
            save(
                tmp_path / str(size) / f"{height}.dcm", np.zeros((size, size), np.uint16),
                ImagePositionPatient=[0, 0, height], **fields,
            )  # fmt: skip
        grids[size] = read_image(tmp_path / str(size)).grid
    masks = np.zeros((1, 20, 6, 6), bool)
    masks[0, [4, 12]] = True
    write_seg(tmp_path / "seg.dcm", masks, task, grids[6], tmp_path / "6", DESCRIPTION)

    def tell(seg: Any) -> None:
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        for keyword in ("SpacingBetweenSlices", "SliceThickness"):
            if keyword in measures:
                delattr(measures, keyword)
        if spacing:
            setattr(measures, spacing, 1)

    back = read_masks(edited(tmp_path / "seg.dcm", tell), task, grids[10])
    assert np.flatnonzero(back[0].any(axis=(1, 2))).tolist() == [4, 12]
    assert back.sum() == masks.sum()


def test_deflate_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film, task = a_film(tmp_path), make_task(2)
    round_trip(film, task, random_masks(film, task), tmp_path)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    seg.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    seg.add_new(0x00204000, "UT", "a" * 200_000)
    seg.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    monkeypatch.setattr(dicom_size_checks, "MAX_PLANE", 10_000)
    with pytest.raises(UserError, match="unpacks to more than"):
        read_masks(tmp_path / "seg.dcm", task, read_image(film).grid)


def far_apart(folder: Path, task: Task) -> Path:
    """A SEG of three frames on another grid: two close together, one at a distance of 300,001 slices."""
    fields = {"FrameOfReferenceUID": "1.2.4", "SliceThickness": 3, "PixelSpacing": [1.0, 0.5]}
    coarse = save_series(folder / "coarse", [0, 3, 6], **fields)
    masks = np.zeros((3, *read_image(coarse).grid.spatial_shape), bool)
    masks[[0, 1, 2], [0, 1, 2]] = True
    write_seg(folder / "seg.dcm", masks, task, read_image(coarse).grid, coarse, DESCRIPTION)

    def move(seg: Any) -> None:
        for item, height in zip(seg.PerFrameFunctionalGroupsSequence, (0, 0.001, 300), strict=True):
            item.PlanePositionSequence[0].ImagePositionPatient[2] = height

    return edited(folder / "seg.dcm", move)


def test_memory_for_distant_frames_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series, task = a_series(tmp_path), make_task(3)
    path, size = far_apart(tmp_path, task), 300_001 * 3 * 4
    monkeypatch.setenv("SAMSTUDENT_MAX_PIXELS", str(3 * size - 1))
    with pytest.raises(UserError, match=r"seg\.dcm: 300001 x 3 x 4 pixels .*are more than the limit"):
        read_masks(path, task, read_image(series).grid)
    monkeypatch.setenv("SAMSTUDENT_MAX_PIXELS", str(3 * size))
    grid = read_image(series).grid
    tracemalloc.start()
    try:
        assert read_masks(path, task, grid).any(axis=(1, 2, 3)).tolist() == [True, False, False]
        assert tracemalloc.get_traced_memory()[1] < 3 * size * 1.1
    finally:
        tracemalloc.stop()


def test_too_many_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film, task = a_film(tmp_path), make_task(2)
    round_trip(film, task, random_masks(film, task), tmp_path)
    monkeypatch.setattr(dicom_seg_frames, "_MAX_FRAMES", 2)
    with pytest.raises(UserError, match=r"seg\.dcm: 3 frames; expected at most 2"):
        read_masks(tmp_path / "seg.dcm", task, read_image(film).grid)


@pytest.mark.parametrize("number", ["missing", None, [1, 2]])
def test_segments_without_a_number_are_refused(tmp_path: Path, number: Any) -> None:
    film, task = a_film(tmp_path), make_task(2)
    round_trip(film, task, random_masks(film, task), tmp_path)

    def change(seg: Any) -> None:
        del seg.SegmentSequence[1].SegmentNumber
        if number != "missing":
            seg.SegmentSequence[1].SegmentNumber = number

    path = edited(tmp_path / "seg.dcm", change)
    for read in (segments_of, is_automatic, lambda seg: structures_of(seg, task)):
        with pytest.raises(UserError, match=r"seg\.dcm: a segment without a SegmentNumber, .*expected a whole number"):
            read(pydicom.dcmread(path))


def test_undescribed_frames_and_segments_are_refused(tmp_path: Path) -> None:
    film, task = a_film(tmp_path), make_task(2)
    path = tmp_path / "seg.dcm"
    round_trip(film, task, random_masks(film, task), tmp_path)

    def less(seg: Any) -> None:
        del seg.PerFrameFunctionalGroupsSequence[-1]

    with pytest.raises(UserError, match=r"seg\.dcm: 3 frames, but PerFrameFunctionalGroupsSequence has 2 items"):
        read_masks(edited(path, less), task, read_image(film).grid)

    def unnumbered(seg: Any) -> None:
        del seg.SegmentSequence[0].SegmentNumber

    with pytest.raises(UserError, match=r"seg\.dcm: a segment without a SegmentNumber"):
        read_masks(edited(path, unnumbered), task, read_image(film).grid)


def test_invalid_segmentations_are_named(tmp_path: Path) -> None:
    film, task = a_film(tmp_path), make_task(2)
    path = tmp_path / "seg.dcm"
    round_trip(film, task, random_masks(film, task), tmp_path)
    with pytest.raises(UserError, match=r"none of its segments .*'heart'.* is in the task"):
        read_masks(path, make_task(2, structures=["knee"]), read_image(film).grid)
    (tmp_path / "other").mkdir()
    other = save_film(dx_image(np.zeros((9, 9), np.uint16), "other"), tmp_path / "other")
    with pytest.raises(UserError, match="23 x 31 pixels, but the image has 9 x 9"):
        read_masks(path, task, read_image(other).grid)
    with pytest.raises(UserError, match="no position in space, but the image is a volume"):
        read_masks(path, make_task(3), read_image(a_series(tmp_path)).grid)
    content = path.read_bytes()
    (tmp_path / "cut.dcm").write_bytes(content[: len(content) - 40])
    with pytest.raises(UserError, match=r"cut\.dcm"):
        read_masks(tmp_path / "cut.dcm", task, read_image(film).grid)
    with pytest.raises(UserError, match="masks of shape"):
        write_seg(path, np.zeros((3, 5, 5), bool), task, read_image(film).grid, film, DESCRIPTION)


def test_codes_are_read_from_the_task() -> None:
    lung = {"value": "39607008", "meaning": "Lung"}
    with pytest.raises(ValueError, match="unknown structures"):
        make_task(2, codes={"knee": lung})
    with pytest.raises(ValueError, match="same code"):
        make_task(2, codes={"left lung": lung, "heart": lung})
