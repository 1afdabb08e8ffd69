"""Photograph with an EXIF orientation, from the server to a client and back, by the host's own client."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from monailabel.client import MONAILabelClient
from PIL import Image

from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.imaging.orientation import upright
from support.live_server import RunningServer, TinyStudy, detail, draw_film, wait_until

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def study(study: TinyStudy) -> TinyStudy:
    """A single photograph, 50 x 64 upright, saved rotated."""
    for path in study.folder.glob("*.png"):
        path.unlink()
    pixels, masks = draw_film(np.random.default_rng(3))
    study.truth["photo"] = masks[:, :50]
    exif = Image.Exif()
    exif[274] = 6
    # Its pixels as a camera held on its side stores them: 8 turns them so that 6 turns them back.
    Image.fromarray(upright((pixels[:50] >> 8).astype(np.uint8), 8)).save(
        study.folder / "photo.jpg", exif=exif, quality=95
    )
    return study


def test_rotated_image_is_upright_for_clients_and_aligned_with_its_label(
    server: RunningServer, study: TinyStudy, client: MONAILabelClient, tmp_path: Path
) -> None:
    # What 3D Slicer does: the next sample's file where it can be reached, else the download under its name.
    sample = client.next_sample("random", {})
    assert sample["id"] == "photo" and sample["name"] == "photo.png"
    near = sitk.ReadImage(sample["path"])
    far = tmp_path / sample["name"]
    far.write_bytes(requests.get(f"{server.url}/datastore/image?image=photo", timeout=60).content)
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(far))) == sitk.GetArrayFromImage(near)).all()
    assert near.GetSize() == (64, 50)
    ours = read_image(study.folder / "photo.jpg")
    assert (sitk.GetArrayFromImage(near) == ours.pixels[0]).all()

    # A click where the annotator sees the round bone draws it there.
    y, x = (int(v) for v in np.argwhere(study.truth["photo"][2]).mean(axis=0))
    file, _ = client.infer("sam", "photo", {"label": "lunate", "foreground": [[x, y, 0]], "background": []})
    drawn = read_masks(file, study.task, ours.grid)[2]
    truth = study.truth["photo"][2]
    assert 2 * (drawn & truth).sum() / (drawn.sum() + truth.sum()) > 0.6

    # A label on the unturned photograph is refused, an upright one is taken.
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((64, 50), np.uint8)), str(tmp_path / "label.nrrd"))
    with (tmp_path / "label.nrrd").open("rb") as content:
        answer = requests.put(f"{server.url}/datastore/label?image=photo", files={"label": content}, timeout=60)
    assert answer.status_code == 400 and "orientation 6" in detail(answer), answer.text
    label = sitk.GetImageFromArray(study.truth["photo"][2].astype(np.uint8))
    label.CopyInformation(near)
    sitk.WriteImage(label, str(tmp_path / "label.nrrd"))
    client.save_label("photo", str(tmp_path / "label.nrrd"), params={"label_info": [{"name": "lunate", "idx": 1}]})
    assert wait_until(lambda: (study.folder / "labels" / "final" / "photo.nrrd").is_file(), 20)
    pairs = requests.get(f"{server.url}/datastore/?output=train", timeout=60).json()
    assert [pair["image"] for pair in pairs] == [sample["path"]]
    log = server.log.read_text()
    assert "photo.jpg: has orientation 6" in log
