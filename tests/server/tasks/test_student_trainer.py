"""Rounds through the host's trainer task, on the host's datastore."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from samstudent.errors import Conflict, UserError
from samstudent.pseudolabels.case_labeller import made_with
from samstudent.pseudolabels.policy import ADAPTED_FILE, LabelingPolicy
from samstudent.pseudolabels.policy_fit import fit_policy
from samstudent.pseudolabels.provenance import Provenance
from samstudent.rounds import fair, pseudo_labeling, run_round, teaching
from samstudent.rounds.fair import FoldScores, compare_fairly, decide
from samstudent.rounds.options import TrainOptions
from samstudent.rounds.served_round import ServedRound
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.review_page.overview import _brief
from samstudent.server.tasks.student_trainer import StudentTrainTask
from samstudent.student.predict import Student
from samstudent.task import Task
from samstudent.util.files import sha256_file
from support.drawn import FakeSam, learn_recipes

pytestmark = pytest.mark.training


def train(bench: Any, **request: Any) -> dict[str, Any]:
    return StudentTrainTask(bench.study)({"model": "student", "device": "cpu"} | request, bench.datastore)


def serve(bench: Any, model: Path) -> None:
    """Make a trained student the champion."""
    ledger = bench.study.ledger
    id = ledger.new_round()
    shutil.copy(model, ledger.model_path(id))
    ledger.update(id, status="done", model_digest=sha256_file(model))
    ledger.promote(id)


def split(bench: Any) -> tuple[list[str], list[str]]:
    """(ids of training cases, ids of the hold-out) of the study."""
    bench.study.holdout.extend(bench.datastore.list_images(), [])
    held = sorted(bench.study.holdout.ids)
    return [case for case in bench.truths if case not in held], held


def test_rounds_from_one_label_to_pseudo_labels(bench: Any) -> None:
    free, held = split(bench)
    bench.label(free[0], *held)
    stats = train(bench, reason="first")
    ledger = bench.study.ledger
    record = ledger.champion()
    assert record is not None and record.id == stats["round"] == "r0001"
    assert (record.status, record.reason, record.steps, record.seed) == ("done", "first", 60, 0)
    assert record.labels_used == free[:1] and record.holdout_ids == held
    assert record.pseudo_used.n == 0
    assert set(record.dice["challenger"]) == {"disk", "square", "mean"} and record.dice["champion"] is None
    assert stats["best_metric"] == pytest.approx(record.dice["challenger"]["mean"])
    # What Slicer shows.
    assert stats["epoch"] == stats["total_epochs"] == 2 and stats["total_time"]
    assert Student.load(ledger.champion_path(), bench.study.task).version == record.model_digest

    second = train(bench, pseudo_labels="renew", max_epochs=1)
    record = ledger.get(second["round"])
    assert (record.pseudo_used.n, record.pseudo_used.tag) == (len(free) - 1, "pseudo")
    assert record.steps == record.model_dump()["step"] == 50
    assert record.dice["champion"]["mean"] == pytest.approx(ledger.get("r0001").dice["challenger"]["mean"])
    labels = {case: set(bench.datastore.get_labels_by_image_id(case)) for case in bench.truths}
    assert all(labels[case] == {"final"} for case in [free[0], *held])
    assert all(labels[case] == {"pseudo", "pseudo_raw"} for case in free[1:])


def test_worse_challenger_is_stored_but_not_served(bench: Any) -> None:
    free, held = split(bench)
    bench.label(*free[:3], *held)
    train(bench, pseudo_labels="off", steps=30)
    served = bench.study.ledger.champion_path()
    stats = train(bench, pseudo_labels="off", steps=1)
    assert not stats["promoted"] and "not promoted" in stats["decision"]
    # Why it is worse, too.
    assert "has not converged" in stats["decision"]
    fits = [bench.study.ledger.get(id).train_dice for id in ("r0001", "r0002")]
    assert fits[0] > fits[1] >= 0
    assert bench.study.ledger.champion_path() == served
    assert bench.study.ledger.model_path("r0002").exists()


def test_round_starts_from_given_weights(bench: Any) -> None:
    free, held = split(bench)
    bench.label(*free[:2], *held)
    train(bench, pseudo_labels="off", steps=30)
    ledger, folder = bench.study.ledger, bench.study.weights_folder
    first = ledger.get("r0001")
    train(bench, pseudo_labels="off", steps=1, start="r0001")
    record = ledger.get("r0002")
    assert record.start == {"path": str(ledger.model_path("r0001")), "sha256": first.model_digest}
    assert record.train_dice > 0.8 * first.train_dice > 0.3  # after one step
    folder.mkdir()
    (folder / "damaged.pt").write_bytes(b"no weights")
    for start, message in (("r0009", "r0009"), ("gone.pt", "gone.pt"), ("damaged.pt", "not a PyTorch checkpoint")):
        with pytest.raises(UserError, match=message):
            train(bench, start=start)
    assert len(ledger.rounds()) == 2
    shutil.copy(ledger.model_path("r0001"), folder / "copy.pt")
    stats = train(bench, pseudo_labels="off", steps=1, start="copy.pt")
    assert "not known on which cases the initial weights copy.pt were trained" in stats["decision"]


def test_decision_is_reproducible_from_the_record(bench: Any) -> None:
    free, held = split(bench)
    bench.label(*free[:3], *held)
    train(bench, pseudo_labels="off", steps=30)
    train(bench, steps=30)
    ledger, task = bench.study.ledger, bench.study.task
    record, scores, inputs = (
        ledger.get("r0002"),
        ledger.read_json("r0002", "scores"),
        ledger.read_json("r0002", "inputs"),
    )
    assert sorted(scores["challenger"]) == sorted(scores["champion"]) == held and scores["structures"] == task.names
    folds = FoldScores(scores["folds"], ledger.read_json("r0001", "scores")["folds"])
    again = compare_fairly(scores["challenger"], scores["champion"], task.names, folds=folds, seed=record.seed)
    assert json.loads(json.dumps(again.as_json())) == record.comparison
    assert record.comparison["held_out"] == len(held)
    assert decide(again, champion=True).why == record.decision
    # What it was made of.
    assert Task.model_validate(inputs["task"]) == task
    tags = {case: entry["tag"] for case, entry in inputs["cases"].items()}
    assert tags == dict.fromkeys(free, "pseudo") | dict.fromkeys(free[:3], "final")
    label = bench.folder / "labels" / "final" / f"{free[0]}.png"
    assert inputs["cases"][free[0]]["sha256"] == sha256_file(label)
    # From three labels on students on parts of them make the pseudo labels together, by what was learnt from them.
    assert inputs["pseudo_labels_made_with"]["student"] != ledger.get("r0001").model_digest
    policy = LabelingPolicy.load(ledger.folder_of("r0002") / "policy", task, bench.study.plain_sam())
    assert inputs["policy"] == "policy/policy.json" and policy.record["cases"] == 3
    assert set(policy.choice.recipes) == set(task.names)
    assert inputs["packages"]["torch"] == torch.__version__ and inputs["threads"] == torch.get_num_threads()
    assert inputs["start"] == sha256_file(bench.study.folder / "folds" / "full.pt")
    first = ledger.read_json("r0001", "inputs")
    assert first["pseudo_labels_made_with"] is None and first["start"] is None


def test_champion_has_the_teacher_weight_of_the_best_hold_out_dice(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free, held = split(bench)
    bench.label(*free[:3], *held)
    ledger = bench.study.ledger
    train(bench, steps=20)
    train(bench, steps=20)
    assert "champion_weight" not in ledger.read_json("r0002", "scores"), "the hold-out is too small"
    alone = ledger.read_json("r0002", "inputs")["pseudo_labels_made_with"]["student"]
    monkeypatch.setattr(fair, "MIN_HELD", len(held))
    champion = ledger.champion().id
    train(bench, steps=20)
    earlier = ledger.read_json("r0003", "scores")["champion_weight"]
    assert earlier["round"] == champion and set(earlier["dice"]) == {"0", "0.25", "0.5", "0.75", "1"}
    assert earlier["dice"][f"{earlier['weight']:g}"] == max(earlier["dice"].values())
    with_it = ledger.read_json("r0003", "inputs")["pseudo_labels_made_with"]["student"]
    assert (with_it != alone) == (earlier["weight"] > 0), "one that is not listened to changes nothing"
    # What was learnt from the labels is the same, whoever is champion.
    policies = [(bench.study.policy_folder(id) / "policy.json").read_text() for id in ("r0002", "r0003")]
    assert policies[0] == policies[1]


def test_teacher_below_minimum_dice_makes_no_pseudo_labels(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free, held = split(bench)
    bench.label(*free[:3], *held)
    monkeypatch.setattr("samstudent.pseudolabels.policy.MIN_OOF_DICE", 1.1)
    stats = train(bench, steps=2)
    assert "trained on labels only" in stats["decision"]
    assert bench.study.ledger.get("r0001").pseudo_used.n == 0
    # The served student was compared on the hold-out, and is part of the teacher.
    monkeypatch.setattr("samstudent.rounds.scoring.CHAMPION_WEIGHTS", (0.5,))
    monkeypatch.setattr(fair, "MIN_HELD", 1)
    assert "labels only" not in train(bench, steps=2)["decision"]
    assert bench.study.ledger.get("r0002").pseudo_used.n > 0


def test_policy_is_reused_for_unchanged_labels(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt = []

    def counted(*args: Any, **options: Any) -> LabelingPolicy:
        learnt.append(args)
        return fit_policy(*args, **options)

    monkeypatch.setattr(teaching, "fit_policy", counted)
    free, held = split(bench)
    bench.label(*free[:3], *held)
    study, ledger = bench.study, bench.study.ledger
    for _ in range(2):
        train(bench, steps=10)
    first, second = (study.policy_folder(id) / "policy.json" for id in ("r0001", "r0002"))
    assert len(learnt) == 1 and first.read_text() == second.read_text()
    # Nor are the pseudo labels made again: teacher and policy are the same.
    made = [ledger.read_json(id, "inputs")["pseudo_labels_made_with"] for id in ("r0001", "r0002")]
    assert made[0] is not None and {**made[0], "time": 0} == {**made[1], "time": 0}
    train(bench, steps=10, seed=1)
    bench.label(free[3])
    train(bench, steps=10)
    assert len(learnt) == 3


def test_policy_uses_unlabelled_cases_outside_of_the_hold_out(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free, held = split(bench)
    bench.label(*free[:3])
    seen: list[str] = []

    def spied(teacher: Any, cases: Any, *args: Any) -> Any:
        images = list(cases.unlabelled)
        seen.extend(Path(image.path).stem for image in images)
        return fit_policy(teacher, replace(cases, unlabelled=images), *args)

    monkeypatch.setattr(teaching, "fit_policy", spied)
    train(bench, steps=20)
    assert held and sorted(seen) == sorted(free[3:])


def test_with_too_few_labels_the_champion_labels_with_its_policy(bench: Any) -> None:
    free, held = split(bench)
    bench.label(free[0], *held)
    train(bench)
    study, ledger = bench.study, bench.study.ledger
    learn_recipes(study.policy_folder("r0001"), study.task, disk={"source": "student"})
    train(bench, steps=2)
    made, policy = ledger.read_json("r0002", "inputs")["pseudo_labels_made_with"], study.policy_of("r0001")
    assert Provenance(**made) == made_with(ledger.get("r0001").model_digest, study.plain_sam(), study.task, policy)
    reported = ledger.folder_of("r0002") / ledger.read_json("r0002", "inputs")["policy"]
    assert reported.samefile(study.policy_folder("r0001") / "policy.json")
    assert ledger.read_json("r0001", "inputs")["policy"] is None
    # These are found by a round that takes those that are there, also after one that took none of SAM's.
    train(bench, steps=1, pseudo_labels="raw", promote=False)
    train(bench, steps=2, pseudo_labels="use")
    assert ledger.get("r0004").pseudo_used.n == ledger.get("r0002").pseudo_used.n > 0


def test_rejected_and_sent_pseudo_labels_do_not_train(bench: Any, trained: Path) -> None:
    free, held = split(bench)
    bench.label(free[0], *held)
    ledger, reviews = bench.study.ledger, bench.study.reviews
    serve(bench, trained)

    def used(pseudo_labels: str) -> set[str]:
        id = train(bench, steps=1, promote=False, pseudo_labels=pseudo_labels)["round"]
        return set(ledger.read_json(id, "inputs")["cases"]) - {free[0]}

    first, second, *others = sorted(used("renew"))
    for case, decision in ((first, "rejected"), (second, "sent")):
        reviews.record(case, decision, bench.datastore.get_label_info(case, "pseudo"), "anna")
    assert used("use") == set(others)


def test_student_and_recipes_are_of_one_round_during_a_promotion(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free, held = split(bench)
    bench.label(free[0], *held)
    study, ledger = bench.study, bench.study.ledger
    for id, source in (("r0001", "student"), ("r0002", "sam")):
        train(bench, steps=20, pseudo_labels="off", seed=int(id[1:]))
        learn_recipes(study.policy_folder(id), study.task, disk={"source": source})
    ledger.promote("r0001")
    looks: list[str] = []

    def promoting(look: Any) -> Any:
        """Promotion of the other round by another process after the first read of the ledger."""

        def looked() -> Any:
            found = look()
            if not looks:
                looks.append(ServedRound.load(ledger.folder).round)
                ledger.promote("r0002")
            return found

        return looked

    for name in ("champion", "champion_path"):
        monkeypatch.setattr(ledger, name, promoting(getattr(ledger, name)))
    train(bench, steps=2)
    assert looks == ["r0001"]
    made = Provenance(**ledger.read_json("r0003", "inputs")["pseudo_labels_made_with"])
    digest, policy = ledger.get("r0001").model_digest, study.policy_of("r0001")
    assert made == made_with(digest, study.plain_sam(), study.task, policy)


class Decoder(FakeSam):
    """Adapted decoder."""

    digest = "e" * 64


def test_round_does_not_use_a_deactivated_adapted_sam(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a fitted and for a reused policy; until another adapted SAM is better."""
    study, ledger = bench.study, bench.study.ledger

    def adapted_too(teacher: Any, labels: Any, *args: Any) -> LabelingPolicy:
        policy = teaching.fit_labeling(teacher, labels, *args)
        found = {"used": True, "reason": reason}
        (labels.store.policy_folder / ADAPTED_FILE).write_text(reason)
        return replace(policy, adapted=Decoder(), record={**policy.record, "adaptation": found})

    monkeypatch.setattr(pseudo_labeling, "fit_labeling", adapted_too)
    free, held = split(bench)
    bench.label(*free[:3], *held)

    def decoder() -> str:
        id = train(bench, steps=2)["round"]
        return str(ledger.read_json(id, "inputs")["pseudo_labels_made_with"]["sam_digest"])

    reason = "first"
    assert decoder() == Decoder.digest
    study.adapted_models.activate_plain(who="admin")
    assert decoder() == FakeSam.digest and study.active_model is None
    reason = "second"
    assert decoder() == Decoder.digest and study.active_model == "s0002"


