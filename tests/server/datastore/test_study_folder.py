"""Study folder: no label is lost by another process, a crash, or a repeated request."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from monailabel.datastore.local import LocalDatastore

from samstudent.errors import Conflict, NotFound, UserError
from samstudent.imaging.file_names import LABELS
from samstudent.imaging.folder import list_folder
from samstudent.server.datastore.identifiers import check_image_id, check_name
from samstudent.server.datastore.label_index import LabelIndex
from samstudent.server.datastore.label_rules import LabelRules
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.datastore.study_list import export_all

CASES = [f"case{i:03}" for i in range(12)]
INDEX = Path(".samstudent", "datastore_v2.sqlite")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    for case in CASES:
        (folder / f"{case}.png").write_bytes(case.encode())
    return folder


def label(tmp_path: Path, content: str = "label", name: str = "upload.nii.gz") -> str:
    file = tmp_path / name
    file.write_text(content)
    return str(file)


def earlier_labels(store: StudyFolderDatastore, case: str, tag: str = "final") -> list[Path]:
    """Label files of a case in the history, oldest first."""
    return store.labels.history.versions(tag, case)


def on_disk(study: Path) -> dict[str, Any]:
    """Case id -> entry in the index."""
    entries = LabelIndex(study / INDEX).read(None).entries
    return {case: entry.model_dump() for case, entry in entries.items()}


def in_host_list(study: Path) -> dict[str, Any]:
    """Case id -> entry, as read by the host's own tools."""
    objects: dict[str, Any] = json.loads((study / "datastore_v2.json").read_text())["objects"]
    return objects


def wait_for_host_list(study: Path, condition: Callable[[dict[str, Any]], bool]) -> None:
    deadline = time.time() + 20
    while time.time() < deadline:
        with contextlib.suppress(OSError, ValueError):
            if condition(in_host_list(study)):
                return
        time.sleep(0.02)
    pytest.fail("the host's list is not as it should be")


# ---- several processes ----


def write(kind: str, study: Path, key: str, count: int, how: str) -> None:
    """Body of a writing process. Each label has author and time in the file and in its metadata."""
    make = StudyFolderDatastore if kind == "safe" else host_datastore
    store = make(study)
    (study / ".samstudent" / f"ready-{key}").touch()
    while not (study / ".samstudent" / "go").exists():
        pass
    with tempfile.TemporaryDirectory() as folder, (study / ".samstudent" / "log").open("a") as log:
        file = Path(folder) / "x.nii.gz"
        for i in range(count):
            case = CASES[i % len(CASES)]
            if how == "info":
                store.update_image_info(case, {f"{key}{i}": i})
                continue
            content = f"{key}{time.monotonic_ns()}"
            file.write_text(content)
            store.save_label(case, str(file), key, {"written": content})
            log.write(f"{case} {content}\n")
            log.flush()


def host_datastore(study: Path) -> LocalDatastore:
    return LocalDatastore(str(study), extensions=["*.nii.gz", "*.png"], auto_reload=True)


def writer(study: Path, kind: str, key: str, count: int, how: str) -> multiprocessing.process.BaseProcess:
    """A process that is ready to write. Forked, because starting Python and importing the host takes seconds."""
    ready = study / ".samstudent" / f"ready-{key}"
    ready.parent.mkdir(exist_ok=True)
    ready.unlink(missing_ok=True)
    export_all()  # no thread is at work at the fork: the child would inherit what that has locked
    process = multiprocessing.get_context("fork").Process(target=write, args=(kind, study, key, count, how))
    process.start()
    while not ready.exists():
        assert process.is_alive()
        time.sleep(0.01)
    return process


def two_processes_write(study: Path, kind: str, count: int = 40) -> int:
    """The server notes who was given which image, the training child its scores; how many notes are there after."""
    writers = [writer(study, kind, key, count, "info") for key in ("server", "child")]
    (study / ".samstudent" / "go").touch()
    for process in writers:
        process.join()
        assert process.exitcode == 0
    read = in_host_list if kind == "host" else on_disk
    infos = [entry["image"]["info"] for entry in read(study).values()]
    return sum(f"{key}{i}" in info for info in infos for key in ("server", "child") for i in range(count))


def test_two_processes_lose_no_change(study: Path) -> None:
    assert two_processes_write(study, "safe") == 80


def test_host_loses_updates(study: Path) -> None:
    kept = two_processes_write(study, "host")
    assert kept < 80, "the host keeps all updates of two processes: StudyFolderDatastore.transaction is needless"


def test_running_server_lists_labels_saved_by_a_child_process(study: Path, tmp_path: Path) -> None:
    server, child = StudyFolderDatastore(study), StudyFolderDatastore(study)
    child.save_label(CASES[0], label(tmp_path), "final", {"user": "child"})
    assert server.get_labeled_images() == [CASES[0]]
    server.save_label(CASES[1], label(tmp_path), "final", {"user": "server"})
    child.update_image_info(CASES[2], {"score": 0.5})
    assert {c for c, e in on_disk(study).items() if "final" in e["labels"]} == {CASES[0], CASES[1]}
    assert server.get_label_info(CASES[0], "final")["user"] == "child"
    assert server.get_image_info(CASES[2])["score"] == 0.5


