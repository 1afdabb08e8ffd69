"""Jobs of the methods, and jobs that methods share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from samstudent.errors import UserError
from samstudent.research.experiment.methods import METHODS, Planner, planned, select
from samstudent.research.experiment.plan import Job, in_order
from samstudent.research.setting import Setting
from support.drawn_folder import labelled_folder
from support.experiment_setting import setting_of


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return setting_of(labelled_folder(tmp_path / "data"), tmp_path / "out", prepared=False)


def test_methods_share_common_jobs(setting: Setting) -> None:
    planner = Planner(setting)
    students = {name: METHODS[name].build(planner, 2, 0) for name in ("teacher", "raw", "paper", "largest")}
    assert students["raw"].needs["pseudo"].needs["teacher"].key == students["teacher"].key
    assert students["raw"].needs["start"].key == students["teacher"].key
    jobs = in_order(list(students.values()))
    assert sum(job.kind == "student" for job in jobs.values()) == 4
    assert list(jobs) == list(in_order(list(students.values())))
    assert METHODS["labels"].build(planner, 2, 1).key != METHODS["labels"].build(planner, 2, 0).key
    assert METHODS["labels"].build(planner, 3, 0).key != METHODS["labels"].build(planner, 2, 0).key


def steps_of(job: Job) -> int:
    """Steps of a student and of those whose training it continues; a round continues from its full student."""
    if job.kind == "pseudo":  # its student is the round's full one
        return int(job.needs["round"].params["steps"])
    if job.kind == "round":
        return 2 * int(job.params["steps"])
    return int(job.params["steps"]) + (steps_of(job.needs["start"]) if "start" in job.needs else 0)


def test_all_students_of_a_comparison_train_for_equally_many_steps(setting: Setting) -> None:
    methods = [name for name in METHODS if name not in ("nnunet", "teacher", "ours-scratch")]
    found = {name: steps_of(METHODS[name].build(Planner(setting), 3, 0)) for name in methods}
    assert set(found.values()) == {2 * setting.steps}


def test_a_second_round_has_the_student_of_the_first_as_champion(setting: Setting) -> None:
    planner = Planner(setting)
    once, twice = (METHODS[name].build(planner, 3, 0) for name in ("ours", "ours-twice"))
    assert twice.needs["champion"].key == once.key != twice.key
    random = METHODS["ours-random-sam"].build(planner, 3, 0)
    assert random.params["changes"] == {"random_sam": 0}
    assert len({once.key, twice.key, random.key}) == 3


def test_a_job_reads_only_the_cases_that_it_names(setting: Setting) -> None:
    planner = Planner(setting)
    assert METHODS["labels"].build(planner, 2, 0).cases == ("case5", "case4")
    assert METHODS["ours"].build(planner, 2, 0).cases == ("case5", "case4", "case3", "case2", "case1", "case0")
    assert planner.evaluation(METHODS["all"].build(planner, None, 0), "all", None, 0).cases == setting.test


def test_another_content_of_a_case_is_another_job_for_those_that_read_it(setting: Setting) -> None:
    label = setting.sources["case0"].label
    assert label is not None
    label.write_bytes(label.read_bytes() + b"\0")
    changed = replace(setting, sources={id: setting.folder.case(id) for id in setting.sources})
    keys = [[METHODS[name].build(Planner(s), 2, 0).key for name in ("labels", "all")] for s in (setting, changed)]
    assert keys[0][0] == keys[1][0] and keys[0][1] != keys[1][1]


def test_measurements_are_ordered_by_seed_with_one_upper_bound(setting: Setting) -> None:
    jobs = planned(setting, ["labels", "all"], [3, 2, 3], [0, 1])
    assert [(job.params["method"], job.params["labels"], job.params["seed"]) for job in jobs] == [
        ("labels", 2, 0), ("labels", 3, 0), ("all", None, 0), ("labels", 2, 1), ("labels", 3, 1), ("all", None, 1),
    ]  # fmt: skip


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(UserError, match="ours-nothing"):
        select(["labels", "ours-nothing"])