@pytest.mark.parametrize(
    ("targets", "threshold", "taught"),
    [("probabilities", 0.0, True), ("masks", 0.0, False), ("auto", 0.0, False), ("auto", 1.0, True)],
)
def test_soft_targets_are_used_if_the_quality_filter_accepts_few_masks(
    bench: Any, trained: Path, targets: Any, threshold: float, taught: bool
) -> None:
    task = bench.study.task
    section = task.pseudo_labels.model_copy(update={"threshold": threshold})
    bench.study.task = task.model_copy(update={"pseudo_labels": section})
    bench.study.ablations = replace(bench.study.ablations, targets=targets)
    free, held = split(bench)
    bench.label(free[0], *held)
    serve(bench, trained)
    train(bench, steps=2)
    used = bench.study.ledger.get("r0002").pseudo_used
    assert used.n == len(free) - 1 and used.targets == ("probabilities" if taught else "masks")
    weights = [case.get("weights") for case in bench.study.ledger.read_json("r0002", "inputs")["cases"].values()]
    assert sum(found is not None for found in weights) == (0 if taught else used.n)


def test_small_hold_out_is_supplemented_by_out_of_fold_scores(bench: Any) -> None:
    free, held = split(bench)
    bench.label(*free[:3], *held)
    train(bench, pseudo_labels="off", steps=30)
    ledger = bench.study.ledger
    first = ledger.read_json("r0001", "scores")["folds"]
    assert sorted(first) == free[:3] and np.mean(list(first.values())) > 0.2
    bench.label(free[3])
    train(bench, pseudo_labels="off", steps=1)
    record, second = ledger.get("r0002"), ledger.read_json("r0002", "scores")["folds"]
    assert sorted(second) == free[:4] and np.mean(list(second.values())) < np.mean(list(first.values()))
    # The hold-out, and the labels that both rounds had.
    assert (record.comparison["held_out"], record.comparison["mean"]["cases"]) == (len(held), len(held) + 3)
    assert "3 by cross-validation" in record.decision
    # The same labels: the parts' students are there already.
    times = {path: path.stat().st_mtime_ns for path in (bench.study.folder / "folds").glob("*.pt")}
    train(bench, pseudo_labels="off", steps=1)
    assert len(times) == 3 and {path: path.stat().st_mtime_ns for path in times} == times


