"""The datastore of a PACS on a real Orthanc, without the host's server: volumes, films of one series, the cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import generate_uid

from samstudent.errors import Conflict, NotFound, UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_dx_write import dx_image
from samstudent.imaging.dicom_seg_write import SegDescription, write_seg
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.server.pacs.cache import IN_USE_SECONDS, ImageCache
from samstudent.server.pacs.client import Pacs
from samstudent.server.pacs.datastore import PacsDatastore
from samstudent.server.pacs.orthanc import Orthanc
from samstudent.server.pacs.settings import PacsSettings
from samstudent.task import Task
from support.dicom_frames import save_enhanced

pytestmark = pytest.mark.server
Make = Callable[..., PacsDatastore]


def make_task(dimension: int) -> Task:
    content = {"name": "t", "dimension": dimension, "structures": ["a", "b"], "overlap": True}
    return Task.model_validate({**content, "student": {"size": [32] * dimension}})


def slices(modality: str, count: int, seed: int = 0) -> list[Any]:
    """Series of synthetic slices, 24 x 20, 2 mm apart, the uppermost first."""
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    pixels = np.random.default_rng(seed).integers(0, 2000, (count, 24, 20), dtype=np.uint16)
    images = []
    for i in range(count):
        image = dx_image(
            pixels[i], f"{modality}{seed}", Modality=modality, SeriesInstanceUID=series, StudyInstanceUID=study,
            FrameOfReferenceUID=frame, ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, -2.0 * i], SliceThickness=2, InstanceNumber=i + 1, RescaleIntercept=-1000,
        )  # fmt: skip
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = {
            "CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "DX": image.SOPClassUID,
        }[modality]  # fmt: skip
        images.append(image)
    return images


@pytest.fixture
def make(orthanc: Orthanc, tmp_path: Path) -> Make:
    def make(dimension: int, name: str = "state", **settings: Any) -> PacsDatastore:
        pacs = Pacs(orthanc.url, PacsSettings(**settings))
        return PacsDatastore(tmp_path / name, pacs, make_task(dimension), tmp_path / "cache")

    return make


def random_masks(store: PacsDatastore, case: str) -> np.ndarray:
    shape = read_image(store.get_image_uri(case)).grid.spatial_shape
    return np.random.default_rng(3).random((2, *shape)) < 0.5


def submit(store: PacsDatastore, case: str, masks: np.ndarray, folder: Path) -> None:
    write_masks(folder / "l.seg.nrrd", masks, store.task, read_image(store.get_image_uri(case)).grid)
    store.save_label(case, str(folder / "l.seg.nrrd"), "final", {"client_id": "ann"})


def in_force(store: PacsDatastore, case: str) -> np.ndarray:
    grid = read_image(store.get_image_uri(case)).grid
    return read_masks(store.get_label_uri(case, "final"), store.task, grid)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_series_and_label_round_trip(modality: str, orthanc: Orthanc, make: Make, tmp_path: Path) -> None:
    """A label saved on one server is the label on another server with the same PACS."""
    images = slices(modality, 6)
    case = str(images[0].SeriesInstanceUID)
    orthanc.store(images)
    store = make(3)
    store.exchange.poll()
    assert case in store.list_images()
    info = store.get_image_info(case)
    assert (info["Modality"], info["name"]) == (modality, f"{case}.nii.gz")
    image = read_image(store.get_image_uri(case), 3)
    assert image.grid.spacing == pytest.approx((2, 0.3, 0.3))
    lowest_first = np.stack([i.pixel_array for i in reversed(images)]) - 1000.0
    assert (image.grid.to_file(image.pixels)[0] == lowest_first).all()
    masks = random_masks(store, case)
    masks[:, 2] = False
    masks[0, 4] = False
    submit(store, case, masks, tmp_path)
    store.exchange.send()
    assert store.get_label_info(case, "final")["pacs"]["state"] == "stored"

    other = make(3, "another server")
    other.exchange.poll()
    assert case in other.get_labeled_images()
    assert (in_force(other, case) == masks).all()
    assert other.get_label_info(case, "final")["user"] == "ann"
    assert list(other.exchange.waiting()) == []  # nothing goes to and fro


def test_multi_frame_volume_and_label_round_trip(orthanc: Orthanc, make: Make, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 2000, (6, 24, 20), dtype=np.uint16)
    path = save_enhanced(tmp_path / "mr.dcm", frames, [[0, 0, 2.0 * index] for index in range(6)])
    image = pydicom.dcmread(path)
    orthanc.store([image])
    case = str(image.SeriesInstanceUID)
    store = make(3)
    store.exchange.poll()
    assert case in store.list_images()
    found = read_image(store.get_image_uri(case), 3)
    assert (found.grid.to_file(found.pixels)[0] == frames).all()
    masks = random_masks(store, case)
    submit(store, case, masks, tmp_path)
    store.exchange.send()
    assert store.get_label_info(case, "final")["pacs"]["state"] == "stored"
    other = make(3, "another server")
    other.exchange.poll()
    assert (in_force(other, case) == masks).all()
    assert case not in make(2, "of films").list_images()


def test_series_is_one_file_for_slicer(orthanc: Orthanc, make: Make) -> None:
    images = slices("CT", 4, seed=1)
    case = str(images[0].SeriesInstanceUID)
    orthanc.store(images)
    store = make(3)
    store.exchange.poll()
    folder, file = read_image(store.get_image_uri(case)), store.viewer_file(case)
    assert str(file) == store.get_image_info(case)["path"]
    assert nibabel.load(file).get_data_dtype() == np.int16
    read = read_image(file)
    assert (read.pixels == folder.pixels).all()
    assert read.grid.affine == pytest.approx(folder.grid.affine, abs=1e-4)


def test_incomplete_series_is_not_selected_until_it_is_complete(orthanc: Orthanc, make: Make) -> None:
    images = slices("CT", 6, seed=2)
    case = str(images[0].SeriesInstanceUID)
    store = make(3)
    store.exchange.poll()
    for part in (images[:2], images[2:4]):
        orthanc.store(part)
        store.exchange.poll()
        assert case not in store.list_images()
    store.exchange.poll()
    assert read_image(store.get_image_uri(case)).grid.shape[0] == 4
    orthanc.store(images[4:])  # a late-comer, after the image was fetched
    store.exchange.poll()
    store.exchange.poll()
    assert read_image(store.get_image_uri(case)).grid.shape[0] == 6


def test_radiographs_of_one_series_are_separate_cases(orthanc: Orthanc, make: Make, tmp_path: Path) -> None:
    images = slices("DX", 2, seed=3)
    for image in images:
        del image.ImagePositionPatient, image.ImageOrientationPatient, image.FrameOfReferenceUID
    first, second = (str(image.SOPInstanceUID) for image in images)
    series = str(images[0].SeriesInstanceUID)
    orthanc.store(images)
    store = make(2)
    store.exchange.poll()
    assert {first, second} <= set(store.list_images()) and series not in store.list_images()
    with pytest.raises(NotFound, match="has 2 images; use the id of one of them"):
        store.get_image_uri(series)
    masks = random_masks(store, second)
    submit(store, second, masks, tmp_path)
    store.exchange.send()
    other = make(2, "other")
    other.exchange.poll()
    labels = {case: other.get_labels_by_image_id(case) for case in (first, second)}
    assert labels == {first: {}, second: {"final": second}}
    assert (in_force(other, second) == masks).all()


def test_series_outside_of_the_filter_can_be_queried_by_uid(orthanc: Orthanc, make: Make, tmp_path: Path) -> None:
    (image,) = slices("DX", 1, seed=4)
    orthanc.store([image])
    store = make(2, modalities=("CR",))
    store.exchange.poll()
    case = str(image.SeriesInstanceUID)
    assert case not in store.list_images()
    assert read_image(store.get_image_uri(case)).grid.spatial_shape == (24, 20)
    with pytest.raises(NotFound, match="is not in the study"):
        submit(store, case, random_masks(store, case), tmp_path)
    with pytest.raises(NotFound, match="neither a case of the study nor a series of PACS"):
        store.get_image_uri("1.2.3.4.5")
    store = make(2, "wrist", modalities=("DX",), filters={"BodyPartExamined": "WRIST"})
    store.exchange.poll()
    assert case in store.list_images()
    assert not make(2, "knee", modalities=("DX",), filters={"BodyPartExamined": "KNEE"}).list_images()


def test_newest_segmentation_is_the_label(orthanc: Orthanc, make: Make, tmp_path: Path) -> None:
    """In any order of the listing; one with unknown references is ignored, and not fetched again."""
    (image,) = slices("DX", 1, seed=5)
    orthanc.store([image])
    store = make(2)
    store.exchange.poll()
    case = str(image.SeriesInstanceUID)
    path, grid = Path(store.get_image_uri(case)), read_image(store.get_image_uri(case)).grid
    drawn = []
    for hour in (3, 5, 1):
        masks = np.zeros((2, 24, 20), bool)
        masks[0, hour : hour + 4, 2:9] = True
        write_seg(
            tmp_path / "v.dcm", masks, store.task, grid, path, SegDescription("x", "MANUAL", time=1.7e9 + 3600 * hour)
        )
        orthanc.store([pydicom.dcmread(tmp_path / "v.dcm")])
        drawn.append(masks)
    lost = pydicom.dcmread(tmp_path / "v.dcm")
    lost.SOPInstanceUID = lost.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    lost.SeriesInstanceUID = generate_uid()
    lost.ReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()
    lost.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = generate_uid()
    orthanc.store([lost])
    unnamed = pydicom.dcmread(tmp_path / "v.dcm")
    unnamed.SOPInstanceUID = unnamed.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    unnamed.SeriesInstanceUID = generate_uid()
    for segment in unnamed.SegmentSequence:
        segment.SegmentLabel = "Segment 1"
        del segment.SegmentedPropertyTypeCodeSequence
    orthanc.store([unnamed])
    store.exchange.poll()
    assert (in_force(store, case) == drawn[1]).all()
    reported = {item["SOPInstanceUID"]: item["reason"] for item in store.exchange.status()["left_out"]}
    assert reported[unnamed.SOPInstanceUID] == "none of its segments is a structure of the task"
    assert len(store.labels.history.versions("final", case)) == 2


def test_label_without_an_image_does_not_block_others(orthanc: Orthanc, make: Make, tmp_path: Path) -> None:
    """Taken unchecked while the PACS was away, say. The client's next try, with a label that fits, is sent."""
    images = [slices("DX", 1, seed=seed)[0] for seed in (20, 21)]
    orthanc.store(images)
    store = make(2)
    store.exchange.poll()
    bad, good = sorted(str(image.SeriesInstanceUID) for image in images)
    masks = random_masks(store, good)
    Image.fromarray(np.ones((5, 7), np.uint8)).save(tmp_path / "bad.png")
    store.save_label(bad, str(tmp_path / "bad.png"), "final", {})
    submit(store, good, masks, tmp_path)
    store.exchange.send()
    assert store.label_state(good, "final")["state"] == "stored"
    state = store.label_state(bad, "final")
    assert state["state"] == "refused" and "shape" in state["reason"]
    assert [label["case"] for label in store.exchange.status()["waiting"]] == [bad]
    submit(store, bad, masks, tmp_path)
    store.exchange.send()
    assert store.label_state(bad, "final")["state"] == "stored"
    assert store.exchange.status()["waiting"] == []


