"""Server trainer and experiment: the same round."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from typer.testing import CliRunner

from samstudent.cli.main import app
from samstudent.research.experiment import ours
from samstudent.rounds.cases import FileCase
from samstudent.rounds.prepare import prepare
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.run_round import RoundCases, RoundOptions, run_round
from samstudent.rounds.study import Study
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.registry import load_backend
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.tasks.student_trainer import StudentTrainTask
from samstudent.server.tasks.study_round import StudyRound
from samstudent.util.progress import no_report
from support.drawn import FakeSam
from support.drawn_folder import labelled_folder, task_file
from support.experiment_setting import setting_of


def test_equal_labels_and_seed_give_equal_pseudo_labels_and_students(bench: Any, tmp_path: Path) -> None:
    study = bench.study
    study.holdout.extend(bench.datastore.list_images(), [])
    held = sorted(study.holdout.ids)
    free = [case for case in bench.truths if case not in held]
    bench.label(*free[:3], *held)
    request = {"model": "student", "device": "cpu", "steps": 10, "seed": 3}
    stats = StudentTrainTask(study)(request, bench.datastore)

    def files(ids: list[str], labelled: bool = True) -> list[FileCase]:
        labels = bench.folder / "labels" / "final"
        return [FileCase(id, bench.folder / f"{id}.png", labels / f"{id}.png" if labelled else None) for id in ids]

    store = RoundStore(tmp_path / "alone", study.task, sam=CachedSam(FakeSam()))  # type: ignore[arg-type]
    cases = RoundCases(files(free[:3]), files(free[3:], labelled=False), files(held))
    options = RoundOptions(steps=10, seed=3, device="cpu", ablations=study.ablations)
    result = run_round(cases, study.task, options, store=store)
    record = study.ledger.get(stats["round"])
    assert result.training.version == record.model_digest and list(result.labels) == record.labels_used
    assert len(result.pseudo_labels) == record.pseudo_used.n == len(free) - 3
    server = StudyRound(study, bench.datastore, stats["round"])
    for prepared in prepare(files(free[3:], labelled=False), store.cases)[0]:
        one, other = (labels.training_case(prepared, "refined") for labels in (store.labels, server.labels))
        assert (one.masks == other.masks).all() and np.array_equal(one.soft, other.soft)
    kept = study.ledger.read_json(stats["round"], "scores")
    assert result.fold_dice == kept["folds"] and result.compared.dice[0] == kept["challenger"]


STEPS = 3
CHANGES: dict[str, Any] = {
    "training": {"steps": STEPS, "batch_size": 4, "learning_rate": 0.01},
    "holdout": {"fraction": 0},
    "pseudo_labels": {"folds": 2},
}


@pytest.mark.training
def test_server_command_line_and_experiment_train_equal_students(tmp_path: Path) -> None:
    """Each with the packaged SAM and all steps of a round, three labels and two unlabelled cases."""
    data = labelled_folder(tmp_path / "data", train=5)
    setting = setting_of(data, tmp_path / "out", **CHANGES)
    labelled, unlabelled = setting.labelled(3), setting.rest(3)
    params = {"labelled": labelled, "unlabelled": unlabelled, "steps": STEPS, "seed": 0, "changes": {}}
    ours.run(setting, params, tmp_path / "ours", None, load_backend(setting.task.sam), no_report)
    models = {"experiment": (tmp_path / "ours" / "model.pt").read_bytes()}
    masks = {}
    for caller in ("server", "command line"):
        study = tmp_path / caller
        (study / "labels" / "final").mkdir(parents=True)
        for id in (*labelled, *unlabelled):
            shutil.copy(data / "images" / f"{id}.png", study)
        for id in labelled:
            shutil.copy(data / "labels" / f"{id}.png", study / "labels" / "final")
        # They are the same wherever they are made, and take most of the time.
        shutil.copytree(setting.embeddings, study / ".samstudent" / "embeddings")
        task = task_file(tmp_path, **CHANGES)
        if caller == "server":
            store = StudyFolderDatastore(str(study), auto_reload=False)
            parts = Study(str(study), str(study), setting.task)
            StudentTrainTask(parts)({"model": "student", "device": "cpu"}, store)
            store.close()
        else:
            ended = CliRunner().invoke(app, ["train", "--studies", str(study), "--task", str(task)])
            assert ended.exit_code == 0, ended.output
        ledger = Study(str(study), str(study), setting.task).ledger
        models[caller] = ledger.model_path("r0001").read_bytes()
        files = sorted((study / "labels" / "pseudo").glob("*.seg.nrrd"))
        masks[caller] = [nrrd.read(str(path))[0].tobytes() for path in files]
        assert len(files) == len(unlabelled)
    assert models["experiment"] == models["server"] == models["command line"]
    assert masks["server"] == masks["command line"]