def test_promotion_can_be_declined(bench: Any) -> None:
    free, held = split(bench)
    bench.label(free[0], *held)
    stats = train(bench, promote=False, steps=2)
    assert not stats["promoted"] and bench.study.ledger.champion() is None


def test_option_raw_trains_on_the_students_own_masks(bench: Any) -> None:
    free, held = split(bench)
    bench.label(*free[:2], *held)
    train(bench, pseudo_labels="off")
    record = bench.study.ledger.get(train(bench, pseudo_labels="raw", steps=2)["round"])
    assert (record.pseudo_used.n, record.pseudo_used.tag) == (len(free) - 2, "pseudo_raw")
    # "use" makes none: there are none by SAM yet.
    assert bench.study.ledger.get(train(bench, pseudo_labels="use", steps=2)["round"]).pseudo_used.n == 0


def test_champion_of_another_task_is_ignored(bench: Any) -> None:
    free, held = split(bench)
    bench.label(free[0], *held)
    train(bench, steps=1)
    task = bench.study.task
    bench.study.task = task.model_copy(update={"image": task.image.model_copy(update={"channels": 3})})
    record = bench.study.ledger.get(train(bench, steps=1)["round"])
    assert (record.status, record.dice["champion"], record.pseudo_used.n) == ("done", None, 0)


