"""Unreachable, slow or faulty PACS: ``Unavailable`` with a reason, in time, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from samstudent.cli.doctor import doctor
from samstudent.errors import NotFound, Unavailable, UserError
from samstudent.imaging.annotations import read_label
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_dx_write import dx_image, save_film
from samstudent.imaging.dicom_seg_write import SegDescription, write_seg
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.rounds.study import Study
from samstudent.server.auth import audit
from samstudent.server.pacs import client, incoming, outgoing
from samstudent.server.pacs.client import Pacs, Refused
from samstudent.server.pacs.datastore import PacsDatastore
from samstudent.server.pacs.orthanc import free_port
from samstudent.server.pacs.settings import PacsSettings
from samstudent.server.pacs.state_folder import pacs_folder
from samstudent.server.pacs.sync_state import SyncState
from samstudent.task import load_task
from support.fake_pacs import Answer, FakePacs, drip, listed, say, silent
from support.live_server import TASK

QUICK = PacsSettings(timeout=1.0)


@pytest.fixture
def fake() -> Iterator[FakePacs]:
    pacs = FakePacs()
    yield pacs
    pacs.close()


@pytest.fixture
def store(fake: FakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PacsDatastore:
    """Study with one case, 1.2.3, whose image was not fetched yet."""
    monkeypatch.setattr(client, "LIST_TIMEOUTS", 1)
    monkeypatch.setattr(client, "IMAGE_TIMEOUTS", 1)
    (tmp_path / "tiny.yaml").write_text(TASK)
    datastore = PacsDatastore(
        tmp_path / "state", Pacs(fake.url, QUICK), load_task(tmp_path / "tiny.yaml"), tmp_path / "cache"
    )
    fake.answer = say(200, listed())
    datastore.exchange.poll()
    assert datastore.list_images() == ["1.2.3"]
    return datastore


def sends(file: bytes) -> Answer:
    """Response with one DICOM file, in the form of WADO-RS."""
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n--x--\r\n"
    return say(200, body, 'multipart/related; type="application/dicom"; boundary=x')


NONSENSE = {
    "html": say(200, b"<html>Log in</html>", "text/html"),
    "an error page": say(500, b"Traceback: database is locked", "text/plain"),
    "not found": say(404, b"no such route", "text/plain"),
    "a number": say(200, b"7"),
    "a list of texts": say(200, b'["a", "b"]'),
    "no uids": say(200, b'[{"00080060": {"vr": "CS", "Value": ["DX"]}}]'),
    "a path as uid": say(200, listed(**{"0020000E": {"vr": "UI", "Value": ["../../x"]}})),
    "half a text": say(200, listed()[:40]),
    "drops for ever": drip,
    "silence": silent,
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE.keys())
def test_invalid_responses_are_reported_and_change_nothing(
    fake: FakePacs, store: PacsDatastore, answer: Answer
) -> None:
    fake.answer = answer
    with pytest.raises(Unavailable, match=fake.url) as error:
        store.exchange.poll()
    assert error.value.status == 503
    status = store.exchange.status()
    assert status["state"] == "away" and fake.url in status["reason"]
    assert store.list_images() == ["1.2.3"]
    with pytest.raises(Unavailable, match=fake.url):
        store.get_image_uri("1.2.3")
    assert list((store.images.folder).iterdir()) == []  # no half image
    fake.answer = say(200, listed())
    store.exchange.poll()
    assert store.exchange.status()["state"] == "connected" and store.exchange.status()["reason"] == ""


def test_unreachable_pacs_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no response"):
        Pacs(f"http://127.0.0.1:{free_port()}/dicom-web", QUICK).series()


def test_invalid_series_does_not_hide_others(fake: FakePacs) -> None:
    fake.answer = say(200, json.dumps([{"00080060": {}}, *json.loads(listed())]).encode())
    assert [series.uid for series in Pacs(fake.url, QUICK).series()] == ["1.2.3"]


def test_listing_works_without_counts_of_the_pacs(fake: FakePacs, store: PacsDatastore) -> None:
    """The number of a series' images is optional in QIDO-RS."""
    item = {**json.loads(listed())[0], "0020000E": {"vr": "UI", "Value": ["1.2.9"]}}
    del item["00201209"]
    both, one = say(200, json.dumps([*json.loads(listed()), item]).encode()), say(200, json.dumps([item]).encode())
    fake.answer = lambda handler: (one if "/instances" in handler.path else both)(handler)
    store.exchange.poll()
    assert store.list_images() == ["1.2.3", "1.2.9"]
    asked = len(fake.asked)
    store.exchange.poll()
    assert len(fake.asked) == asked + 1  # the list alone


