"""Ledger: every round is recorded, and the served model changes completely or not at all."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samstudent.errors import Conflict, NotFound, UserError
from samstudent.rounds.ledger import Ledger
from samstudent.rounds.round_record import RoundRecord
from samstudent.rounds.round_store import RoundStore
from samstudent.task import load_task
from samstudent.util.files import sha256_file


def make_round(ledger: Ledger, content: bytes = b"weights", **fields) -> str:
    id = ledger.new_round("test")
    ledger.model_path(id).write_bytes(content)
    ledger.update(id, status="done", model_digest=sha256_file(ledger.model_path(id)), **fields)
    return id


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def test_new_ledger_is_empty(tmp_path: Path):
    ledger = Ledger(tmp_path / "state")
    assert ledger.rounds() == [] and ledger.champion() is None and ledger.champion_path() is None
    assert ledger.running() is None and ledger.last_concluded() is None and ledger.history() == []
    assert not (tmp_path / "state").exists()


def test_record_round_trip_is_lossless(tmp_path: Path):
    ledger = Ledger(tmp_path)
    id = ledger.new_round("manual", seed=3)
    assert id == "r0001" and ledger.running().pid == os.getpid()
    record = ledger.get(id).model_copy(update={"status": "done", "labels_used": ["a"], "task_digest": "t"})
    ledger.record(id, record)
    dice = {"challenger": {"ulna": math.nan, "mean": 0.5}, "champion": None}
    ledger.update(id, dice=dice, pseudo_used={"n": 4, "tag": "pseudo"}, holdout_ids=["h"])
    read = Ledger(tmp_path).get(id)
    assert (read.reason, read.seed, read.labels_used, read.pseudo_used.n) == ("manual", 3, ["a"], 4)
    assert read.dice == {"challenger": {"ulna": None, "mean": 0.5}, "champion": None}
    assert ledger.new_round() == "r0002"


def test_scores_are_a_separate_file_of_the_round(tmp_path: Path):
    ledger = Ledger(tmp_path)
    id = ledger.new_round()
    assert ledger.read_json(id, "scores") is None
    RoundStore(ledger.folder_of(id), load_task("wrist")).write_record("scores", {"challenger": {"a": [0.5, None]}})
    assert Ledger(tmp_path).read_json(id, "scores") == {"challenger": {"a": [0.5, None]}}
    (ledger.folder_of(id) / "scores.json").write_text("{")
    with pytest.raises(UserError, match="unreadable"):
        ledger.read_json(id, "scores")


def test_invalid_records_are_named(tmp_path: Path):
    ledger = Ledger(tmp_path)
    id = ledger.new_round()
    with pytest.raises(TypeError, match="decison"):
        ledger.update(id, decison="promoted")
    with pytest.raises(UserError, match="r0007"):
        ledger.record(id, RoundRecord(id="r0007"))
    with pytest.raises(NotFound, match="r0002"):
        ledger.get("r0002")
    with pytest.raises(NotFound, match="look like r0001"):
        ledger.get("../r0001")
    (ledger.folder_of(id) / "round.json").write_text("{")
    assert ledger.rounds()[0].status == "failed" and "round.json" in ledger.rounds()[0].error


def test_run_records_its_outcome(tmp_path: Path):
    ledger = Ledger(tmp_path)
    with ledger.run("fine"):
        pass
    with pytest.raises(RuntimeError), ledger.run("broken data"):
        raise RuntimeError("no such image")
    with pytest.raises(KeyboardInterrupt), ledger.run("stopped"):
        raise KeyboardInterrupt
    assert [r.status for r in ledger.rounds()] == ["done", "failed", "interrupted"]
    assert ledger.rounds()[1].error == "RuntimeError: no such image"
    assert ledger.last_concluded().id == "r0002"


def test_a_round_whose_process_was_killed_is_interrupted(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; from samstudent.rounds.ledger import Ledger\n"
        "Ledger(Path(sys.argv[1])).new_round('x'); Path(sys.argv[1], 'ready').touch(); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    wait_for(tmp_path / "ready")
    ledger = Ledger(tmp_path)
    assert ledger.running().id == "r0001"
    child.kill()
    while ledger.running():  # also while it is a zombie, which we have not waited for, it counts as gone
        time.sleep(0.01)
    assert ledger.get("r0001").status == "interrupted"
    child.wait()
    assert ledger.last_concluded() is None
    # Another process of the same number is not that process.
    ledger.update("r0001", pid=os.getpid())
    assert ledger.get("r0001").status == "interrupted"


def test_concurrent_processes_open_different_rounds(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from samstudent.rounds.ledger import Ledger\n"
        "print(*[Ledger(Path(sys.argv[1])).new_round() for _ in range(10)])"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(3)]
    ids = [id for child in children for id in child.communicate()[0].split()]
    assert len(set(ids)) == 30 == len(Ledger(tmp_path).rounds())


class TestChampion:
    def test_promote_and_roll_back(self, tmp_path: Path):
        ledger = Ledger(tmp_path)
        ids = [make_round(ledger, bytes([i])) for i in range(4)]
        for id in ids[:3]:
            ledger.promote(id, who="anna", why="better")
        assert ledger.champion().id == ids[2] and ledger.champion_path() == ledger.model_path(ids[2])
        assert [r.promoted for r in ledger.rounds()] == [True, True, True, False]
        assert ledger.rollback(who="bob") == ids[1]
        assert ledger.rollback() == ids[0]
        with pytest.raises(Conflict, match="no round was served before r0001"):
            ledger.rollback()
        ledger.promote(ids[3])
        ledger.promote(ids[3])  # served already: nothing happens
        assert ledger.rollback() == ids[0]
        kinds = [(change.kind, change.round, change.who) for change in Ledger(tmp_path).history()]
        assert kinds[:4] == [
            ("promote", "r0001", "anna"),
            ("promote", "r0002", "anna"),
            ("promote", "r0003", "anna"),
            ("rollback", "r0002", "bob"),
        ]
        assert len(kinds) == 7

    def test_roll_back_to_a_named_round(self, tmp_path: Path):
        ledger = Ledger(tmp_path)
        ids = [make_round(ledger, bytes([i])) for i in range(4)]
        with pytest.raises(Conflict):
            ledger.rollback()
        for id in ids[:3]:
            ledger.promote(id)
        with pytest.raises(Conflict, match="r0004 was not served before r0003; served were r0001, r0002"):
            ledger.rollback(to=ids[3])
        assert ledger.rollback(to=ids[0]) == ids[0] == ledger.champion().id
        with pytest.raises(Conflict):
            ledger.rollback()

    def test_missing_or_damaged_model_is_named_and_not_replaced(self, tmp_path: Path):
        ledger = Ledger(tmp_path)
        first, second = make_round(ledger, b"1"), make_round(ledger, b"2")
        ledger.promote(first)
        ledger.promote(second)
        ledger.model_path(second).write_bytes(b"torn")
        with pytest.raises(UserError, match=r"r0002.model.pt: damaged"):
            ledger.champion_path()
        with pytest.raises(UserError, match="damaged"):
            ledger.promote(second)
        ledger.model_path(second).unlink()
        with pytest.raises(NotFound, match=r"r0002.model.pt.*roll back"):
            ledger.champion_path()
        assert ledger.rollback() == first and ledger.champion_path() == ledger.model_path(first)

    def test_roll_back_to_a_damaged_model_is_refused(self, tmp_path: Path):
        ledger = Ledger(tmp_path)
        ids = [make_round(ledger, bytes([i])) for i in range(3)]
        for id in ids:
            ledger.promote(id)
        ledger.model_path(ids[1]).write_bytes(b"torn")
        with pytest.raises(UserError, match="r0002"):
            ledger.rollback()
        assert ledger.champion().id == ids[2]
        assert ledger.rollback(to=ids[0]) == ids[0]

    def test_incomplete_model_is_not_promoted(self, tmp_path: Path):
        ledger = Ledger(tmp_path)
        id = ledger.new_round()
        with pytest.raises(Conflict, match="r0001 is running"):
            ledger.promote(id)
        ledger.update(id, status="done")
        with pytest.raises(NotFound, match=r"model.pt"):
            ledger.promote(id)
        with pytest.raises(NotFound, match="r0002"):
            ledger.promote("r0002")
        assert ledger.champion() is None

    def test_invalid_champion_file_is_named(self, tmp_path: Path):
        (tmp_path / "champion.json").write_text("{")
        with pytest.raises(UserError, match=r"champion\.json"):
            Ledger(tmp_path).champion()

    def test_kill_during_promotion_leaves_one_champion(self, tmp_path: Path):
        """A process that promotes continuously is killed repeatedly; the champion is always complete."""
        ledger = Ledger(tmp_path)
        ids = [make_round(ledger, bytes([i]) * 1000) for i in range(2)]
        ledger.promote(ids[0])
        code = (
            "import sys; from pathlib import Path; from samstudent.rounds.ledger import Ledger\n"
            "ledger = Ledger(Path(sys.argv[1]))\n"
            "while True:\n"
            "    ledger.promote('r0002'); print(flush=True); ledger.rollback()"
        )
        for i in range(4):
            child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
            child.stdout.readline()
            time.sleep(0.003 * i)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            history = ledger.history()
            assert ledger.champion().id == history[-1].round in ids
            assert ledger.champion_path() == ledger.model_path(history[-1].round)
            json.loads((tmp_path / "champion.json").read_text())
            if history[-1].round == ids[0]:
                ledger.promote(ids[1])  # the lock of the killed process is free
            ledger.rollback()