def test_images_are_fetched_and_remain_in_the_pacs(orthanc: Orthanc, make: Make, tmp_path: Path) -> None:
    store = make(2)
    with pytest.raises(UserError, match=r"are in PACS .* store"):
        store.add_image("x", str(tmp_path / "x.png"), {})
    with pytest.raises(UserError, match=r"are in PACS .* delete"):
        store.remove_image("x")
    with pytest.raises(Conflict, match="nothing to export"):
        store.get_dataset_archive(None)


def test_the_cache_is_bounded(orthanc: Orthanc, make: Make, tmp_path: Path) -> None:
    images = [slices("DX", 1, seed=seed)[0] for seed in (10, 11, 12)]
    orthanc.store(images)
    store = make(2)
    store.exchange.poll()
    cases = [str(image.SeriesInstanceUID) for image in images]
    for case in cases[:2]:
        store.get_image_uri(case)
    submit(store, cases[0], random_masks(store, cases[0]), tmp_path)
    cache = ImageCache(store.images.folder, store.pacs, most_bytes=5000, is_preferred=store.is_labelled)
    cache.get(store.references()[cases[2]])
    assert all(cache.has(store.references()[case]) for case in cases)  # all were used a moment ago
    for age, case in enumerate(cases[:2]):
        old = (cache.folder / case).stat().st_mtime - IN_USE_SECONDS - 100 + age
        os.utime(cache.folder / case, (old, old))
    shutil.rmtree(cache.folder / cases[2])
    cache = ImageCache(store.images.folder, store.pacs, most_bytes=5000, is_preferred=store.is_labelled)
    cache.get(store.references()[cases[2]])
    # The one without a label goes first, though it was used later.
    assert [cache.has(store.references()[case]) for case in cases] == [True, False, True]
    assert read_image(store.get_image_uri(cases[1])).pixels.any()  # and comes back when it is needed