def test_large_pacs_is_listed_in_several_polls(fake: FakePacs, store: PacsDatastore) -> None:
    item = {**json.loads(listed())[0], "0020000E": {"vr": "UI", "Value": ["1.2.9"]}}
    fake.answer = say(200, json.dumps([*json.loads(listed()), item]).encode())
    store.exchange.poll(seconds=-1)
    assert store.list_images() == ["1.2.3"]
    fake.answer = lambda handler: say(200, json.dumps([item] if "1.2.9" in handler.path else both).encode())(handler)
    both = [*json.loads(listed()), item]
    store.exchange.poll()
    assert store.list_images() == ["1.2.3", "1.2.9"]


def test_inaccessible_series_does_not_hide_others(fake: FakePacs, store: PacsDatastore) -> None:
    item = {**json.loads(listed())[0], "0020000E": {"vr": "UI", "Value": ["1.2.9"]}}
    both = say(200, json.dumps([item, *json.loads(listed())]).encode())
    fake.answer = lambda handler: (say(404, b"gone", "text/plain") if "1.2.9" in handler.path else both)(handler)
    store.exchange.poll()
    assert store.list_images() == ["1.2.3"]
    assert store.exchange.status()["state"] == "connected"


def test_wrong_image_from_the_pacs_is_refused(fake: FakePacs, store: PacsDatastore, tmp_path: Path) -> None:
    film = save_film(dx_image(np.zeros((8, 8), np.uint16), "other"), tmp_path).read_bytes()
    fake.answer = sends(film)
    with pytest.raises(Unavailable, match=r"requested SOPInstanceUID 1\.2\.3\.4"):
        store.get_image_uri("1.2.3")


def test_concurrent_fetches_of_one_image_are_one_download(fake: FakePacs, store: PacsDatastore, tmp_path: Path) -> None:
    """The second request uses the file of the first, which may already be read."""
    image = dx_image(np.zeros((8, 8), np.uint16), "film", SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.4")
    film = save_film(image, tmp_path).read_bytes()
    whole = sends(film)
    firsts: list[tuple[Path, int]] = []

    def second(handler: BaseHTTPRequestHandler) -> None:
        fake.answer = whole
        place = Path(store.get_image_uri("1.2.3"))
        firsts.append((place, place.stat().st_ino))
        whole(handler)

    fake.answer = second
    assert Path(store.get_image_uri("1.2.3")) == firsts[0][0]
    assert firsts[0][0].stat().st_ino == firsts[0][1]


def test_incomplete_series_is_refused(tmp_path: Path, fake: FakePacs) -> None:
    (tmp_path / "t.yaml").write_text("name: t\ndimension: 3\nstructures: [a]\nstudent: {size: [32, 32, 32]}\n")
    store = PacsDatastore(tmp_path / "s", Pacs(fake.url, QUICK), load_task(tmp_path / "t.yaml"), tmp_path / "cache")
    image = dx_image(np.zeros((8, 8), np.uint16), "ct", SeriesInstanceUID="1.2.3")
    fake.answer = say(
        200, listed(**{"00080060": {"vr": "CS", "Value": ["CT"]}, "00201209": {"vr": "IS", "Value": [2]}})
    )
    store.exchange.poll()
    film = save_film(image, tmp_path).read_bytes()
    fake.answer = sends(film)
    with pytest.raises(Unavailable, match=r"sent 1 images of series 1\.2\.3, which has 2"):
        store.get_image_uri("1.2.3")
    assert list(store.images.folder.iterdir()) == []


STOW = {
    "silence": (silent, Unavailable),
    "nothing": (say(200, b"", "text/plain"), Unavailable),
    "another instance": (
        say(200, b'{"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["9.9"]}}]}}'),
        Unavailable,
    ),
    "refused": (say(409, b'{"00081198": {"vr": "SQ", "Value": []}}'), Refused),
    "a reason": (
        say(200, b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [43264]}}]}}'),
        Refused,
    ),
}