def test_host_loses_labels_saved_by_another_process(study: Path, tmp_path: Path) -> None:
    globs = ["*.nii.gz", "*.png"]
    server, child = LocalDatastore(str(study), extensions=globs), LocalDatastore(str(study), extensions=globs)
    server.save_label(CASES[0], label(tmp_path), "final", {"user": "me"})
    child.update_image_info(CASES[2], {"score": 0.5})
    assert "final" not in in_host_list(study)[CASES[0]]["labels"], "the host reads before it writes: see above"


def test_threads_read_while_another_writes(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    stop, errors = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                assert len(store.list_images()) == len(CASES)
                store.status(), store.json(), store.datalist()
            except Exception as error:
                errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    try:
        for i in range(60):
            store.save_label(CASES[i % 12], label(tmp_path, str(i)), "final", {"i": i})
    finally:
        stop.set()
        for thread in readers:
            thread.join()
    assert not errors


def test_two_threads_write(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)

    def write(key: str) -> None:
        for i in range(30):
            store.update_image_info(CASES[0], {f"{key}{i}": i})

    threads = [threading.Thread(target=write, args=(key,)) for key in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([k for k in StudyFolderDatastore(study).get_image_info(CASES[0]) if k[0] in "ab"]) == 60


# ---- crashes ----


@pytest.mark.parametrize("tag", ["final", "pseudo"])
def test_killed_while_writing(study: Path, tag: str) -> None:
    rng = random.Random(len(tag))
    log = study / ".samstudent" / "log"
    for _ in range(15):
        process = writer(study, "safe", tag, 100_000, "label")
        (study / ".samstudent" / "go").touch()
        time.sleep(rng.uniform(0.02, 0.2))
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        known = dict(line for line in lines if len(line) == 2)  # acknowledged to the client
        objects = on_disk(study)  # whole, before anything mends it
        assert set(objects) == set(CASES)
        store = StudyFolderDatastore(study)
        for case in CASES:
            if not store.get_label_by_image_id(case, tag):
                assert case not in known
                continue
            content = Path(store.get_label_uri(case, tag)).read_text()
            assert int(content.removeprefix(tag)) >= int(known.get(case, "0").removeprefix(tag))
            # The info is that of the file, never of another: its voxel values are read by it.
            info = store.get_label_info(case, tag)
            assert info.get("written", content) == content
            if tag == "final":
                assert info["written"] == content


@pytest.mark.parametrize("torn", ["", '{"name": "new-dat', "[]"])
def test_torn_host_list_is_recovered(study: Path, tmp_path: Path, torn: str) -> None:
    first = StudyFolderDatastore(study)
    first.save_label(CASES[3], label(tmp_path), "final", {"user": "me"})
    first.close()
    (study / "datastore_v2.json").write_text(torn)
    store = StudyFolderDatastore(study)
    assert store.get_label_info(CASES[3], "final")["user"] == "me"
    assert [p.read_text() for p in study.glob("datastore_v2.broken-*.json")] == [torn]
    store.close()
    assert in_host_list(study).keys() == set(CASES)
    assert in_host_list(study)[CASES[3]]["labels"]["final"]["info"]["user"] == "me"


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda index: index.unlink(),
    "empty": lambda index: index.write_bytes(b""),
    "another file": lambda index: index.write_bytes(b"no database" * 1000),
    "half": lambda index: index.write_bytes(index.read_bytes()[: index.stat().st_size // 2]),
    "another database": lambda index: (index.unlink(), sqlite3.connect(index).execute("CREATE TABLE x (y)")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_index_is_rebuilt_from_the_host_list(study: Path, tmp_path: Path, damage: str) -> None:
    first = StudyFolderDatastore(study)
    first.save_label(CASES[3], label(tmp_path), "final", {"user": "me"})
    first.update_image_info(CASES[4], {"score": 0.5})
    first.close()
    DAMAGE[damage](study / INDEX)
    store = StudyFolderDatastore(study)
    assert store.list_images() == CASES
    assert store.get_label_info(CASES[3], "final")["user"] == "me"
    assert store.get_image_info(CASES[4])["score"] == 0.5
    assert on_disk(study).keys() == set(CASES)
    is_kept = damage not in ("missing", "empty")
    assert len(list(INDEX.parent.glob("*.broken-*"))) == 0 and len(list(study.glob("*/*.broken-*.sqlite"))) == is_kept


@pytest.mark.parametrize("damage", DAMAGE)
def test_index_damaged_at_run_time_is_rebuilt_from_memory(study: Path, tmp_path: Path, damage: str) -> None:
    store = StudyFolderDatastore(study)
    store.update_image_info(CASES[4], {"score": 0.5})
    DAMAGE[damage](study / INDEX)
    assert store.list_images() == CASES
    store.save_label(CASES[3], label(tmp_path), "final", {"user": "me"})
    again = StudyFolderDatastore(study)
    assert again.get_image_info(CASES[4])["score"] == 0.5
    assert again.get_label_info(CASES[3], "final")["user"] == "me"


def test_lost_list_is_rebuilt_from_the_files(study: Path, tmp_path: Path) -> None:
    StudyFolderDatastore(study).save_label(CASES[3], label(tmp_path), "final", {})
    (study / INDEX).unlink()
    (study / "datastore_v2.json").write_text("{")
    old = time.time() - 1000
    os.utime(study / "labels" / "final" / f"{CASES[3]}.nii.gz", (old, old))
    store = StudyFolderDatastore(study)
    assert store.list_images() == CASES
    # With the time of its file: a recovery is not twelve new labels to train on.
    assert store.label_times() == [(CASES[3], pytest.approx(old, abs=0.01))]


def test_list_torn_at_run_time_is_recovered(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    (study / "datastore_v2.json").write_text("{")
    assert store.list_images() == CASES
    store.save_label(CASES[0], label(tmp_path), "final", {})
    wait_for_host_list(study, lambda listed: "final" in listed[CASES[0]]["labels"])
    assert in_host_list(study).keys() == set(CASES)


def test_host_does_not_start_on_a_torn_list(study: Path) -> None:
    (study / "datastore_v2.json").write_text("{")
    with pytest.raises(ValueError, match="LocalDatastoreModel"):
        LocalDatastore(str(study), extensions=["*.png"])


def test_failed_change_leaves_the_list_unchanged(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    before = on_disk(study)

    def fail() -> None:
        with store.transaction() as model:
            del model.objects[CASES[0]]
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert on_disk(study) == before and store.list_images() == CASES


def test_full_disk_mixes_no_metadata_of_labels(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is written before the file is put in place."""
    store = StudyFolderDatastore(study)
    store.save_label(CASES[0], label(tmp_path, "anna's"), "final", {"user": "anna"})
    replace, calls = os.replace, []

    def full(source: str, target: str) -> None:
        if str(target).endswith(f"{CASES[0]}.nii.gz") and not calls:
            calls.append(target)
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        store.save_label(CASES[0], label(tmp_path, "bob's"), "final", {"user": "bob"})
    assert calls
    for server in (store, StudyFolderDatastore(study)):
        info, file = server.get_label_info(CASES[0], "final"), Path(server.get_label_uri(CASES[0], "final"))
        assert info["user"] == "anna" == file.read_text().removesuffix("'s")


def test_history_has_a_version_for_each_label_info_of_equal_files(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    for name in ("wrong", "right", "right"):
        store.save_label(CASES[0], label(tmp_path), "final", {"label_info": [{"name": name, "idx": 1}]})
    store.remove_label(CASES[0], "final")
    assert len(earlier_labels(store, CASES[0])) == 2
    (study / "labels" / "final").mkdir(parents=True, exist_ok=True)
    label(study / "labels" / "final", name=f"{CASES[0]}.nii.gz")
    again = StudyFolderDatastore(study)
    assert again.get_label_info(CASES[0], "final")["label_info"][0]["name"] == "right"


def test_transaction_writes_the_list_once(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    before = (study / INDEX).stat().st_mtime_ns
    with store.transaction():
        for case in CASES:
            store.save_label(case, label(tmp_path, case), "pseudo", {})
        assert (study / INDEX).stat().st_mtime_ns == before
    assert all("pseudo" in entry["labels"] for entry in on_disk(study).values())


# ---- a human's work ----


def test_label_saved_again_moves_the_earlier_to_the_history(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    store.save_label(CASES[0], label(tmp_path, "first"), "final", {"label_info": "a"})
    store.save_label(CASES[0], label(tmp_path, "second", "x.seg.nrrd"), "final", {"label_info": "b"})
    assert [p.read_text() for p in earlier_labels(store, CASES[0])] == ["first"]
    assert [p.name for p in (study / "labels" / "final").iterdir()] == [f"{CASES[0]}.seg.nrrd"]
    store.remove_label(CASES[0], "final")
    assert {p.read_text() for p in earlier_labels(store, CASES[0])} == {"first", "second"}
    assert store.get_labeled_images() == []
    assert earlier_labels(store, CASES[1]) == []


def test_removed_image_keeps_its_labels_in_history(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    store.save_label(CASES[0], label(tmp_path, "mine"), "final", {})
    store.remove_image(CASES[0])
    assert CASES[0] not in store.list_images() and not (study / f"{CASES[0]}.png").exists()
    assert [p.read_text() for p in earlier_labels(store, CASES[0])] == ["mine"]


def test_pseudo_labels_leave_no_history_and_are_not_shown(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    for content in ("one", "two"):
        store.save_label(CASES[0], label(tmp_path, content), "pseudo", {"quality": 1})
    store.save_label(CASES[1], label(tmp_path), "final", {})
    assert earlier_labels(store, CASES[0], "pseudo") == []
    assert store.status() == {"total": 12, "completed": 1, "label_tags": {"final": 1}}
    assert store.json()["objects"][CASES[0]]["labels"] == {}
    assert store.get_label_info(CASES[0], "pseudo")["quality"] == 1  # the trainer sees it
    assert [Path(d["image"]).name for d in store.datalist()] == [f"{CASES[1]}.png"]
    with zipfile.ZipFile(store.get_dataset_archive(None)) as archive:
        assert sorted(archive.namelist()) == [f"image/{CASES[1]}.png", f"label/{CASES[1]}.nii.gz", "metadata.json"]
        assert b"pseudo" not in archive.read("metadata.json")


def test_export_without_labels_is_refused(study: Path) -> None:
    with pytest.raises(Conflict, match="no case has a final label"):
        StudyFolderDatastore(study).get_dataset_archive(None)


def test_label_times_are_finer_than_seconds(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    before = time.time()
    for case in CASES[:2]:
        store.save_label(case, label(tmp_path, case), "final", {"ts": 1})
    (first, t1), (second, t2) = store.label_times()
    assert (first, second) == (CASES[0], CASES[1]) and before <= t1 < t2 <= time.time()
    store.update_label_info(first, "final", {"time": 0, "ts": 0, "note": "x"})
    assert dict(store.label_times())[first] == t1
    assert store.get_label_info(first, "final")["note"] == "x"


SWAPPED = [{"name": "ulna", "idx": 1}, {"name": "radius", "idx": 2}]


def test_changed_label_info_makes_another_label(study: Path, tmp_path: Path) -> None:
    """It is checked like a new label, the earlier version is in the history, and its time is newer."""
    checked: list[Any] = []

    def check(case: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        checked.append((case, file.read_text(), tag, info.get("label_info"), info.get("user")))
        if info.get("label_info") == "wrong":
            raise UserError("no such structure")

    store = StudyFolderDatastore(study, labels=LabelRules(check=check))
    first = [{"name": "radius", "idx": 1}, {"name": "ulna", "idx": 2}]
    store.save_label(CASES[0], label(tmp_path), "final", {"label_info": first, "user": "anna"})
    (_, saved), *_ = store.label_times()
    checked.clear()
    store.update_label_info(CASES[0], "final", {"note": "x"})
    store.update_label_info(CASES[0], "final", {"label_info": first})
    assert not checked and earlier_labels(store, CASES[0]) == [] and store.label_times() == [(CASES[0], saved)]
    with pytest.raises(UserError, match="no such structure"):
        store.update_label_info(CASES[0], "final", {"label_info": "wrong"})
    assert store.get_label_info(CASES[0], "final")["label_info"] == first and earlier_labels(store, CASES[0]) == []

    checked.clear()
    store.update_label_info(CASES[0], "final", {"label_info": SWAPPED})
    assert checked == [(CASES[0], "label", "final", SWAPPED, "anna")]
    (kept,) = earlier_labels(store, CASES[0])
    assert kept.read_text() == "label" and kept.name.endswith(".nii.gz")
    before = json.loads(kept.with_name(f"{kept.name}.json").read_text())
    assert (before["label_info"], before["user"], before["note"]) == (first, "anna", "x")
    assert store.label_times()[0][1] > saved
    store.save_label(CASES[0], label(tmp_path, "another"), "final", {})
    infos = [json.loads(p.with_name(f"{p.name}.json").read_text()) for p in earlier_labels(store, CASES[0])]
    assert [info["label_info"] for info in infos] == [first, SWAPPED]


def test_restored_image_has_the_last_label_info(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    store.save_label(CASES[0], label(tmp_path), "final", {"label_info": [{"name": "radius", "idx": 1}]})
    store.update_label_info(CASES[0], "final", {"label_info": SWAPPED})
    image = study / f"{CASES[0]}.png"
    image.rename(tmp_path / "away.png")
    store.refresh()
    (tmp_path / "away.png").rename(image)
    store.refresh()
    assert store.get_label_info(CASES[0], "final")["label_info"] == SWAPPED


def test_label_saved_during_the_check_of_new_label_info_is_preserved(study: Path, tmp_path: Path) -> None:
    def check(case: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        if "label_info" in info:
            StudyFolderDatastore(study).save_label(case, label(tmp_path, "newer"), tag, {})

    store = StudyFolderDatastore(study, labels=LabelRules(check=check))
    store.save_label(CASES[0], label(tmp_path), "final", {})
    with pytest.raises(Conflict, match="in the meantime"):
        store.update_label_info(CASES[0], "final", {"label_info": SWAPPED})
    assert "label_info" not in store.get_label_info(CASES[0], "final")


def test_restored_image_has_its_label_metadata(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    store.save_label(CASES[0], label(tmp_path), "final", {"label_info": [{"name": "radius", "idx": 3}]})
    image = study / f"{CASES[0]}.png"
    image.rename(tmp_path / "away.png")
    store.refresh()
    assert CASES[0] not in store.list_images()
    (tmp_path / "away.png").rename(image)
    store.refresh()
    assert store.get_label_info(CASES[0], "final")["label_info"] == [{"name": "radius", "idx": 3}]


def test_manually_replaced_label_loses_the_metadata_of_the_earlier(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    store.save_label(CASES[0], label(tmp_path), "final", {"label_info": "of the first"})
    (study / "labels" / "final" / f"{CASES[0]}.nii.gz").write_text("drawn elsewhere")
    store.refresh()
    assert "label_info" not in store.get_label_info(CASES[0], "final")


def test_copied_study_has_its_label_metadata(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    store.save_label(CASES[0], label(tmp_path), "final", {"label_info": "mine"})
    os.utime(study / "labels" / "final" / f"{CASES[0]}.nii.gz", (1, 1))  # as cp and git leave it
    assert StudyFolderDatastore(study).get_label_info(CASES[0], "final")["label_info"] == "mine"


def test_label_check_can_refuse_a_label(study: Path, tmp_path: Path) -> None:
    def refuse(case: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        raise UserError(f"{file.read_text()} of {case} as {tag}: {info}")

    store = StudyFolderDatastore(study, labels=LabelRules(check=refuse))
    with pytest.raises(UserError, match=r"label of case000 as final: \{'a': 1\}"):
        store.save_label(CASES[0], label(tmp_path), "final", {"a": 1})
    assert list((study / "labels" / "final").iterdir()) == []


# ---- names and files ----


@pytest.mark.parametrize(
    ("file", "case"),
    [
        ("1.2.840.55.png", "1.2.840.55"),
        ("a.seg.nrrd.nii.gz", "a.seg.nrrd"),
        ("photo.JPEG", "photo"),
        ("b.tiff", "b"),
        ("c.dcm", "c"),
        ("Röntgen (2).png", "Röntgen (2)"),
    ],
)
def test_id_is_the_name_without_the_longest_extension(tmp_path: Path, file: str, case: str) -> None:
    (tmp_path / "source").mkdir()
    image = Path(label(tmp_path / "source", "x", file))
    store = StudyFolderDatastore(tmp_path / "study")
    assert store.add_image("", str(image), {}) == case
    assert Path(store.get_image_uri(case)).name == file
    assert StudyFolderDatastore(tmp_path / "study").list_images() == [case]


@pytest.mark.parametrize("case", ["../x", "a/b", "a\\b", ".b", "", " a", "a.", "a\nb", "a\0", "x" * 201, "é" * 101])
def test_ids_with_paths_are_refused(case: str) -> None:
    with pytest.raises(UserError, match="image id"):
        check_image_id(case)


@pytest.mark.parametrize("tag", ["../x", "/etc", ".history", "", "a b", "x" * 65, "a\n"])
def test_tags_with_paths_are_refused(study: Path, tmp_path: Path, tag: str) -> None:
    with pytest.raises(UserError, match="tag"):
        StudyFolderDatastore(study).save_label(CASES[0], label(tmp_path), tag, {})
    with pytest.raises(UserError, match="run"):
        check_name(tag, "run")


def test_uploads_that_are_refused(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    with pytest.raises(UserError, match=r"must be one of .*\.nii\.gz"):
        store.add_image("main", label(tmp_path, "import os", "main.py"), {})
    with pytest.raises(UserError, match="must be one of"):
        store.add_image("a.seg", label(tmp_path, "x", "x.nrrd"), {})  # would be read back as a label of "a"
    with pytest.raises(Conflict, match="case000"):
        store.add_image(CASES[0], label(tmp_path, "other", "x.png"), {})
    assert store.add_image(CASES[0], label(tmp_path, CASES[0], "x.png"), {}) == CASES[0]  # the same again: no harm
    with pytest.raises(UserError, match="must be one of"):
        store.save_label(CASES[0], label(tmp_path, "x", "x.py"), "final", {})
    with pytest.raises(NotFound):
        store.save_label("nobody", label(tmp_path), "final", {})
    with pytest.raises(NotFound, match="nobody"):
        store.remove_image("nobody")
    with pytest.raises(NotFound, match="nobody"):
        store.update_image_info("nobody", {})
    with pytest.raises(NotFound, match="no label"):
        store.remove_label(CASES[0], "final")
    with pytest.raises(NotFound, match="no label"):
        store.update_label_info(CASES[0], "final", {})


def test_problems_of_the_folder_are_reported(study: Path) -> None:
    (study / f"{CASES[0]}.nii.gz").touch()
    (study / f"{CASES[1]}.seg.nrrd").touch()  # a segmentation saved beside its image is no second image
    (study / "labels" / "final").mkdir(parents=True)
    (study / "labels" / "loose.png").touch()
    (study / "labels" / "bad tag").mkdir()
    (study / "labels" / "final" / "stranger.png").touch()
    store = StudyFolderDatastore(study)
    assert store.list_images() == CASES
    text = "\n".join(store.problems)
    assert f"{CASES[0]}.nii.gz, {CASES[0]}.png" in text and f"{CASES[1]}.seg.nrrd: a segmentation" in text
    assert "1 files lie loose" in text and "bad tag" in text and "stranger" in text


def test_images_may_lie_in_a_subfolder(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for image in sorted((shared_data / "ultrasound" / "images").iterdir())[:3]:
        (tmp_path / "images" / image.name).symlink_to(image)
    store = StudyFolderDatastore(tmp_path)
    assert len(store.list_images()) == 3
    assert Path(store.get_image_uri(store.list_images()[0])).is_file()
    (tmp_path / "later.png").touch()  # the layout of a study does not change under way
    assert len(StudyFolderDatastore(tmp_path).list_images()) == 3


def test_files_copied_into_labels_become_labels(study: Path) -> None:
    store = StudyFolderDatastore(study)
    (study / "labels" / "final" / f"{CASES[5]}.png").touch()
    (study / "labels" / "second_reader").mkdir()
    (study / "labels" / "second_reader" / f"{CASES[5]}.png").touch()
    store.refresh()
    assert store.get_labels_by_image_id(CASES[5]).keys() == {"final", "second_reader"}
    (study / "labels" / "final" / f"{CASES[5]}.png").unlink()
    store.refresh()
    assert store.get_labeled_images() == []


@pytest.fixture
def watched(study: Path) -> Iterator[StudyFolderDatastore]:
    store = StudyFolderDatastore(study, auto_reload=True)
    yield store
    store._observer.stop()
    store._observer.join()


def test_folder_is_watched(watched: StudyFolderDatastore, study: Path) -> None:
    for i in range(50):
        (study / f"new{i}.png").touch()
    (study / ".half.png").touch()
    (study / ".half.png").rename(study / "whole.png")
    deadline = time.time() + 20
    while len(watched.list_images()) < 63 and time.time() < deadline:
        time.sleep(0.05)
    assert len(watched.list_images()) == 63


def test_list_of_the_host_is_imported_and_exported(study: Path, tmp_path: Path) -> None:
    host = LocalDatastore(str(study), extensions=["*.png", "*.nii.gz"])
    host.save_label(CASES[0], label(tmp_path), "final", {"user": "me"})
    store = StudyFolderDatastore(study)
    assert store.get_label_info(CASES[0], "final")["user"] == "me"
    store.save_label(CASES[0], label(tmp_path, "new"), "final", {"user": "you"})
    assert len(earlier_labels(store, CASES[0])) == 1
    store.close()
    assert LocalDatastore(str(study), extensions=["*.png"]).get_label_info(CASES[0], "final")["user"] == "you"


def test_unchanged_folder_writes_nothing(study: Path) -> None:
    store = StudyFolderDatastore(study)
    store.close()
    before = [(study / name).stat().st_mtime_ns for name in ("datastore_v2.json", INDEX)]
    store.refresh()
    again = StudyFolderDatastore(study)
    store.close(), again.close()
    assert [(study / name).stat().st_mtime_ns for name in ("datastore_v2.json", INDEX)] == before


# ---- the host's own tools ----


def test_host_list_is_exported_after_a_change(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    for case in CASES[:3]:
        store.save_label(case, label(tmp_path, case), "final", {"user": "me"})
    wait_for_host_list(study, lambda listed: all(listed[case]["labels"]["final"] for case in CASES[:3]))
    assert in_host_list(study).keys() == set(CASES)
    store.remove_image(CASES[0])
    wait_for_host_list(study, lambda listed: CASES[0] not in listed)


def test_start_after_a_kill_exports_pending_changes(study: Path, tmp_path: Path) -> None:
    first = StudyFolderDatastore(study)
    first.close()
    first.save_label(CASES[0], label(tmp_path), "final", {})
    first._list._sync._export_call.cancel()  # as after kill -9
    assert "final" not in in_host_list(study)[CASES[0]]["labels"]
    StudyFolderDatastore(study)
    wait_for_host_list(study, lambda listed: "final" in listed[CASES[0]]["labels"])


def host_tool(study: Path) -> LocalDatastore:
    """Program of the host that has read the list, and writes all of it with each change."""
    return LocalDatastore(str(study), extensions=["*.png", "*.nii.gz"])


def test_running_server_imports_labels_saved_by_the_host(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    store.close()
    host = host_tool(study)
    host.save_label(CASES[0], label(tmp_path), "final", {"user": "anna"})
    assert store.get_label_info(CASES[0], "final")["user"] == "anna"
    host.update_label_info(CASES[0], "final", {"note": "x"})
    host.update_image_info(CASES[1], {"score": 0.5})
    assert store.get_label_info(CASES[0], "final")["note"] == "x"
    assert store.get_image_info(CASES[1])["score"] == 0.5
    store.close()
    assert in_host_list(study)[CASES[1]]["image"]["info"]["score"] == 0.5
    assert StudyFolderDatastore(study).get_label_info(CASES[0], "final")["note"] == "x"


@pytest.mark.parametrize("is_exported", [True, False])
def test_stale_list_of_the_host_undoes_no_label(study: Path, tmp_path: Path, is_exported: bool) -> None:
    """The host has read the list earlier, without or with an older state of the labels saved since."""
    store = StudyFolderDatastore(study)
    store.save_label(CASES[0], label(tmp_path, "first"), "final", {"user": "anna"})
    store.close()
    host = host_tool(study)
    store.save_label(CASES[0], label(tmp_path, "second"), "final", {"user": "bob"})
    store.save_label(CASES[1], label(tmp_path, "new"), "final", {"user": "bob"})
    if is_exported:
        store.close()
    host.update_image_info(CASES[2], {"score": 0.5})
    assert store.get_image_info(CASES[2])["score"] == 0.5
    store.refresh()
    for server in (store, StudyFolderDatastore(study)):
        assert [server.get_label_info(case, "final")["user"] for case in CASES[:2]] == ["bob", "bob"]
    store.close()
    assert [in_host_list(study)[case]["labels"]["final"]["info"]["user"] for case in CASES[:2]] == ["bob", "bob"]


def test_removed_image_is_not_restored_by_the_host_list(study: Path) -> None:
    store = StudyFolderDatastore(study)
    store.close()
    host = host_tool(study)
    store.remove_image(CASES[0])
    host.update_image_info(CASES[2], {"score": 0.5})
    assert store.list_images() == CASES[1:]
    assert store.get_image_info(CASES[2])["score"] == 0.5


def test_changes_of_the_host_between_two_runs_are_imported(study: Path, tmp_path: Path) -> None:
    StudyFolderDatastore(study).close()
    host = host_tool(study)
    host.save_label(CASES[0], label(tmp_path), "final", {"user": "anna"})
    host.remove_image(CASES[1])
    store = StudyFolderDatastore(study)
    assert store.get_label_info(CASES[0], "final")["user"] == "anna"
    assert store.list_images() == [case for case in CASES if case != CASES[1]]


def test_index_rebuilt_by_another_process_is_read_again(study: Path, tmp_path: Path) -> None:
    first, second = StudyFolderDatastore(study), StudyFolderDatastore(study)
    (study / INDEX).unlink()
    first.save_label(CASES[0], label(tmp_path), "final", {"user": "me"})
    assert second.get_label_info(CASES[0], "final")["user"] == "me"
    second.save_label(CASES[1], label(tmp_path), "final", {"user": "you"})
    assert first.get_labeled_images() == CASES[:2]


# ---- names ----


def test_id_is_found_in_either_unicode_form(tmp_path: Path) -> None:
    """A Mac's file names are decomposed; clients may send either form."""
    composed, decomposed = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    folder = tmp_path / "study"
    (folder / "labels" / "final").mkdir(parents=True)
    (folder / f"{decomposed}.png").write_bytes(b"image")
    (folder / "labels" / "final" / f"{composed}.png").write_bytes(b"label")
    store = StudyFolderDatastore(folder)
    assert store.list_images() == [composed] == store.get_labeled_images()
    for case in (composed, decomposed):
        assert Path(store.get_image_uri(case)).read_bytes() == b"image"
        assert Path(store.get_label_uri(case, "final")).read_bytes() == b"label"
        assert store.get_image_info(case)["path"] == store.get_image_uri(composed)
    store.save_label(decomposed, label(tmp_path), "final", {"user": "me"})
    assert store.get_label_info(decomposed, "final")["user"] == "me"
    assert [Path(pair["image"]).read_bytes() for pair in store.datalist()] == [b"image"]
    assert StudyFolderDatastore(folder).get_label_info(composed, "final")["user"] == "me"
    store.remove_image(decomposed)
    assert StudyFolderDatastore(folder).list_images() == []
    assert not list(folder.glob("M*.png"))


def test_list_with_decomposed_ids_is_imported(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / f"{decomposed}.png").write_bytes(b"image")
    host = LocalDatastore(str(folder), extensions=["*.png", "*.nii.gz"])
    host.save_label(decomposed, label(tmp_path), "final", {"user": "me", "label_info": [{"name": "b", "idx": 1}]})
    store = StudyFolderDatastore(folder)
    assert store.list_images() == [composed]
    assert store.get_label_info(composed, "final")["label_info"] == [{"name": "b", "idx": 1}]
    assert Path(store.get_label_uri(composed, "final")).read_text() == "label"


@pytest.mark.parametrize("stem", ["a:b", "a?", " a", "a.", "a\nb", "x" * 220])
def test_invalid_file_name_is_served_under_a_safe_id(tmp_path: Path, stem: str) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / f"{stem}.png").write_bytes(b"image")
    store = StudyFolderDatastore(folder)
    (case,) = store.list_images()
    assert check_image_id(case) == case and any(case in problem for problem in store.problems)
    assert Path(store.get_image_uri(case)).read_bytes() == b"image"
    store.save_label(case, label(tmp_path), "final", {"user": "me"})
    again = StudyFolderDatastore(folder)
    assert again.list_images() == [case] == again.get_labeled_images()
    assert Path(again.get_label_uri(case, "final")).read_text() == "label"
    again.remove_image(case)
    assert not (folder / f"{stem}.png").exists()


def test_listed_image_takes_precedence_among_equal_ids(study: Path) -> None:
    StudyFolderDatastore(study).close()
    (study / f"{CASES[0]}.nii.gz").touch()
    store = StudyFolderDatastore(study)
    assert Path(store.get_image_uri(CASES[0])).name == f"{CASES[0]}.png"
    assert list_folder(study).files[CASES[0]] == Path(store.get_image_uri(CASES[0]))
    assert any(f"{CASES[0]}.nii.gz" in problem for problem in store.problems)


@pytest.mark.parametrize("name", ["f_mac", "f_same_id", "n_seg_beside_image", "f_nfd_label"])
def test_server_and_commands_list_the_same_cases(shared_cases: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(shared_cases / name, tmp_path / name))
    store = StudyFolderDatastore(folder)
    assert {case: Path(store.get_image_uri(case)) for case in store.list_images()} == list_folder(folder).files
    labels = list_folder(folder / "labels" / "final", LABELS).files
    assert {case: Path(store.get_label_uri(case, "final")) for case in store.get_labeled_images()} == labels
    assert len(labels) == len(store.list_images())


def test_bad_file_does_not_affect_other_files(study: Path) -> None:
    (study / "labels" / "final").mkdir(parents=True)
    for folder in (study, study / "labels" / "final"):
        (folder / "loop.png").symlink_to("loop.png")
        os.mkfifo(folder / "pipe.png")
    store = StudyFolderDatastore(study)
    assert store.list_images() == CASES
    text = "\n".join(store.problems)
    assert "loop.png: a circular link" in text and "labels/final/pipe.png: no regular file" in text


def test_empty_study_is_reported(tmp_path: Path) -> None:
    assert any("no image in" in problem for problem in StudyFolderDatastore(tmp_path).problems)


# ---- links ----

Untouched = Callable[[], None]


def outside_file(folder: Path, name: str) -> tuple[Path, Untouched]:
    """File outside of the study, and a check that its content and names are unchanged."""
    folder.mkdir(exist_ok=True)
    original = folder / name
    original.write_bytes(b"original " + name.encode())
    before = original.stat()

    def untouched() -> None:
        now = original.stat()
        assert original.read_bytes() == b"original " + name.encode()
        assert (now.st_ino, now.st_mtime_ns, now.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)
        assert not original.is_symlink()

    return original, untouched


def put(link: Path, original: Path, kind: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(original) if kind == "symbolic" else link.hardlink_to(original)


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
@pytest.mark.parametrize("layout", [".", "images"])
def test_target_of_a_link_is_never_changed(tmp_path: Path, kind: str, layout: str) -> None:
    folder = tmp_path / "study"
    image, image_untouched = outside_file(tmp_path / "outside", "scan.png")
    drawn, label_untouched = outside_file(tmp_path / "outside", "drawn.png")
    made, made_untouched = outside_file(tmp_path / "outside", "made.png")
    put(folder / layout / "a.png", image, kind)
    put(folder / "labels" / "final" / "a.png", drawn, kind)
    put(folder / "labels" / "pseudo" / "a.png", made, kind)
    store = StudyFolderDatastore(folder)
    assert Path(store.get_image_uri("a")).read_bytes() == image.read_bytes()

    store.save_label("a", label(tmp_path, "second", "x.png"), "final", {})  # under the link's own name
    store.save_label("a", label(tmp_path, "third", "x.nii.gz"), "final", {})  # under another
    store.save_label("a", label(tmp_path, "pseudo", "x.png"), "pseudo", {})
    assert [kept.read_bytes() for kept in earlier_labels(store, "a")] == [drawn.read_bytes(), b"second"]
    assert not any(kept.is_symlink() or kept.stat().st_nlink > 1 for kept in earlier_labels(store, "a"))
    store.remove_label("a", "final")
    store.remove_image("a")
    assert store.list_images() == [] and not (folder / layout / "a.png").exists()
    for untouched in (image_untouched, label_untouched, made_untouched):
        untouched()

    put(folder / layout / "a.png", image, kind)
    put(folder / "labels" / "final" / "a.png", drawn, kind)
    store.refresh()
    store.remove_label("a", "final")
    store.remove_image("a")
    image_untouched()
    label_untouched()


@pytest.mark.parametrize("linked", ["labels/final", "labels/pseudo", "images"])
def test_linked_folder_outside_the_study_is_read_only(tmp_path: Path, linked: str) -> None:
    folder, kind = tmp_path / "study", linked.split("/")[-1]
    original, untouched = outside_file(tmp_path / "outside", "a.png")
    (folder / linked).parent.mkdir(parents=True)
    (folder / linked).symlink_to(original.parent)
    if kind != "images":
        (folder / "a.png").write_bytes(b"image")
    store = StudyFolderDatastore(folder)
    assert store.list_images() == ["a"]
    assert any(linked in problem and str(original.parent) in problem for problem in store.problems)
    if kind == "images":
        store.save_label("a", label(tmp_path), "final", {})
        with pytest.raises(Conflict, match="images leads out of the study"):
            store.add_image("b", label(tmp_path, "x", "b.png"), {})
    else:
        assert Path(store.get_label_uri("a", kind)).read_bytes() == original.read_bytes()
        with pytest.raises(Conflict, match=f"{linked} leads out of the study"):
            store.save_label("a", label(tmp_path), kind, {})
        with pytest.raises(Conflict, match=linked):
            store.remove_label("a", kind)
    with pytest.raises(Conflict, match=linked):
        store.remove_image("a")
    assert store.list_images() == ["a"] and os.listdir(original.parent) == ["a.png"]
    assert len(store.get_labels_by_image_id("a")) == 1  # of the refused removal nothing was done
    untouched()


def test_label_folder_outside_the_study_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "study" / "labels").symlink_to(tmp_path / "outside")
    with pytest.raises(Conflict, match="labels leads out of the study"):
        StudyFolderDatastore(tmp_path / "study")
    assert not list((tmp_path / "outside").iterdir())


def test_a_study_that_is_itself_a_link_is_served(study: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(study)
    store = StudyFolderDatastore(tmp_path / "link")
    store.save_label(CASES[0], label(tmp_path), "final", {})
    store.remove_image(CASES[1])
    assert not (study / f"{CASES[1]}.png").exists() and store.problems == []


def test_mount_in_the_study_is_read_only(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bind mount is on the same file system, so only the table of mounts shows it."""
    store = StudyFolderDatastore(study)
    store.save_label(CASES[0], label(tmp_path), "final", {})
    monkeypatch.setattr("samstudent.util.files._mounts", lambda: {study.resolve() / "labels" / "final", Path("/")})
    with pytest.raises(Conflict, match="labels/final"):
        store.remove_label(CASES[0], "final")
    monkeypatch.setattr("samstudent.util.files._mounts", lambda: {study.resolve() / f"{CASES[0]}.png", study.resolve()})
    with pytest.raises(Conflict, match=f"{CASES[0]}.png is a mount"):
        store.remove_image(CASES[0])
    store.remove_image(CASES[1])
    assert store.get_labeled_images() == [CASES[0]]


def test_error_names_the_case_and_not_the_upload(study: Path, tmp_path: Path) -> None:
    def refuse(case: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        raise UserError(f"{file}: value 7 is no structure ({file.name})")

    store = StudyFolderDatastore(study, labels=LabelRules(check=refuse))
    upload = label(tmp_path, "x", "tmp8d.nii.gz")
    with pytest.raises(UserError, match=r"^label 'final' of 'case000': value 7 is no structure") as error:
        store.save_label(CASES[0], upload, "final", {})
    assert "tmp8d" not in str(error.value)
