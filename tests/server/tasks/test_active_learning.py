"""Active learning through the host's own datastore and interfaces."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from monailabel.datastore.local import LocalDatastore
from PIL import Image

from samstudent.active_learning.state import SelectionState
from samstudent.active_learning.strategies import STRATEGIES
from samstudent.errors import UserError
from samstudent.rounds.holdout import HoldOut
from samstudent.server.tasks.active_learning import SelectionStrategy, strategies
from samstudent.server.tasks.scoring_methods import DiversityScoring, UncertaintyScoring
from samstudent.task import ActiveLearningSection, Task

TASK = Task(name="t", dimension=2, structures=["bone"], active_learning={"strategy": "entropy"})


class Study:
    """A folder of ``n`` cases ``c0``, ``c1``, ...; case i is an image of value i."""

    def __init__(self, folder: Path, n: int, fraction: float = 0.0) -> None:
        self.folder, self.now = folder, 0.0
        for i in range(n):
            Image.fromarray(np.full((4, 4), i, np.uint8)).save(folder / f"c{i}.png")
        self.datastore = LocalDatastore(str(folder), extensions=["*.png"], auto_reload=False)
        self.state = SelectionState(folder / ".samstudent" / "state.sqlite", now=lambda: self.now)
        self.holdout = HoldOut(folder / ".samstudent" / "holdout.json", fraction, folder / "split.csv")

    def strategy(self, name: str = "uniform", minutes: float = 30) -> SelectionStrategy:
        section = ActiveLearningSection(reserve_minutes=minutes)
        return SelectionStrategy(name, self.state, self.holdout, section, np.random.default_rng(0))

    def ask(self, client: str | None = None, strategy: SelectionStrategy | None = None, **request) -> str | None:
        if client:
            request["client_id"] = client
        answer = (strategy or self.strategy())(request, self.datastore)
        return answer["id"] if answer else None

    def label(self, case: str, tag: str = "final") -> None:
        self.datastore.save_label(case, str(self.folder / f"{case}.png"), tag, {})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path, 4)


def value(path: str) -> int:
    return int(np.asarray(Image.open(path))[0, 0])


def test_each_request_selects_another_case_and_reserves_only_it(study: Study):
    seen = [study.ask("anna") for _ in range(4)]
    assert sorted(seen) == ["c0", "c1", "c2", "c3"]
    assert study.state.reserved() == {seen[-1]: "anna"}
    # All were offered: the case offered longest ago is offered again, in the same order.
    assert [study.ask("anna") for _ in range(4)] == seen
    held = study.state.reserved()
    assert study.ask("bob") not in held and len(study.state.reserved()) == 2


def test_repeated_requests_of_one_client_leave_cases_for_others(study: Study):
    """Regression: one client had reserved all four cases for half an hour."""
    for _ in range(9):
        study.ask("anna")
    others = [study.ask(client) for client in ("bob", "carl", "dora")]
    assert None not in others and len({*others, *study.state.reserved()}) == 4


def test_case_in_work_stays_reserved(study: Study):
    first = study.ask("anna")
    study.state.note_work(first, "anna")
    study.state.note_work("c0" if first != "c0" else "c1", "anna")  # not reserved: nothing to keep
    second = study.ask("anna")
    assert study.state.reserved() == {first: "anna", second: "anna"}
    assert study.ask("anna") and study.state.reserved().keys() != {first, second}
    assert study.state.reserved()[first] == "anna"
    assert {study.ask("bob") for _ in range(3)}.isdisjoint({first})
    # Half an hour later it is another reservation, and only a look.
    study.now = 30 * 60
    while study.ask("anna") != first:
        pass
    study.ask("anna")
    assert first not in study.state.reserved()


def test_oldest_reservation_is_shared_and_reported_if_all_cases_are_reserved(study: Study):
    got = {}
    for minute, client in enumerate(("anna", "bob", "carl", "dora")):
        study.now = 60.0 * minute
        got[client] = study.ask(client)
    assert len(set(got.values())) == 4
    study.now = 600
    strategy = study.strategy()
    answer = strategy({"client_id": "eve"}, study.datastore)
    assert answer["id"] == got["anna"] and answer["shared_with"] == "anna"
    assert answer["reserved_until"] == "1970-01-01T00:30:00+00:00"
    assert study.state.reserved()[got["anna"]] == "anna"
    # Neither the next client nor eve's next request is sent to the same case.
    assert strategy({"client_id": "fritz"}, study.datastore)["shared_with"] == "bob"
    assert [study.ask("eve") for _ in range(4)] == [got[client] for client in ("carl", "dora", "bob", "anna")]
    # Nobody's work is shared while there is a case that its client has not begun.
    for client in ("bob", "carl", "dora"):
        study.state.note_work(got[client], client)
    assert strategy({"client_id": "gina"}, study.datastore)["shared_with"] == "anna"


def test_single_remaining_case_is_shared(tmp_path: Path):
    study = Study(tmp_path, 1)
    strategy = study.strategy()
    assert strategy({"client_id": "anna"}, study.datastore) == {"id": "c0", "selected_by": "uniform", "score": None}
    assert strategy({"client_id": "bob"}, study.datastore)["shared_with"] == "anna"
    assert strategy({"client_id": "bob"}, study.datastore)["id"] == "c0"


def test_reason_is_given_if_there_is_no_case(tmp_path: Path):
    (tmp_path / "split.csv").write_text("id,split\nc2,test\n")
    study = Study(tmp_path, 3)
    for case in ("c0", "c1"):
        study.label(case)
    strategy = study.strategy()
    assert strategy({"client_id": "anna"}, study.datastore) is None
    assert (
        strategy.reason_for_none(study.datastore)
        == "all 2 cases are labelled; 1 more are test cases or flagged as unusable"
    )
    (tmp_path / "empty").mkdir()
    nothing = Study(tmp_path / "empty", 0)
    assert nothing.strategy().reason_for_none(nothing.datastore) == "there is no image in the study"


def test_clients_without_a_name_keep_their_reservations(study: Study):
    """They may be different clients."""
    assert len({study.ask() for _ in range(3)}) == 3
    assert len(study.state.reserved()) == 3
    strategy, study.now = study.strategy(), 60
    assert "shared_with" not in strategy({"client_id": "anna"}, study.datastore)
    assert strategy({"client_id": "bob"}, study.datastore)["shared_with"] == "a client without a name"


def test_labelled_cases_are_never_selected_but_pseudo_labelled_ones_are(study: Study):
    study.label("c0")
    study.label("c1", "pseudo")
    assert {study.ask("anna") for _ in range(3)} == {"c1", "c2", "c3"}
    for case in ("c1", "c2", "c3"):
        study.label(case)
    assert study.ask("anna") is None


def test_duration_of_a_reservation_is_set_by_task_or_request(study: Study):
    assert study.strategy(minutes=5).info()["config"] == {"reserve_minutes": 5}
    for _ in range(4):
        study.ask("anna", reserve_minutes="1")
    study.now = 60
    assert study.ask("bob")
    for wrong in (-1, "soon", None, 1e9, float("nan")):
        with pytest.raises(UserError, match="reserve_minutes must be a number from 0 to 1440"):
            study.ask("bob", reserve_minutes=wrong)


def test_test_rows_are_never_selected(tmp_path: Path):
    (tmp_path / "split.csv").write_text("id,split\nc0.png,test\nc1,val\nc2,train\n")
    study = Study(tmp_path, 4, fraction=0.2)
    strategy = study.strategy()
    answers = [strategy({"client_id": client}, study.datastore) for client in ("anna", "bob", "carl")]
    # The second is drawn for the hold-out: of one case in hand a fifth would be of it.
    assert [answer["selected_by"] for answer in answers] == ["uniform", "hold-out", "uniform"]
    assert answers[1]["id"] == "c1" and {answers[0]["id"], answers[2]["id"]} == {"c2", "c3"}
    assert {study.ask("dora") for _ in range(6)} == {"c1", "c2", "c3"}


def test_case_reserved_by_another_process_in_the_meantime_is_skipped(study: Study, monkeypatch: pytest.MonkeyPatch):
    """Between selection and reservation another process reserves the case: the next best is selected."""
    reserve, taken = study.state.reserve, []

    def slow(case: str, client: str, minutes: float) -> bool:
        if not taken:
            taken.append(case)
            reserve(case, "bob", minutes)
        return reserve(case, client, minutes)

    monkeypatch.setattr(study.state, "reserve", slow)
    assert study.ask("anna") not in (None, taken[0])


def test_concurrent_requests_select_different_cases(tmp_path: Path):
    """Threads here; tests/active_learning/test_state.py reserves from several processes."""
    study = Study(tmp_path, 24)

    def six(client: str) -> list[str | None]:
        strategy = study.strategy()  # all draw in the same order, so they collide
        return [study.ask(client, strategy) for _ in range(6)]

    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(six, "abcd"))
    assert all(len(set(cases)) == 6 and None not in cases for cases in got)
    assert study.state.reserved() == {cases[-1]: client for client, cases in zip("abcd", got, strict=True)}


def test_strategy_random_is_that_of_the_task(study: Study):
    by_name = strategies(TASK, study.state, study.holdout)
    assert set(by_name) == {*STRATEGIES, "random"} and by_name["random"] is by_name["entropy"]
    for strategy in by_name.values():
        assert strategy.info()["description"] and isinstance(strategy.info()["config"], dict)


class TestScoring:
    def uncertainty(self, study: Study, version: str | None = "v1", seen: list[int] | None = None):
        def predict(path: str):
            i = value(path)
            if seen is not None:
                seen.append(i)
            if i == 3:
                raise UserError(f"{path}: corrupt")
            probabilities = np.full((1, 4, 4), 0.5 + 0.1 * i, np.float32)
            return probabilities, [1 - 0.2 * i]

        return UncertaintyScoring(study.state, study.holdout, lambda: version, predict, overlap=True)

    def test_strategies_select_by_scores(self, study: Study):
        answer = self.uncertainty(study)({}, study.datastore)
        assert answer["scored"] == 3 and list(answer["failed"]) == ["c3"] and "corrupt" in answer["failed"]["c3"]
        assert study.ask("anna", study.strategy("entropy")) == "c0"
        assert study.ask("anna", study.strategy("disagreement")) == "c2"

    def test_only_outdated_cases_are_scored(self, study: Study):
        seen: list[int] = []
        study.label("c0")
        self.uncertainty(study, "v1", seen)({}, study.datastore)
        assert sorted(seen) == [1, 2, 3]
        assert self.uncertainty(study, "v1", seen)({}, study.datastore)["current"] == 2
        assert sorted(seen) == [1, 2, 3, 3]  # the one that failed is tried again
        assert self.uncertainty(study, "v2", seen)({}, study.datastore)["scored"] == 2

    def test_scoring_without_a_student_does_nothing(self, study: Study):
        seen: list[int] = []
        assert self.uncertainty(study, None, seen)({}, study.datastore)["scored"] == 0 == len(seen)

    def test_the_hold_out_is_not_scored(self, tmp_path: Path):
        (tmp_path / "split.csv").write_text("id,split\nc0,val\nc1,test\n")
        seen: list[int] = []
        study = Study(tmp_path, 3)
        self.uncertainty(study, "v1", seen)({}, study.datastore)
        assert seen == [2]

    def test_diversity_needs_no_student(self, study: Study):
        study.label("c0")
        scoring = DiversityScoring(
            study.state, study.holdout, lambda: "sam", lambda path: np.array([value(path) ** 2, 0], np.float32)
        )
        assert scoring({}, study.datastore) == {"scored": 4, "current": 0, "failed": {}}
        assert scoring({}, study.datastore) == {"scored": 0, "current": 4, "failed": {}}
        assert scoring.info()["config"] == {}
        assert study.ask("anna", study.strategy("diversity")) == "c3"
        # c3 is on anna's screen and counts as labelled: c2 (4 from 0, 5 from 9) is the farther one, not c1.
        assert study.ask("bob", study.strategy("diversity")) == "c2"
