"""The server's trainer and a round on plain files, as an experiment runs it, are the same round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from samstudent.pseudolabels.cached_sam import CachedSam
from samstudent.rounds.cases import FileCase
from samstudent.rounds.prepare import prepare
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.run_round import RoundCases, RoundOptions, run_round
from samstudent.server.tasks.student_trainer import StudentTrainTask
from samstudent.server.tasks.study_round import StudyRound
from support.drawn import FakeSam


def test_the_same_labels_and_seed_give_the_same_pseudo_labels_and_student(bench: Any, tmp_path: Path) -> None:
    study = bench.study
    study.holdout.extend(bench.datastore.list_images(), [])
    held = sorted(study.holdout.ids)
    free = [case for case in bench.truths if case not in held]
    bench.label(*free[:3], *held)
    request = {"model": "student", "device": "cpu", "steps": 20, "seed": 3}
    stats = StudentTrainTask(study)(request, bench.datastore)

    def files(ids: list[str], labelled: bool = True) -> list[FileCase]:
        labels = bench.folder / "labels" / "final"
        return [FileCase(id, bench.folder / f"{id}.png", labels / f"{id}.png" if labelled else None) for id in ids]

    store = RoundStore(tmp_path / "alone", study.task, sam=CachedSam(FakeSam()))  # type: ignore[arg-type]
    cases = RoundCases(files(free[:3]), files(free[3:], labelled=False), files(held))
    options = RoundOptions(steps=20, seed=3, device="cpu", ablations=study.ablations)
    result = run_round(cases, study.task, options, store=store)
    record = study.ledger.get(stats["round"])
    assert result.digest == record.model_digest and list(result.labels) == record.labels_used
    assert len(result.pseudo_labels) == record.pseudo_used.n == len(free) - 3
    server = StudyRound(study, bench.datastore, stats["round"])
    for prepared in prepare(files(free[3:], labelled=False), store.cases)[0]:
        one, other = (labels.training_case(prepared, "refined") for labels in (store.labels, server.labels))
        assert (one.masks == other.masks).all() and np.array_equal(one.soft, other.soft)
    kept = study.ledger.kept(stats["round"], "scores")
    assert result.fold_dice == kept["folds"] and result.compared.dice[0] == kept["challenger"]
