from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from samstudent.active_learning.state import Tables
from samstudent.cli.main import app
from samstudent.errors import UserError
from samstudent.research import simulate as module
from samstudent.research.simulate import Scores, Simulation, area, first_cases, pick, simulate
from samstudent.research.simulate_report import compared, curves_of
from support.drawn import FakeSam, shapes, small_task

POOL = ["a", "b", "c", "d", "e", "f"]


def scores(**tables: Any) -> Scores:
    seen = tables.pop("seen", {})
    return Scores(Tables(**tables), seen)


def test_the_products_strategies_choose_one_after_the_other() -> None:
    rng = np.random.default_rng(0)
    entropy = {case: i / 10 for i, case in enumerate(POOL)}
    assert pick("entropy", POOL, ["x"], scores(entropy=entropy), 3, rng) == ["f", "e", "d"]
    # c and d are alike: the second of them teaches little once the first is labelled.
    vectors = {case: np.array([v], np.float32) for case, v in zip([*POOL, "x"], [0, 1, 9, 9.1, 5, 2, 0], strict=True)}
    assert pick("diversity", POOL, ["x"], scores(vectors=vectors), 2, rng) == ["d", "e"]
    assert sorted(pick("random", POOL, [], scores(), 9, rng)) == POOL


def test_foreground_draws_two_of_three_where_the_student_sees_something_rare_structures_first() -> None:
    pool = [f"case{i}" for i in range(100)]
    # One structure in 20 cases, another in one of them alone.
    seen = {case: [0, 1] if i == 0 else [0] if i < 20 else [] for i, case in enumerate(pool)}
    drawn = Counter(
        pick("foreground", pool, [], scores(seen=seen), 1, np.random.default_rng(i))[0] for i in range(3000)
    )
    with_structure = sum(drawn[case] for case in pool[:20]) / 3000
    assert with_structure == pytest.approx(2 / 3 + 1 / 3 * 0.2, abs=0.03)
    assert drawn["case0"] / 3000 == pytest.approx(2 / 3 * (1 / 2 + 1 / 2 / 20) + 1 / 3 / 100, abs=0.03)
    assert len(pick("foreground", pool, [], scores(), 5, np.random.default_rng(0))) == 5  # a blind student


def test_area_is_the_mean_dice_between_the_first_and_the_last_number_of_labels() -> None:
    assert area([5, 10, 15], [0.5, 0.7, 0.7]) == pytest.approx((0.6 + 0.7) / 2)
    assert area([5, 15, 20], [0.0, 1.0, 1.0]) == pytest.approx((10 * 0.5 + 5) / 15)
    assert area([5], [0.4]) == 0.4


def test_strategies_are_compared_with_the_baselines_in_equal_seeds() -> None:
    rounds = [
        {"strategy": strategy, "seed": seed, "round": r, "labelled": ["x"] * (2 + 2 * r), "dice": {"honest": dice}}
        for strategy, by_seed in {"random": [0.5, 0.7], "entropy": [0.6, 0.78], "mixed": [0.9]}.items()
        for seed, dice in enumerate(by_seed)
        for r in range(2)
    ]
    unfinished = {"strategy": "mixed", "seed": 1, "round": 0, "labelled": ["x"], "dice": {"honest": 0.1}}
    curves = curves_of([*rounds, unfinished], 1)
    mixed, entropy, random = compared(curves)
    assert [row["strategy"] for row in (mixed, entropy, random)] == ["mixed", "entropy", "random"]
    assert entropy["mean"] == pytest.approx(0.69) and entropy["spread"] == pytest.approx(0.127, abs=1e-3)
    assert entropy["over_random"]["mean"] == pytest.approx(0.09)
    assert entropy["over_random"]["spread"] == pytest.approx(np.std([0.1, 0.08], ddof=1))
    assert (entropy["over_random"]["ahead"], entropy["over_random"]["seeds"]) == (2, 2)
    assert mixed["over_random"]["seeds"] == 1 and mixed["spread"] is None and "over_foreground" not in mixed
    assert "over_random" not in random