def test_training_without_labels_is_a_conflict_and_opens_no_round(bench: Any) -> None:
    with pytest.raises(Conflict, match="no case is labelled"):
        train(bench)
    assert bench.study.ledger.rounds() == []
    _, held = split(bench)
    bench.label(*held)
    with pytest.raises(Conflict, match=f"the {len(held)} labelled so far are kept to compare models"):
        train(bench)


def test_failed_round_is_recorded_and_changes_nothing(bench: Any) -> None:
    free, held = split(bench)
    bench.label(free[0], *held)
    train(bench, steps=2)
    served = bench.study.ledger.champion_path()
    (bench.folder / "labels" / "final" / f"{free[0]}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="no human label can be read"):
        train(bench, steps=2)
    record = bench.study.ledger.get("r0002")
    assert record.status == "failed" and free[0] in (record.error or "")
    assert bench.study.ledger.champion_path() == served


def test_round_that_fails_late_has_its_out_of_fold_scores(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **options: Any) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(run_round, "compare_on_holdout", fail)
    free, held = split(bench)
    bench.label(*free[:3], *held)
    with pytest.raises(UserError, match="the disk is full"):
        train(bench, steps=2, pseudo_labels="off")
    scores = bench.study.ledger.read_json("r0001", "scores")
    assert scores["structures"] == bench.study.task.names and set(scores["folds"]) == set(free[:3])


def test_killed_round_leaves_the_served_model_unchanged(bench: Any) -> None:
    free, held = split(bench)
    bench.label(free[0], *held)
    train(bench, steps=2)
    ledger = bench.study.ledger
    served, digest = ledger.champion_path(), ledger.champion().model_digest
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from samstudent.server import deferred_imports; deferred_imports.install()\n"
        "from support.student_study import TASK, DrawnStudy\n"
        "from samstudent.server.datastore.study_folder import StudyFolderDatastore\n"
        "from samstudent.server.tasks.student_trainer import StudentTrainTask\n"
        "store = StudyFolderDatastore(sys.argv[1], auto_reload=False)\n"
        "request = {'model': 'student', 'device': 'cpu', 'steps': 100000, 'pseudo_labels': 'off'}\n"
        "StudentTrainTask(DrawnStudy(sys.argv[1], sys.argv[1], TASK))(request, store)\n"
    )
    tests = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", script, str(bench.folder), str(tests)])
    try:
        until = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < until:
            running = ledger.running()
            if running is not None and running.model_dump().get("step"):
                break
            time.sleep(0.1)
        assert process.poll() is None, "the training ended by itself"
    finally:
        process.kill()
        process.wait()
    assert ledger.get("r0002").status == "interrupted" and ledger.get("r0002").model_dump()["step"] >= 1
    assert not ledger.model_path("r0002").exists()
    assert ledger.champion_path() == served
    assert Student.load(served, bench.study.task).version == digest
    # And the next round is as good as any.
    assert train(bench, steps=2, pseudo_labels="off")["round"] == "r0003"


