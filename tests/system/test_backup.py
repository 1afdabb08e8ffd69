"""Backups as in docs/how-to/backup.md: a copy of the folder is the study."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from samstudent.imaging.label_tags import FINAL
from samstudent.rounds.study import Study
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from support.live_server import CASES, TinyStudy, draw_study

INDEX = ".samstudent/datastore_v2.sqlite"
LEFT_OUT = shutil.ignore_patterns("embeddings", "*.lock")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    return draw_study(tmp_path_factory.mktemp("study"))


def work(study: TinyStudy, tmp_path: Path) -> Study:
    """Two labels, one of them twice, and a promoted round."""
    datastore = StudyFolderDatastore(study.folder)
    for case, author in ((CASES[0], "anna"), (CASES[1], "rita"), (CASES[0], "ada")):
        datastore.save_label(case, str(study.label(case, tmp_path)), FINAL, {"user": author})
    state = Study(str(study.folder), str(tmp_path), study.task)
    state.holdout.extend(CASES, CASES[:2])
    state.selection.reserve(CASES[2], "anna", 30)
    with state.ledger.run("a test") as id:
        state.ledger.model_path(id).write_bytes(b"weights")
    state.ledger.promote(id, who="ada")
    return state


def test_copied_study_is_complete(study: TinyStudy, tmp_path: Path) -> None:
    before = work(study, tmp_path)
    elsewhere = tmp_path / "another machine" / "knees"
    shutil.copytree(study.folder, elsewhere, ignore=LEFT_OUT)
    datastore = StudyFolderDatastore(elsewhere)
    assert sorted(datastore.list_images()) == CASES
    assert sorted(datastore.get_labeled_images()) == CASES[:2]
    assert datastore.get_label_info(CASES[0], FINAL)["user"] == "ada"
    assert len(datastore.labels.history.versions("final", CASES[0])) == 1
    assert Path(datastore.get_label_uri(CASES[0], FINAL)).is_relative_to(elsewhere)
    after = Study(str(elsewhere), str(tmp_path), study.task)
    assert after.ledger.champion_path() == elsewhere / ".samstudent" / "tiny" / "rounds" / "r0001" / "model.pt"
    assert after.ledger.history() == before.ledger.history()
    assert after.holdout.ids == before.holdout.ids
    assert after.selection.reserved() == {CASES[2]: "anna"}
    assert after.audit.path.read_text() == before.audit.path.read_text() != ""


@pytest.mark.parametrize("names", [["datastore_v2.json"], [INDEX], ["datastore_v2.json", INDEX]])
def test_copy_during_a_save_is_consistent(study: TinyStudy, tmp_path: Path, names: list[str]) -> None:
    """The list was copied before a label was saved, the label after: it is listed, without its author."""
    datastore = StudyFolderDatastore(study.folder)
    datastore.close()
    elsewhere = tmp_path / "copy"
    early = shutil.copytree(study.folder, tmp_path / "early", ignore=LEFT_OUT)
    datastore.save_label(CASES[5], str(study.label(CASES[5], tmp_path)), FINAL, {"user": "anna"})
    shutil.copytree(study.folder, elsewhere, ignore=LEFT_OUT)
    for name in names:
        shutil.copy(early / name, elsewhere / name)
    restored = StudyFolderDatastore(elsewhere)
    assert CASES[5] in restored.get_labeled_images()