def test_all_strategies_of_a_seed_start_alike() -> None:
    assert first_cases(POOL, 3, 1) == first_cases(POOL[::-1], 3, 1) != first_cases(POOL, 3, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """14 drawn cases: 10 train, 4 test; and task.yaml."""
    path = tmp_path / "data"
    rows = []
    for kind in ("images", "labels"):
        (path / kind).mkdir(parents=True)
    for i in range(14):
        pixels, masks = shapes(i)
        Image.fromarray(pixels).save(path / "images" / f"case{i}.png")
        Image.fromarray((masks * np.array([1, 2])[:, None, None]).sum(0).astype(np.uint8)).save(
            path / "labels" / f"case{i}.png"
        )
        rows.append([f"case{i}", "train" if i < 10 else "test", i if i < 10 else ""])
    with (path / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "split", "train_order"], *rows])
    task = small_task(training={"steps": 8, "batch_size": 2, "learning_rate": 0.01})
    (path / "task.yaml").write_text(yaml.safe_dump(task.model_dump(mode="json")))
    return path


def options(folder: Path, **more: Any) -> Simulation:
    content = {"task": str(folder / "task.yaml"), "seeds": (0,), "start": 2, "batch": 2, "rounds": 2}
    return Simulation(folder, folder.parent / "out", **{**content, **more})


def test_from_the_folder_to_the_report_and_on_after_a_stop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sam = FakeSam()
    monkeypatch.setattr(module, "load_backend", lambda section: sam)
    trained = []
    do = module.work.do
    monkeypatch.setattr(module.work, "do", lambda *a: (trained.append(a[2]["labelled"]), do(*a)))
    given = options(folder, strategies=("random", "foreground", "mixed"), rounds=1)
    content = simulate(given)
    rounds = {(r["strategy"], r["round"]): r for r in content["rounds"]}
    assert len(rounds) == 6 and len({tuple(r["labelled"]) for k, r in rounds.items() if k[1] == 0}) == 1
    for (_, number), entry in rounds.items():
        assert len(entry["labelled"]) == len(set(entry["labelled"])) == 2 + 2 * number
        assert 0 <= entry["dice"]["honest"] <= 1 and not set(entry["next"]) & set(entry["labelled"])
        assert not [case for case in entry["labelled"] if int(case[4:]) >= 10]  # never a test case
    assert len(trained) == 4  # the first student serves all three
    assert sam.embedded == 10
    html = (given.output / "report.html").read_text()
    assert "foreground" in html and "data:image/png;base64" in html and "http" not in html
    assert {row["strategy"] for row in content["table"]} == {"random", "foreground", "mixed"}

    # Killed before the last round of one strategy was written.
    (given.output / "results" / "mixed-s0-r1.json").unlink()
    before = len(trained)
    again = simulate(given)
    assert len(trained) == before and again["rounds"] == content["rounds"]
    # Other labels or steps: nothing old is taken for new.
    other = simulate(options(folder, strategies=("random",), rounds=1, steps=4))
    assert len(trained) == before + 2 and other["rounds"][0]["key"] != content["rounds"][0]["key"]


def test_what_another_process_holds_is_left_to_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = options(folder, strategies=("random", "uniform"), rounds=1)
    (given.output / "work").mkdir(parents=True)
    with module.FileLock(given.output / "work" / "random-s0.lock"):
        content = simulate(given)
    assert {entry["strategy"] for entry in content["rounds"]} == {"uniform"}
    assert "another process" in capsys.readouterr().out
    assert "1 runs are not finished" in (given.output / "report.html").read_text()


def test_mistakes_are_named(folder: Path) -> None:
    with pytest.raises(UserError, match="--strategies: luck unknown"):
        simulate(options(folder, strategies=("luck",)))
    with pytest.raises(UserError, match="label 12 cases, but there are 10"):
        simulate(options(folder, rounds=5))
    with pytest.raises(UserError, match="there are 5 labelled train cases in --pool 5"):
        simulate(options(folder, pool=5))


def test_the_command(folder: Path) -> None:
    words = ["simulate", str(folder), "--task", str(folder / "task.yaml"), "--output", str(folder.parent / "cli")]
    words += ["--strategies", "random,entropy", "--seeds", "3", "--start", "2", "--batch", "1", "--rounds", "1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    content = json.loads((folder.parent / "cli" / "results.json").read_text())
    assert {entry["strategy"] for entry in content["rounds"]} == {"random", "entropy"}
