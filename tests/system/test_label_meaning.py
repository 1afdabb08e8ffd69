"""Names of a label map's values: after copies, renames, loss of the list, changes of order and task.

Nerve and vessel differ by their place; the values are read back with Pillow.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import Conflict, UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.grid import Grid
from samstudent.imaging.label_tags import FINAL
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.imaging.value_names import KEY, TaskIdentity, ValueNames, sidecar_of, write_sidecar
from samstudent.server.datastore.label_folder import LabelFolder, claim, confirm, label_folder
from samstudent.server.datastore.label_rules import LabelRules
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.datastore.study_list import export_all
from samstudent.task import Task
from samstudent.util.files import sha256_file
from support.human_labels import read_human_label

NERVE, VESSEL = np.zeros((2, 24, 32), bool)
NERVE[3:9, 4:12], VESSEL[12:20, 18:30] = True, True


def task_of(name: str, *structures: str) -> Task:
    return Task.model_validate(
        {"name": name, "dimension": 2, "structures": list(structures), "student": {"size": [32, 32]}}
    )


TASK = task_of("nerves", "nerve", "vessel")
BONE = task_of("bones", "bone")
#: As a client sent them: the other way round than the task has them.
INFO = {"label_info": [{"name": "Vessel", "idx": 1}, {"name": "nerve ", "idx": 2}], "user": "anna"}


def draw(path: Path, seed: int = 0, nerve: int = 2, vessel: int = 1) -> Path:
    """A label map by Pillow; ``seed`` makes its content its own. Anna's client gives the vessel 1, the nerve 2."""
    pixels = np.where(NERVE, nerve, 0) + np.where(VESSEL, vessel, 0)
    pixels[23, seed] = vessel
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def add_images(folder: Path, *cases: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        noise = np.random.default_rng(len(case)).integers(0, 99, (24, 32), np.uint8)
        noise.flat[:2] = ord(case[0]), ord(case[-1])
        Image.fromarray(noise).save(folder / f"{case}.png")


def open_study(folder: Path, task: Task = TASK, **options: Any) -> StudyFolderDatastore:
    """Datastore, opened as by the app."""
    place = label_folder(folder, task)
    owns = place == LabelFolder()

    def check(case: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        grid = read_image(folder / f"{case}.png").grid
        read_masks(file, task, grid, names=names_for_reading(file, info))

    rules = LabelRules(task, place, check, partial(claim, folder, task) if owns else lambda: None)
    return StudyFolderDatastore(folder, labels=rules, **options)


def lose_list(study: Path) -> None:
    """Remove our list and the host's."""
    (study / "datastore_v2.json").unlink(missing_ok=True)
    (study / ".samstudent" / "datastore_v2.sqlite").unlink()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Labels of two cases by a client, swapped; one dropped in by hand, with the task's values."""
    folder = tmp_path / "study"
    add_images(folder, "c0", "c1", "c2")
    store = open_study(folder)
    for seed, case in enumerate(("c0", "c1")):
        store.save_label(case, str(draw(tmp_path / "upload.png", seed)), FINAL, dict(INFO))
    draw(folder / "labels" / "final" / "c2.png", seed=2, nerve=1, vessel=2)
    store.refresh()
    store.close()
    return folder


def masks_of(store: StudyFolderDatastore, task: Task = TASK) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Masks as read by a training: case -> structure -> mask."""
    found = {}
    for case in store.get_labeled_images():
        with suppress(UserError):  # such a case is left out
            masks = read_human_label(store, case, task)[1].masks
            found[case] = dict(zip(task.names, masks, strict=True))
    return found


def assert_right(store: StudyFolderDatastore, count: int, task: Task = TASK) -> None:
    found = masks_of(store, task)
    assert len(found) == count
    for case, masks in found.items():
        for name, mask in masks.items():
            if name in ("nerve", "vessel"):
                drawn = {"nerve": NERVE, "vessel": VESSEL}[name]
                assert (mask[:22] == drawn[:22]).all(), f"{name} of {case}"
            else:
                assert not mask.any(), f"{name} of {case}"


def copy_alone(study: Path, to: Path) -> Path:
    """Copy images and labels/final only."""
    to.mkdir()
    for image in study.glob("*.png"):
        shutil.copy(image, to)
    shutil.copytree(study / "labels" / "final", to / "labels" / "final")
    return to


def rename_all(study: Path, with_names: bool) -> None:
    for folder in (study, study / "labels" / "final"):
        for path in sorted(folder.glob("c*.png*")):
            if with_names or not path.name.endswith(".json"):
                path.rename(path.with_name(f"x{path.name}"))


# ---- it stays known ----


def test_values_file_of_a_label_map_is_complete(study: Path) -> None:
    files = sorted(path.name for path in (study / "labels" / "final").iterdir())
    assert files == [f"c{i}.png{suffix}" for i in range(3) for suffix in ("", ".values.json")]
    written = json.loads((study / "labels" / "final" / "c0.png.values.json").read_text())
    assert written["values"] == {"1": "Vessel", "2": "nerve"} and written["source"] == "client"
    assert written["task"] == {"name": "nerves", "structures": ["nerve", "vessel"]}
    assumed = json.loads((study / "labels" / "final" / "c2.png.values.json").read_text())
    assert assumed["values"] == {"1": "nerve", "2": "vessel"} and assumed["source"] == "assumed"
    store = open_study(study)
    assert_right(store, 3)
    assert set(store.get_label_info("c0", FINAL)[KEY]["values"].values()) == {"Vessel", "nerve"}


def test_copied_images_and_labels_keep_their_value_names(study: Path, tmp_path: Path) -> None:
    assert_right(open_study(copy_alone(study, tmp_path / "copy")), 3)


@pytest.mark.parametrize("with_names", [True, False])
@pytest.mark.parametrize("with_list", [True, False])
def test_renamed_files_keep_their_value_names(study: Path, with_names: bool, with_list: bool) -> None:
    rename_all(study, with_names)
    if not with_list:
        lose_list(study)
    store = open_study(study)
    assert store.list_images() == ["xc0", "xc1", "xc2"]
    assert_right(store, 3)


def remove_names(study: Path) -> None:
    for path in (study / "labels" / "final").glob("*.json"):
        path.unlink()


@pytest.mark.parametrize("lost", ["list", "names", "list and names", "names and renamed", "list, names and renamed"])
def test_lost_files_cause_no_wrong_value_names(study: Path, lost: str) -> None:
    if "names" in lost:
        remove_names(study)
    if "list" in lost:
        (study / ".samstudent" / "datastore_v2.sqlite").unlink()
    if "renamed" in lost:
        rename_all(study, with_names=False)
    store = open_study(study)
    assert_right(store, 3)
    store.close()
    assert (study / "datastore_v2.json").is_file()
    if "renamed" not in lost:
        assert store.get_label_info("c0", FINAL)["user"] == "anna"
    assert len(list((study / "labels" / "final").glob("*.json"))) >= 3


def test_value_names_are_found_in_the_history(study: Path, tmp_path: Path) -> None:
    store = open_study(study)
    earlier = (study / "labels" / "final" / "c0.png").read_bytes()
    store.save_label("c0", str(draw(tmp_path / "upload.png", 7, nerve=1, vessel=2)), FINAL, {})
    lose_list(study)
    remove_names(study)
    (study / "labels" / "final" / "c1.png").write_bytes(earlier)  # under another name, too
    (study / "labels" / "final" / "c0.png").write_bytes(earlier)
    assert masks_of(open_study(study))["c0"]["nerve"][3:9, 4:12].all()
    assert masks_of(open_study(study))["c1"]["nerve"][3:9, 4:12].all()


@pytest.mark.parametrize(
    "task",
    [
        task_of("nerves", "vessel", "nerve"),
        task_of("nerves", "tendon", "nerve", "vessel"),
        task_of("nerves", "nerve", "tendon", "vessel"),
        task_of("nerves", "vessel"),
        task_of("arm", "vessel", "nerve"),  # renamed, but the same
    ],
)
def test_value_names_are_kept_after_a_change_of_the_task(study: Path, tmp_path: Path, task: Task) -> None:
    for folder in (study, copy_alone(study, tmp_path / "copy")):
        store = open_study(folder, task)
        assert_right(store, 3, task)


def test_renamed_structure_is_left_out_and_reported(study: Path) -> None:
    task = task_of("nerves", "nerve", "artery")
    store = open_study(study, task)
    assert all(not masks["artery"].any() and masks["nerve"].any() for masks in masks_of(store, task).values())
    assert any("left out: Vessel (2), vessel (1)" in problem for problem in store.problems)
    other = task_of("nerves", "bone")
    store = open_study(study, other)
    for case in store.get_labeled_images():
        with pytest.raises(UserError, match="none of its structures"):
            read_human_label(store, case, other)


def test_labels_of_an_earlier_version_keep_their_value_names(tmp_path: Path) -> None:
    """The list contains only their ``label_info``."""
    folder = tmp_path / "study"
    add_images(folder, "c0", "c1")
    store = StudyFolderDatastore(folder)
    store.save_label("c0", str(draw(tmp_path / "upload.png")), FINAL, dict(INFO))
    store.save_label("c1", str(draw(tmp_path / "upload.png", 1, nerve=1, vessel=2)), FINAL, {})
    assert KEY not in store.get_label_info("c0", FINAL)
    for _ in range(2):
        store = open_study(folder)
        assert_right(store, 2)
    assert_right(open_study(folder, task_of("nerves", "vessel", "nerve")), 2, task_of("nerves", "vessel", "nerve"))


def test_files_with_segment_names_have_no_values_file(study: Path, tmp_path: Path) -> None:
    store = open_study(study)
    path = tmp_path / "label.seg.nrrd"
    write_masks(path, np.stack([NERVE, VESSEL]), TASK, Grid.of((24, 32), np.diag([-1.0, -1.0, 1.0, 1.0])))
    store.save_label("c0", str(path), FINAL, {})
    assert sorted(p.name for p in (study / "labels" / "final").glob("c0*")) == ["c0.seg.nrrd"]
    assert store.get_label_info("c0", FINAL)[KEY]["source"] == "file"
    assert_right(open_study(study), 3)
    store.save_label("c0", str(draw(tmp_path / "upload.png")), FINAL, dict(INFO))
    assert sorted(p.name for p in (study / "labels" / "final").glob("c0*")) == ["c0.png", "c0.png.values.json"]


def test_removed_label_is_removed_with_its_values_file(study: Path) -> None:
    store = open_study(study)
    store.remove_label("c0", FINAL)
    store.remove_image("c1")
    files = sorted(path.name for path in (study / "labels" / "final").iterdir())
    assert files == ["c2.png", "c2.png.values.json"]


def test_changed_label_info_updates_the_values_file(study: Path) -> None:
    store = open_study(study)
    swapped = [{"name": "nerve", "idx": 1}, {"name": "vessel", "idx": 2}]
    store.update_label_info("c0", FINAL, {"label_info": swapped})
    for again in (store, open_study(study)):
        assert masks_of(again)["c0"]["nerve"][13, 20] and masks_of(again)["c0"]["vessel"][4, 5]
    before = store.get_label_info("c0", FINAL)
    for wrong in ([{"name": "bone", "idx": 1}], [{"name": "nerve", "idx": 1}], [{"name": "nerve", "idx": "1"}]):
        with pytest.raises(UserError):
            store.update_label_info("c0", FINAL, {"label_info": wrong})
    with pytest.raises(UserError):
        store.save_label("c0", str(study / "labels" / "final" / "c1.png"), FINAL, {"label_info": wrong})
    assert store.get_label_info("c0", FINAL) == before
    store.update_label_info("c0", FINAL, {KEY: {"source": "client", "values": {"1": "vessel"}}})
    assert store.get_label_info("c0", FINAL) == before


def test_unlisted_label_is_moved_to_the_history_before_a_save(study: Path, tmp_path: Path) -> None:
    """The folder was not refreshed since, so the label is not listed yet."""
    add_images(study, "c3", "c4")
    store = open_study(study)
    mine = draw(study / "labels" / "final" / "c3.png", 5, nerve=1, vessel=2).read_bytes()
    store.save_label("c3", str(draw(tmp_path / "upload.png", 6)), FINAL, dict(INFO))
    assert [path.read_bytes() for path in store.labels.history.versions("final", "c3")] == [mine]
    dropped = draw(study / "labels" / "final" / "c4.png", 7)
    bones = ValueNames(("bone",), "client", TaskIdentity.of(BONE))
    write_sidecar(dropped, sha256_file(dropped), bones)
    with pytest.raises(Conflict, match="of another task"):
        store.save_label("c4", str(draw(tmp_path / "upload.png", 6)), FINAL, dict(INFO))
    assert sidecar_of(dropped).is_file()


def test_exported_dataset_contains_value_names(study: Path) -> None:
    with zipfile.ZipFile(open_study(study).get_dataset_archive(None)) as archive:
        assert json.loads(archive.read("label/c0.png.values.json"))["values"] == {"1": "Vessel", "2": "nerve"}


def test_manually_corrected_value_names_are_used(study: Path) -> None:
    store = open_study(study)
    path = study / "labels" / "final" / "c2.png.values.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"source": "user", "values": {"2": "nerve", "1": "vessel"}}))
    os.utime(path, ns=(1, 1))
    store.refresh()
    assert masks_of(store)["c2"]["nerve"][13, 20]
    assert not any("assumed" in problem for problem in store.problems)


def test_nothing_is_written_to_the_target_of_a_link(study: Path, tmp_path: Path) -> None:
    outside = draw(tmp_path / "outside" / "mine.png")
    add_images(study, "c3")
    (study / "labels" / "final" / "c3.png").symlink_to(outside)
    store = open_study(study)
    store.update_label_info("c3", FINAL, {"label_info": INFO["label_info"]})
    assert sidecar_of(study / "labels" / "final" / "c3.png").is_file()
    assert [path.name for path in outside.parent.iterdir()] == ["mine.png"]


def test_nothing_is_written_to_a_linked_folder_outside(study: Path, tmp_path: Path) -> None:
    final, outside = study / "labels" / "final", tmp_path / "outside"
    final.rename(outside)
    for sidecar in outside.glob("*.values.json"):
        sidecar.unlink()
    final.symlink_to(outside)
    before = sorted(path.name for path in outside.iterdir())
    store = open_study(study)
    assert masks_of(store)  # what the values mean is kept in the list alone
    with pytest.raises(Conflict, match="labels/final leads out of the study"):
        confirm(study, TASK)
    assert sorted(path.name for path in outside.iterdir()) == before


# ---- what is said ----


def test_assumed_value_names_are_reported(study: Path, tmp_path: Path) -> None:
    (problem,) = open_study(study).problems
    assert problem.startswith("1 label map has no names for its values; assumed from task nerves: 1 = nerve")
    for number in range(3, 16):
        add_images(study, f"c{number}")
        draw(study / "labels" / "final" / f"c{number}.png", number, nerve=1, vessel=2)
    (problem,) = open_study(study).problems
    assert problem.startswith("14 label maps have no names for their values")


def test_values_that_fit_no_task_are_not_assumed(study: Path) -> None:
    """A corrected task file makes them readable: nothing is recorded before they can be read."""
    draw(study / "labels" / "final" / "c2.png", 3, nerve=3, vessel=1)
    store = open_study(study)
    assert any("c2.png: value 3 is no structure of task nerves" in problem for problem in store.problems)
    with pytest.raises(UserError, match="value 3"):
        read_human_label(store, "c2", TASK)
    task = task_of("nerves", "vessel", "tendon", "nerve")
    # Beside the label is still what the earlier content was assumed to mean, which is no longer the task's.
    sidecar_of(study / "labels" / "final" / "c2.png").unlink()
    assert masks_of(open_study(study, task), task)["c2"]["nerve"][4, 5]


def test_assumed_value_names_can_be_confirmed_after_a_start_with_a_wrong_task(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    add_images(folder, "c0", "c1")
    for seed, case in enumerate(("c0", "c1")):
        draw(folder / "labels" / "final" / f"{case}.png", seed, nerve=1, vessel=2)
    wrong = task_of("first-try", "bone", "vessel")
    open_study(folder, wrong)
    assert label_folder(folder, TASK).labels == "labels-nerves"
    assert confirm(folder, TASK) == {"confirmed": 2, "known": 0, "other values": 0}
    store = open_study(folder)
    assert_right(store, 2)
    assert not store.problems
    assert confirm(folder, TASK)["known"] == 2
    with pytest.raises(Conflict, match="2 label maps of task nerves"):
        confirm(folder, wrong)
    with pytest.raises(Conflict, match="there is no label"):
        confirm(tmp_path, TASK)


def test_value_names_of_clients_are_not_changed_by_a_confirmation(study: Path) -> None:
    assert confirm(study, TASK) == {"confirmed": 1, "known": 2, "other values": 0}
    assert_right(open_study(study), 3)


# ---- killed at any moment ----


def die_at(calls: str, number: int) -> None:
    """Kill this process at the n-th call of a function of ``os``."""
    original, numbers = getattr(os, calls), itertools.count(1)

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(os, calls, counted)


@pytest.mark.parametrize("calls", ["replace", "unlink"])
def test_kill_between_two_writes_keeps_labels_and_value_names_consistent(
    study: Path, tmp_path: Path, calls: str
) -> None:
    """A label replaces one with opposite values; whichever is there is read correctly afterwards."""
    for number in range(1, 60):
        copy = tmp_path / f"{calls}{number}"
        shutil.copytree(study, copy)
        export_all()  # no thread is at work at the fork: the child would inherit what that has locked
        child = os.fork()
        if child == 0:
            store = open_study(copy)
            die_at(calls, number)
            upload = draw(tmp_path / "upload.png", 9, nerve=1, vessel=2)
            store.save_label("c0", str(upload), FINAL, {"label_info": [{"name": "nerve"}, {"name": "vessel"}]})
            upload = draw(tmp_path / "upload.png", 10)
            store.save_label("c2", str(upload), FINAL, dict(INFO))
            os._exit(0)
        ended = os.waitpid(child, 0)[1]
        assert_right(open_study(copy), 3)
        again = copy_alone(copy, tmp_path / f"{calls}{number}-alone")
        assert_right(open_study(again), 3)
        if ended == 0:
            break
    assert ended == 0 and number > 2


# ---- two tasks ----


def test_second_task_has_its_own_labels(study: Path, tmp_path: Path) -> None:
    before = sorted((study / "labels" / "final").iterdir())
    store = open_study(study, BONE)
    assert "labels/ has labels of task nerves (nerve, vessel); task bones has its labels in labels-bones/" in (
        label_folder(study, BONE).note
    )
    assert store.get_labeled_images() == [] and len(store.list_images()) == 3
    store.save_label("c0", str(draw(tmp_path / "upload.png", nerve=1, vessel=1)), FINAL, {})
    assert masks_of(store, BONE)["c0"]["bone"][13, 20]
    assert sorted((study / "labels" / "final").iterdir()) == before
    assert (study / "labels-bones" / "final" / "c0.png.values.json").is_file()
    assert_right(open_study(study), 3)
    assert open_study(study, BONE).get_labeled_images() == ["c0"]


@pytest.mark.parametrize("lost", ["state", "state and lists", "owner's labels"])
def test_labels_of_two_tasks_are_separated_after_loss_of_the_owner_record(
    study: Path, tmp_path: Path, lost: str
) -> None:
    open_study(study, BONE).save_label("c0", str(draw(tmp_path / "u.png", nerve=1, vessel=1)), FINAL, {})
    if "state" in lost:
        shutil.rmtree(study / ".samstudent")
    if "lists" in lost:
        for path in [*study.glob("datastore*.json"), *study.glob(".datastore*")]:
            path.unlink()
    if lost == "owner's labels":
        shutil.rmtree(study / "labels")
    assert open_study(study, BONE).get_labeled_images() == ["c0"]
    if lost != "owner's labels":
        assert_right(open_study(study), 3)


def test_first_saved_label_determines_the_owner_of_the_folder(tmp_path: Path) -> None:
    """Both start on a study without labels; the second must be restarted, and overwrites no label of the first."""
    add_images(tmp_path / "study", "c0")
    first, second = open_study(tmp_path / "study"), open_study(tmp_path / "study", BONE)
    first.save_label("c0", str(draw(tmp_path / "upload.png")), FINAL, dict(INFO))
    with pytest.raises(Conflict, match="restart this server"):
        second.save_label("c0", str(draw(tmp_path / "other.png", nerve=1, vessel=1)), FINAL, {})
    second.refresh()
    assert second.get_labeled_images() == []
    assert any("belong to task nerves" in problem for problem in second.problems)
    assert_right(open_study(tmp_path / "study"), 1)
    assert label_folder(tmp_path / "study", BONE).labels == "labels-bones"


def test_owner_of_a_study_of_an_earlier_version_is_its_trained_task(tmp_path: Path) -> None:
    """The labels have no record of their task; the rounds have one."""
    folder = tmp_path / "study"
    add_images(folder, "c0")
    draw(folder / "labels" / "final" / "c0.png", nerve=1, vessel=2)
    assert label_folder(folder, BONE) == LabelFolder()
    rounds = folder / ".samstudent" / "nerves" / "rounds" / "r0001"
    rounds.mkdir(parents=True)
    assert label_folder(folder, BONE).labels == "labels-bones"
    assert label_folder(folder, TASK) == LabelFolder()
    (rounds / "inputs.json").write_text(json.dumps({"task": TASK.model_dump(mode="json")}))
    assert label_folder(folder, task_of("arm", "vessel", "nerve")) == LabelFolder()


def test_listing_many_labels_reads_each_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_study(study)
    read: list[Any] = []
    monkeypatch.setattr("samstudent.imaging.value_lookup.stored_values", lambda path: read.append(path))
    index = study / ".samstudent" / "datastore_v2.sqlite"
    store.close()
    before = index.stat().st_mtime_ns
    store.refresh()
    open_study(study)
    assert not read and index.stat().st_mtime_ns == before
