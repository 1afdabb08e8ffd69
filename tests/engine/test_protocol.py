"""Properties of every engine: order, failures, skipped results, bounded work in flight, cancel, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from samstudent.engine.in_process import InProcess
from samstudent.engine.local_processes import LocalProcesses
from samstudent.engine.protocol import Engine, Outcome, run_shards, shards_of
from samstudent.util.progress import Progress
from support.engine_work import Noted

MakeEngine = Callable[[], Engine]


@pytest.fixture(params=["in_process", "local_processes"])
def make(request: pytest.FixtureRequest) -> MakeEngine:
    if request.param == "in_process":
        return lambda: InProcess(capacity=3)
    return lambda: LocalProcesses([{"WORKER_NAME": "only"}], capacity=3)


def by_key(outcomes: Iterator[Outcome]) -> dict[str, Outcome]:
    return {outcome.key: outcome for outcome in outcomes}


def test_items_of_one_worker_run_in_the_order_of_submission(make: MakeEngine, tmp_path: Path) -> None:
    work, keys = Noted(tmp_path), [f"k{i}" for i in range(7)]
    with make() as engine:
        outcomes = list(run_shards(engine, work, shards_of(keys, 2)))
    assert [outcome.key for outcome in outcomes] == keys == work.calls()
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert all(key in work.store for key in keys)


def test_failed_item_is_reported_and_others_continue(make: MakeEngine, tmp_path: Path) -> None:
    with make() as engine:
        outcomes = by_key(run_shards(engine, Noted(tmp_path), [["a", "fail1", "b"], ["empty1", "c"]]))
    assert {key: outcome.state for key, outcome in outcomes.items()} == {
        "a": "done", "fail1": "failed", "b": "done", "empty1": "failed", "c": "done",
    }  # fmt: skip
    assert outcomes["fail1"].reason == "ValueError: fail1 cannot be done"
    assert outcomes["empty1"].reason == "no result was written"


def test_rerun_computes_missing_items_only(make: MakeEngine, tmp_path: Path) -> None:
    work = Noted(tmp_path)
    work.store.write("b", "of an earlier run")
    for expected in ({"a": "done", "b": "skipped", "c": "done"}, dict.fromkeys("abc", "skipped")):
        with make() as engine:
            found = by_key(run_shards(engine, work, [["a", "b", "c"]]))
        assert {key: outcome.state for key, outcome in found.items()} == expected
    assert work.calls() == ["a", "c"]
    assert work.store.path("b").read_text() == "of an earlier run"


def test_shards_in_flight_are_bounded(make: MakeEngine, tmp_path: Path) -> None:
    work, taken = Noted(tmp_path), []

    def shards() -> Iterator[list[str]]:
        for number in range(12):
            taken.append(number)
            yield [f"k{number}"]

    with make() as engine:
        assert engine.room == 3
        for number, _ in enumerate(run_shards(engine, work, shards()), 1):
            assert len(taken) <= number + 3
        for number in range(3):
            engine.submit(work, [f"more{number}"])
        assert engine.room == 0
        with pytest.raises(RuntimeError, match="no room"):
            engine.submit(work, ["too many"])
    assert len(taken) == 12


def test_cancel_from_a_progress_report_stops_the_running_item_and_all_others(make: MakeEngine, tmp_path: Path) -> None:
    work = Noted(tmp_path)
    with make() as engine:

        def cancel_later(key: str, progress: Progress) -> None:
            if key == "sleep1":
                engine.cancel()

        outcomes = by_key(run_shards(engine, work, [["a", "sleep1", "b"], ["c"]], cancel_later))
        with pytest.raises(RuntimeError, match="cancelled"):
            engine.submit(work, ["d"])
        assert engine.collect() is None
    assert {key: outcome.state for key, outcome in outcomes.items()} == {
        "a": "done", "sleep1": "cancelled", "b": "cancelled", "c": "cancelled",
    }  # fmt: skip
    assert work.calls() == ["a", "sleep1"]


def test_progress_of_an_item_arrives_where_outcomes_are_collected(make: MakeEngine, tmp_path: Path) -> None:
    seen: list[tuple[str, Progress]] = []
    with make() as engine:
        list(run_shards(engine, Noted(tmp_path), [["a"]], lambda *values: seen.append(values)))
    assert seen[-1] == ("a", Progress("writing", 1, 1))


def test_collect_without_submitted_work_is_empty(make: MakeEngine, tmp_path: Path) -> None:
    with make() as engine:
        assert engine.collect() is None
        assert list(run_shards(engine, Noted(tmp_path), [[], []])) == []


def test_shards_hold_every_key_once_in_order() -> None:
    assert [list(shard) for shard in shards_of("abcdefg", 3)] == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
