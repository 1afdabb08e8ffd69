"""Unusual series of a PACS (tilted, incomplete, duplicate slices), through the real server and Orthanc."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import requests
import SimpleITK as sitk
from dicomweb_client import DICOMwebClient
from pydicom.uid import generate_uid

from samstudent.task import load_task
from support.ct_study import SHAPE, TASK, CtStudy, draw_series
from support.film_study import running_orthanc, server_on
from support.live_server import RunningServer, wait_until

pytestmark = pytest.mark.server
#: mm in plane from slice to slice, 5 mm apart: about 20 degrees.
TILT = 1.8
#: Index of the slice in the middle.
MIDDLE = SHAPE[0] // 2


def tilted(images: list[Any], masks: np.ndarray) -> None:
    """Move each slice as a tilted gantry does: what is drawn leans, for whoever takes the pixels for a box."""
    for k, image in enumerate(images):
        image.ImagePositionPatient = [-72, -72 + TILT * k, 5.0 * k]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CtStudy, dict[str, str]]]:
    """Study of a tilted CT, a series with a localizer and a duplicate slice, and one without a slice."""
    root = tmp_path_factory.mktemp("odd")
    (root / "organs.yaml").write_text(TASK)
    with running_orthanc(root / "orthanc") as orthanc:
        study = CtStudy(orthanc, root, root / "organs.yaml", load_task(root / "organs.yaml"), {}, {})
        cases = {}
        for seed, kind in enumerate(("tilted", "more", "less")):
            images, masks = draw_series(seed)
            if kind == "tilted":
                tilted(images, masks)
            elif kind == "more":
                twice, scout = pydicom.dcmread(saved(images[MIDDLE], root)), pydicom.dcmread(saved(images[0], root))
                scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
                scout.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
                scout.Rows, scout.Columns, scout.PixelData = 10, 12, bytes(240)
                for image in (twice, scout):
                    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
                images = [scout, *images, twice]
            else:
                del images[3]
            cases[kind] = str(images[-1].SeriesInstanceUID)
            study.truth[cases[kind]], study.studies[cases[kind]] = masks, str(images[-1].StudyInstanceUID)
            orthanc.store(images)
        yield study, cases


def saved(image: Any, folder: Path) -> Path:
    image.save_as(folder / "copy.dcm", enforce_file_format=True)
    return folder / "copy.dcm"


@pytest.fixture(scope="module")
def server(odd: tuple[CtStudy, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with server_on(odd[0], tmp_path_factory.mktemp("home")) as running:
        wait_until(lambda: len(get(running, "datastore/?output=all").json()["objects"]) == 3)
        yield running


def get(server: RunningServer, path: str) -> requests.Response:
    return requests.get(f"{server.url}/{path}", timeout=120)


def image_of(server: RunningServer, case: str, folder: Path) -> sitk.Image:
    answer = get(server, f"datastore/image?image={case}")
    assert answer.ok, answer.text
    (folder / "image.nii.gz").write_bytes(answer.content)
    return sitk.ReadImage(str(folder / "image.nii.gz"))


def clicked(server: RunningServer, case: str, ijk: list[int], folder: Path, agent: str) -> sitk.Image:
    params = {"label": "liver", "foreground": [ijk], "background": [], "result_extension": ".nrrd"}
    answer = requests.post(
        f"{server.url}/infer/sam?image={case}&output=image", data={"params": json.dumps(params)},
        headers={"User-Agent": agent}, timeout=300,
    )  # fmt: skip
    assert answer.ok, answer.text
    (folder / "answer.nrrd").write_bytes(answer.content)
    return sitk.ReadImage(str(folder / "answer.nrrd"))


def centre(mask: np.ndarray) -> list[int]:
    """i, j of the middle of a mask (y, x)."""
    return [int(np.median(where)) for where in np.nonzero(mask)][::-1]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_tilted_ct_and_label_round_trip(
    server: RunningServer, odd: tuple[CtStudy, dict[str, str]], tmp_path: Path
) -> None:
    """In ITK the liver has its position; clicks and labels there are mapped to the slices of the series."""
    study, case = odd[0], odd[1]["tilted"]
    truth = study.truth[case]  # (2, z, y, x) as stored
    image = image_of(server, case, tmp_path)
    pixels = sitk.GetArrayFromImage(image)
    shown = np.zeros((2, *pixels.shape), bool)
    for k in range(pixels.shape[0]):  # each pixel of ITK's where the series has it
        for j, i in np.ndindex(pixels.shape[1:]):
            x, y, z = image.TransformIndexToPhysicalPoint((i, j, k))
            column, row = round((x + 72) / 3), round((y + 72 - TILT * k) / 3)
            assert z == pytest.approx(5 * k)
            if 0 <= row < 48 and 0 <= column < 48:
                shown[:, k, j, i] = truth[:, k, row, column]
    assert np.median(pixels[shown[0]]) > 1000 > np.percentile(pixels[~shown[0]], 80)

    i, j = centre(shown[0, MIDDLE])
    answer = clicked(server, case, [i, j, MIDDLE], tmp_path, "python")
    assert answer.GetSize() == image.GetSize()
    assert answer.TransformIndexToPhysicalPoint((3, 4, 5)) == pytest.approx(
        image.TransformIndexToPhysicalPoint((3, 4, 5))
    )
    assert dice(sitk.GetArrayFromImage(answer)[MIDDLE] > 0, shown[0, MIDDLE]) > 0.7
    ohif = clicked(server, case, [*centre(truth[0, MIDDLE]), MIDDLE], tmp_path, "Mozilla/5.0 (X11)")
    assert dice(sitk.GetArrayFromImage(ohif)[MIDDLE] > 0, truth[0, MIDDLE]) > 0.7

    label = sitk.GetImageFromArray((shown[0] + 2 * (shown[1] & ~shown[0])).astype(np.uint8))
    label.CopyInformation(image)
    sitk.WriteImage(label, str(tmp_path / "label.nii.gz"))
    info = {"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]}
    with (tmp_path / "label.nii.gz").open("rb") as file:
        put = requests.put(
            f"{server.url}/datastore/label?image={case}", data={"params": json.dumps(info)},
            files={"label": ("label.nii.gz", file)}, timeout=120,
        )  # fmt: skip
    assert put.ok, put.text

    def stored() -> Any:
        pacs = get(server, f"datastore/label/info?label={case}&tag=final").json()["pacs"]
        return pacs if pacs["state"] == "stored" else None

    where = wait_until(stored)
    client = DICOMwebClient(study.orthanc.url)
    seg = client.retrieve_instance(study.studies[case], where["SeriesInstanceUID"], where["SOPInstanceUID"])
    seg = highdicom.seg.Segmentation.from_dataset(seg)
    slices = client.retrieve_series(study.studies[case], case)
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    frames = seg.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in slices], segment_numbers=[1], assert_missing_frames_are_empty=True
    )
    assert (frames[..., 0].astype(bool) == truth[0]).all()

    back = get(server, f"datastore/label?label={case}&tag=final")
    (tmp_path / "back.seg.nrrd").write_bytes(back.content)
    layers = sitk.ReadImage(str(tmp_path / "back.seg.nrrd"))
    assert layers.GetSize() == image.GetSize()
    assert dice(sitk.GetArrayFromImage(layers).reshape(pixels.shape) == 1, shown[0]) > 0.99


def test_localizer_and_duplicate_slice_are_ignored(
    server: RunningServer, odd: tuple[CtStudy, dict[str, str]], tmp_path: Path
) -> None:
    image = image_of(server, odd[1]["more"], tmp_path)
    assert image.GetSize() == SHAPE[::-1]
    masks = odd[0].truth[odd[1]["more"]]
    assert np.median(sitk.GetArrayFromImage(image)[:, ::1][masks[0]]) > 1000
    assert "1 localizer images are skipped" in server.log.read_text()
    assert "1 duplicate slices are skipped" in server.log.read_text()


def test_series_without_a_slice_is_refused(server: RunningServer, odd: tuple[CtStudy, dict[str, str]]) -> None:
    """The error contains its id and the reason, in every endpoint."""
    case = odd[1]["less"]
    answer = get(server, f"datastore/image?image={case}")
    assert answer.status_code == 400
    said = answer.json()["detail"]
    assert said.startswith(f"{case}: slices are missing, doubled or unevenly spaced") and "/" not in said
    assert get(server, "samstudent/pacs").json()["unreadable"] == [{"case": case, "reason": said}]


def test_series_without_a_slice_is_never_selected(server: RunningServer, odd: tuple[CtStudy, dict[str, str]]) -> None:
    params = {"reserve_minutes": 0}
    ids = {server.client(f"c{i}").next_sample("random", params).get("id") for i in range(8)}
    assert odd[1]["less"] not in ids and ids - {None}