@pytest.mark.parametrize(("answer", "kind"), STOW.values(), ids=STOW.keys())
def test_store_requires_the_confirmation_of_the_pacs(fake: FakePacs, answer: Answer, kind: type[Exception]) -> None:
    image = dx_image(np.zeros((8, 8), np.uint16), "a")
    fake.answer = answer
    with pytest.raises(kind):
        Pacs(fake.url, QUICK).store(image)


def test_existing_instance_counts_as_stored(fake: FakePacs) -> None:
    fake.answer = say(200, b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [273]}}]}}')
    Pacs(fake.url, QUICK).store(dx_image(np.zeros((8, 8), np.uint16), "a"))


def test_label_is_kept_after_any_response_of_the_pacs(fake: FakePacs, store: PacsDatastore, tmp_path: Path) -> None:
    """No response, then a refusal, then success: the status is correct each time."""
    task, film = store.task, save_film(dx_image(np.zeros((8, 8), np.uint16), "f"), tmp_path)
    masks = np.zeros((3, 8, 8), bool)
    masks[0, 2:5, 2:5] = True
    write_masks(tmp_path / "label.seg.nrrd", masks, task, read_image(film).grid)
    fake.answer = silent
    store.save_label("1.2.3", str(tmp_path / "label.seg.nrrd"), "final", {"client_id": "ann"})
    with pytest.raises(Unavailable):
        store.exchange.send()
    state = store.get_label_info("1.2.3", "final")["pacs"]
    assert state["state"] == "waiting" and "no response" in state["reason"] and "saved" in state["reason"]
    kept = Path(store.get_label_uri("1.2.3", "final"))
    assert kept.read_bytes() == (tmp_path / "label.seg.nrrd").read_bytes()

    image = store.images.place(store.references()["1.2.3"])  # as if it had been fetched in good times
    image.parent.mkdir(parents=True)
    image.write_bytes(film.read_bytes())
    fake.answer = say(409, b"out of space", "text/plain")
    store.exchange.send()
    state = store.get_label_info("1.2.3", "final")["pacs"]
    assert state["state"] == "refused" and "out of space" in state["reason"]
    assert [label["case"] for label in store.exchange.status()["waiting"]] == ["1.2.3"]

    # A second server process, after a restart, knows what is to be done; a new version is not held up.
    again = PacsDatastore(tmp_path / "state", Pacs(fake.url, QUICK), task, tmp_path / "cache")
    again.save_label("1.2.3", str(tmp_path / "label.seg.nrrd"), "final", {"client_id": "ann"})
    fake.answer = answer_with_what_is_stored
    again.exchange.send()
    assert again.get_label_info("1.2.3", "final")["pacs"]["state"] == "stored"
    assert again.exchange.status()["waiting"] == []


def fetched_film(store: PacsDatastore, folder: Path) -> Path:
    """Radiograph of 8 x 8 pixels, in the place of the fetched image of its case."""
    film = save_film(dx_image(np.zeros((8, 8), np.uint16), "f"), folder)
    image = store.images.place(store.references()["1.2.3"])
    image.parent.mkdir(parents=True)
    image.write_bytes(film.read_bytes())
    return film