def test_the_same_seed_trains_the_same_model(bench: Any) -> None:
    free, held = split(bench)
    bench.label(*free[:2], *held)
    digests = []
    for seed in (3, 3, 4):
        round_id = train(bench, pseudo_labels="off", steps=3, seed=seed)["round"]
        digests.append(bench.study.ledger.get(round_id).model_digest)
    assert digests[0] == digests[1] != digests[2]


def test_paths_in_a_request_are_not_read_or_written(bench: Any, tmp_path: Any) -> None:
    free, held = split(bench)
    bench.label(free[0], *held)
    before = {path.name for path in tmp_path.iterdir()}
    secret = tmp_path / "cases.json"
    secret.write_text("[]")
    train(bench, steps=1, name="../../outside", train_ds=str(secret), val_ds=str(secret))
    assert {path.name for path in tmp_path.iterdir()} == before | {"cases.json"}
    assert {path.name for path in bench.study.ledger.folder_of("r0001").iterdir()} == {
        *("model.pt", "round.json", "inputs.json", "scores.json", "training.json")
    }


def test_info_lists_the_options_for_clients(bench: Any) -> None:
    info = StudentTrainTask(bench.study).info()
    assert info["config"]["pseudo_labels"] == ["renew", "use", "raw", "off"]
    assert info["config"]["max_epochs"] == 2 and info["config"]["promote"] is True
    assert all(isinstance(v, (str, bool, int, float, list)) for v in info["config"].values())
    assert StudentTrainTask(bench.study).stats() == {}
    # Slicer and OHIF send the whole config back.
    assert TrainOptions.of(info["config"], bench.study.task).pseudo_labels == "renew"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"pseudo_labels": "some"}, "pseudo_labels"),
        ({"max_epochs": -1}, "max_epochs"),
        ({"steps": "many"}, "steps"),
        ({"seed": -1}, "seed"),
        ({"promote": "perhaps"}, "promote"),
    ],
)
def test_wrong_values_are_named(bench: Any, request_: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        train(bench, **request_)
    assert bench.study.ledger.rounds() == []


def renamed(bench: Any) -> None:
    """The study's images and labels get other names, and the host's list of them is lost: c3 becomes p3."""
    for file in sorted([*bench.folder.glob("c*.png"), *(bench.folder / "labels" / "final").glob("c*.png")]):
        file.rename(file.with_name(f"p{file.name[1:]}"))
    (bench.folder / "datastore_v2.json").unlink(missing_ok=True)
    (bench.folder / ".samstudent" / "datastore_v2.sqlite").unlink()
    bench.datastore = StudyFolderDatastore(str(bench.folder), auto_reload=False)
    bench.truths = {f"p{case[1:]}": masks for case, masks in bench.truths.items()}


def keep_to_compare(bench: Any, *ids: str) -> None:
    (bench.folder / "split.csv").write_text("id,split\n" + "".join(f"{case},val\n" for case in ids))


def test_hold_out_cases_that_the_champion_trained_on_leave_the_comparison(bench: Any) -> None:
    free, held = split(bench)
    bench.label(*free[:3], *held)
    train(bench, pseudo_labels="off", steps=2)
    renamed(bench)
    known, unknown = [f"p{case[1:]}" for case in free[:2]], [f"p{case[1:]}" for case in held]
    keep_to_compare(bench, *known, *unknown)
    bench.label(f"p{free[3][1:]}", f"p{free[4][1:]}")
    stats = train(bench, pseudo_labels="off", steps=2)
    record = bench.study.ledger.get("r0002")
    assert sorted(record.holdout_ids) == sorted(known + unknown)
    assert record.not_compared == {
        new: f"trained on by champion (r0001) as {old}" for new, old in zip(known, free[:2], strict=True)
    }
    assert set(bench.study.ledger.read_json("r0002", "scores")["champion"]) == set(unknown)
    assert f"as a student trained on them: {', '.join(sorted(known))}" in stats["decision"]
    # The hold-out is small: cross-validation joins, of the one label that trained both, under its present name.
    assert (record.comparison["held_out"], record.comparison["mean"]["cases"]) == (len(unknown), len(unknown) + 1)


def test_challenger_is_not_served_if_the_champion_trained_on_the_whole_hold_out(bench: Any) -> None:
    free, _ = split(bench)
    bench.label(*free[:2])
    train(bench, pseudo_labels="off", steps=2)
    keep_to_compare(bench, *free[:2])
    bench.label(free[2], free[3])
    stats = train(bench, pseudo_labels="off", steps=2)
    assert not stats["promoted"] and "cannot be compared" in stats["decision"]
    assert set(bench.study.ledger.get("r0002").not_compared) == set(free[:2])
    assert bench.study.ledger.champion().id == "r0001"


def test_hold_out_case_with_a_training_copy_is_excluded_from_the_comparison(bench: Any) -> None:
    free, held = split(bench)
    shutil.copy(bench.folder / f"{held[0]}.png", bench.folder / "copy.png")
    bench.datastore.refresh()
    bench.truths["copy"] = bench.truths[held[0]]
    bench.label("copy", free[0], *held)
    train(bench, pseudo_labels="off", steps=2)
    reported = bench.study.ledger.get("r0001").not_compared
    if "copy" in bench.study.holdout.ids:  # by the hash of its name
        assert reported == {}
    else:
        assert reported == {held[0]: "trained on by this round (r0001) as copy"}


def test_record_names_training_cases_and_reasons_for_others(bench: Any) -> None:
    free, held = split(bench)
    bench.label(*free[:5], *held)
    labels = bench.folder / "labels" / "final"
    (labels / f"{free[1]}.png").write_bytes(b"torn")
    (bench.folder / f"{free[2]}.png").write_bytes(b"")
    (labels / f"{free[3]}.png").unlink()
    (labels / f"{held[0]}.png").write_bytes(b"torn")
    stats = train(bench, pseudo_labels="off", steps=2)
    record = bench.study.ledger.get(stats["round"])
    assert record.status == "done" and record.labels_used == [free[0], free[4]]
    assert set(record.unreadable) == set(free[1:4])
    assert f"{free[1]}.png" in record.unreadable[free[1]] and f"{free[2]}.png" in record.unreadable[free[2]]
    assert set(record.not_compared) == {held[0]} and f"cannot be read: {held[0]}" in stats["decision"]
    brief = _brief(record)
    assert (brief["labels"], brief["left_out"], brief["held_out"]) == (2, record.unreadable, len(held) - 1)


def test_label_removed_during_a_round_is_already_prepared(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free, held = split(bench)
    bench.label(*free[:4], *held)

    def cross_fit(*args: Any, **options: Any) -> Any:
        found = teaching.cross_fit_labels(*args, **options)
        (bench.folder / "labels" / "final" / f"{free[3]}.png").unlink()
        return found

    monkeypatch.setattr(pseudo_labeling, "cross_fit_labels", cross_fit)
    record = bench.study.ledger.get(train(bench, steps=2)["round"])
    assert record.status == "done" and record.labels_used == free[:4] and record.unreadable == {}
