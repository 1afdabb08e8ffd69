"""Job in the form of the host's API."""

from __future__ import annotations

from samstudent.server.jobs.job import DETAILS, Job, Status
from samstudent.util.progress import Progress


def test_waiting_job_has_a_last_line_and_no_end_time() -> None:
    """3D Slicer reads the last line of a job that it stops."""
    job = Job("train", {"model": "student"})
    content = job.as_json()
    assert content.keys() == {"id", "status", "request", "start_ts", "details", "steps"}
    assert (content["status"], content["request"], content["details"]) == (
        "SUBMITTED",
        {"model": "student"},
        ["submitted"],
    )


def test_last_lines_and_last_event_of_each_step_are_stored() -> None:
    job = Job("train", {})
    for done in range(1, DETAILS + 1):
        job.add_progress(Progress("reading cases", done, DETAILS))
    job.add_progress(Progress("training", 1, 60))
    job.add_line("a warning")
    assert len(job.details) == DETAILS and job.details[-2:] == ["training: 1 of 60", "a warning"]
    assert job.steps == [Progress("reading cases", DETAILS, DETAILS), Progress("training", 1, 60)]
    assert [step["step"] for step in job.as_json()["steps"]] == ["reading cases", "training"]
    assert job.current == Progress("training", 1, 60)


def test_first_final_state_is_kept() -> None:
    job = Job("train", {})
    assert job.begin() and job.is_active
    job.end(Status.STOPPED, "stopped on request")
    job.end(Status.ERROR, "its process was killed")
    assert not job.begin() and not job.is_active and job.ended.is_set()
    content = job.as_json()
    assert (content["status"], content["details"][-1]) == ("STOPPED", "stopped on request")
    assert content["end_ts"] >= content["start_ts"] and "result" not in content


def test_only_successful_jobs_have_a_result() -> None:
    job = Job("scoring", {}, result={"scored": 3})
    assert "result" not in job.as_json()
    job.end(Status.DONE)
    assert job.as_json()["result"] == {"scored": 3}