def test_label_map_is_sent_with_the_names_of_its_label_info(
    store: PacsDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other case and order than in the task, the second by idx; also after loss of the list."""
    film = fetched_film(store, tmp_path)
    drawn = np.zeros((8, 8), np.uint8)
    drawn[1:4, 1:4], drawn[5:7, 5:8] = 3, 2
    Image.fromarray(drawn).save(tmp_path / "label.png")
    with pytest.raises(UserError, match="values 2, 3"):
        store.save_label("1.2.3", str(tmp_path / "label.png"), "final", {"label_info": [{"name": "ulna", "idx": 2}]})
    named = [{"name": "Ulna", "idx": 2}, {"name": "RADIUS ", "idx": 3}]
    store.save_label("1.2.3", str(tmp_path / "label.png"), "final", {"label_info": named})
    (tmp_path / "state" / ".samstudent" / "datastore_v2.sqlite").unlink()
    (tmp_path / "state" / "datastore_v2.json").unlink(missing_ok=True)
    again = PacsDatastore(tmp_path / "state", store.pacs, store.task, tmp_path / "cache")
    sent: list[Dataset] = []
    monkeypatch.setattr(again.pacs, "store", sent.append)
    outgoing.send(again, "1.2.3", "final", ("1.2.5", "1.2.6"))
    (seg,) = sent
    seg.save_as(tmp_path / "seg.dcm")
    masks = read_masks(tmp_path / "seg.dcm", store.task, read_image(film).grid)
    by_name = dict(zip(store.task.names, masks, strict=True))
    assert (by_name["radius"] == (drawn == 3)).all() and (by_name["ulna"] == (drawn == 2)).all()
    assert [segment.SegmentLabel for segment in seg.SegmentSequence][:2] == ["radius", "ulna"]


def test_a_structure_that_is_not_annotated_is_not_sent_as_absent(
    store: PacsDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = fetched_film(store, tmp_path)
    drawn = np.zeros((8, 8), np.uint8)
    drawn[1:4, 1:4] = 1
    Image.fromarray(drawn).save(tmp_path / "label.png")
    named = [{"name": "radius", "idx": 1}, {"name": "ignore:ulna", "idx": 2}]
    store.save_label("1.2.3", str(tmp_path / "label.png"), "final", {"label_info": named})
    sent: list[Dataset] = []
    monkeypatch.setattr(store.pacs, "store", sent.append)
    outgoing.send(store, "1.2.3", "final", ("1.2.5", "1.2.6"))
    assert [segment.SegmentLabel for segment in sent[0].SegmentSequence] == ["radius", "lunate"]
    assert sent[0].SeriesDescription == "Label, task tiny; not annotated: ulna"
    # Another server, or this one after its state was lost, reads it back as what it is.
    sent[0].save_as(tmp_path / "seg.dcm")
    read = read_label(tmp_path / "seg.dcm", store.task, read_image(film).grid)
    assert dict(zip(store.task.names, read.annotated, strict=True)) == {"radius": True, "ulna": False, "lunate": True}


def test_doctor_lists_images_of_the_pacs_that_could_not_be_used(
    store: PacsDatastore, fake: FakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    task = load_task(tmp_path / "tiny.yaml")
    sync_state = SyncState(Study(fake.url, str(pacs_folder(fake.url)), task).folder / "pacs" / "pacs.sqlite")
    sync_state.set_image_problem("1.2.3", "as it is", "slices are missing")
    assert not doctor(fake.url, str(tmp_path / "tiny.yaml"))
    assert "case 1.2.3: slices are missing" in " ".join(capsys.readouterr().out.split())


def test_older_segmentation_does_not_replace_a_newer_label(
    store: PacsDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_log", audit.AuditLog(tmp_path / "audit.jsonl"))
    film, label = save_film(dx_image(np.zeros((8, 8), np.uint16), "f"), tmp_path), tmp_path / "label.seg.nrrd"
    masks = np.zeros((3, 8, 8), bool)
    masks[0, 2:5, 2:5] = True
    write_masks(label, masks, store.task, read_image(film).grid)
    seg = write_seg(
        tmp_path / "old.dcm",
        masks,
        store.task,
        read_image(film).grid,
        film,
        SegDescription("Label", "MANUAL", creator="anna"),
    )
    store.save_label("1.2.3", str(label), "final", {"user": "ann"})
    reference = replace(store.references()["1.2.3"], series=str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID))
    for date, user in (("20190101", "ann"), ("29990101", "anna")):
        seg.ContentDate, seg.SOPInstanceUID = date, f"1.2.{date}"
        seg.save_as(tmp_path / "seg.dcm")
        found = replace(incoming.read(tmp_path / "seg.dcm", "1.2", f"1.2.{date}"), images=frozenset())
        incoming.take(store, found, {"1.2.3": replace(reference, image=None)})
        assert store.get_label_info("1.2.3", "final")["user"] == user
    (line,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["action"], entry["user"], entry["case"]) == ("label saved", "anna", "1.2.3")


def test_unreadable_segmentation_is_ignored(store: PacsDatastore, tmp_path: Path) -> None:
    """It must not block later segmentations or the next start."""
    film = save_film(dx_image(np.zeros((8, 8), np.uint16), "f"), tmp_path)
    seg = write_seg(
        tmp_path / "seg.dcm",
        np.ones((3, 8, 8), bool),
        store.task,
        read_image(film).grid,
        film,
        SegDescription("L", "MANUAL"),
    )
    del seg.SegmentSequence[0].SegmentNumber
    seg.save_as(tmp_path / "seg.dcm")
    found = replace(incoming.read(tmp_path / "seg.dcm", "1.2", "1.2.9"), images=frozenset())
    reference = replace(store.references()["1.2.3"], series=found.source, image=None)
    incoming.take(store, found, {"1.2.3": reference})
    assert not store.is_labelled("1.2.3")
    assert store.sync_state.is_examined("1.2.9")


def answer_with_what_is_stored(handler: BaseHTTPRequestHandler) -> None:
    """Response of a correct PACS: the SOP Instance UID of the sent file."""
    import io

    import pydicom

    if handler.headers.get("Transfer-Encoding") == "chunked":
        body = b""
        while size := int(handler.rfile.readline(), 16):
            body += handler.rfile.read(size)
            handler.rfile.readline()
    else:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
    start = body.index(b"DICM") - 128
    uid = str(pydicom.dcmread(io.BytesIO(body[start:]), stop_before_pixels=True).SOPInstanceUID)
    item = {"00081155": {"vr": "UI", "Value": [uid]}}
    say(200, json.dumps({"00081199": {"vr": "SQ", "Value": [item]}}).encode())(handler)


def test_removed_cases_keep_their_labels(fake: FakePacs, store: PacsDatastore, tmp_path: Path) -> None:
    """An empty list may be an error of the PACS: when the cases are listed again, all labels are there."""
    film = save_film(dx_image(np.zeros((8, 8), np.uint16), "f"), tmp_path)
    masks = np.ones((3, 8, 8), bool)
    write_masks(tmp_path / "label.seg.nrrd", masks, store.task, read_image(film).grid)
    store.save_label("1.2.3", str(tmp_path / "label.seg.nrrd"), "final", {"client_id": "ann"})
    version = store.version("1.2.3", "final")
    fake.answer = say(200, b"[]")
    store.exchange.poll()
    assert store.list_images() == []
    with pytest.raises(NotFound, match="neither a case of the study nor a series"):
        store.get_image_uri("1.2.3")
    fake.answer = say(200, listed())
    with pytest.raises(Unavailable):  # the label would be sent, but this PACS has no image to go with it
        store.exchange.poll()
    assert store.get_labeled_images() == ["1.2.3"]
    assert store.get_label_info("1.2.3", "final")["client_id"] == "ann"
    assert store.version("1.2.3", "final") == version


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    from monailabel.config import settings as host

    assert {"CT", "MR", "CR", "DX"} <= set(PacsSettings.from_environment().modalities)
    monkeypatch.setattr(
        host, "MONAI_LABEL_DICOMWEB_SEARCH_FILTER", {"Modality": ["CR", "DX"], "BodyPartExamined": "WRIST"}
    )
    settings = PacsSettings.from_environment()
    assert (settings.modalities, settings.filters) == (("CR", "DX"), {"BodyPartExamined": "WRIST"})
    for name, value in (("POLL_SECONDS", "soon"), ("TIMEOUT", "-1"), ("PSEUDO_LABELS", "maybe"), ("CACHE_GB", "0")):
        with monkeypatch.context() as patch:
            patch.setenv(f"SAMSTUDENT_PACS_{name}", value)
            with pytest.raises(UserError, match=f"SAMSTUDENT_PACS_{name}={value!r}"):
                PacsSettings.from_environment()
