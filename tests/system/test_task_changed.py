"""Structure added to the task: the served student lacks it, and all endpoints report that."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from samstudent.rounds.ledger import Ledger
from samstudent.student.predict import save_model
from samstudent.student.training import new_network
from samstudent.task import load_task
from support.live_server import TASK, RunningServer, TinyStudy, detail, wait_until

pytestmark = pytest.mark.server


def serve_untrained(study: TinyStudy) -> None:
    """Promote an untrained student of the study's first task."""
    ledger = Ledger(study.folder / ".samstudent" / study.task.name)
    round_id = ledger.new_round("test")
    digest = save_model(ledger.model_path(round_id), new_network(study.task, 0), study.task)
    ledger.update(round_id, status="done", model_digest=digest)
    ledger.promote(round_id)


def test_student_of_the_task_before_a_class_was_added_is_reported(study: TinyStudy, tmp_path: Path) -> None:
    serve_untrained(study)
    study.task_file.write_text(TASK.replace("[radius, ulna, lunate]", "[radius, ulna, lunate, scaphoid]"))
    assert load_task(study.task_file).names[-1] == "scaphoid"
    server = RunningServer(study, tmp_path)
    try:
        server.wait_until_up()
        reported = "this student segments radius, ulna, lunate; task 'tiny' has radius, ulna, lunate, scaphoid now."
        for model in ("student", "student+sam"):
            answer = requests.post(f"{server.url}/infer/{model}?image=case00&output=json", timeout=60)
            assert answer.status_code == 409 and reported in detail(answer), answer.text
            answer = requests.post(f"{server.url}/batch/infer/{model}?images=unlabeled", json={}, timeout=60)
            assert answer.status_code == 409 and reported in detail(answer), answer.text
        overview = requests.get(f"{server.url}/samstudent/overview", timeout=60).json()
        assert reported in overview["served_fault"] and overview["served"]["id"] == "r0001"
        assert "student" not in requests.get(f"{server.url}/info/", timeout=60).json()["models"]
        # Scores of a student that cannot answer are not tried for each case.
        wait_until(lambda: server.wait_for("scoring"))
        scored = requests.post(f"{server.url}/scoring/uncertainty?run_sync=true&enqueue=true", timeout=120).json()
        assert scored["note"] == "there is no student that fits the task" and not scored["failed"]
        assert "Traceback" not in server.log.read_text(errors="replace")
        assert server.log.read_text(errors="replace").count("no student is served: ") <= 2  # for each of the models
    finally:
        server.stop()
