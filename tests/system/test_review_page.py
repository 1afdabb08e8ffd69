"""Review page in a real browser, by keyboard and mouse, on the real server.

The tests on ``server`` share one study and run in order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from selenium.webdriver.common.keys import Keys

from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.rounds.study import Study
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.student.predict import save_model
from samstudent.student.training import new_network
from samstudent.util.progress import Progress
from support.browser import Browser
from support.live_server import CASES, RunningServer, TinyStudy
from support.needed import require_browser
from support.page_server import page_of
from support.review_bench import Bench, shifted, volume_bench, write_pseudo_label

pytestmark = pytest.mark.server

#: Lowest quality of each pseudo-labelled case; all but the lunate are good.
LUNATES = {CASES[index]: quality for index, quality in ((3, 0.2), (4, 0.35), (5, 0.5), (6, 0.7), (7, 0.9))}


@pytest.fixture(scope="module")
def prepared(study: TinyStudy) -> TinyStudy:
    """Five radiographs with pseudo labels, three labelled and two held out; two rounds with untrained students."""
    require_browser()
    free = [case for case in CASES if case not in LUNATES]
    (study.folder / "split.csv").write_text("id,split\n" + "".join(f"{case},val\n" for case in free[:2]))
    datastore = StudyFolderDatastore(str(study.folder), auto_reload=False)
    for case, quality in LUNATES.items():
        qualities = {"radius": 0.95, "ulna": 0.92, "lunate": quality}
        write_pseudo_label(datastore, study.task, case, study.truth[case], qualities)
    for case in free:
        datastore.save_label(case, str(study.label(case, study.folder.parent)), "final", {})
    ledger = Study(str(study.folder), str(study.folder), study.task).ledger
    for number, dice in enumerate((0.71, 0.78), 1):
        id = ledger.new_round(f"{number} labels", labels_used=free[2:])
        digest = save_model(ledger.model_path(id), new_network(study.task, number), study.task)
        table = {**dict.fromkeys(study.task.names, dice), "mean": dice}
        ledger.update(id, model_digest=digest, status="done", dice={"challenger": table, "champion": None})
    ledger.promote("r0001", who="training")
    return study


@pytest.fixture(scope="module")
def browser(prepared: TinyStudy, server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"), server.url)
    yield browser
    browser.close()


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: the console is empty, and there were no requests to other servers."""
    yield
    if "browser" in request.fixturenames:
        browser = request.getfixturevalue("browser")
        assert browser.console() == []
        assert browser.asked() <= {browser.url}


def final(study: TinyStudy, case: str) -> np.ndarray | None:
    datastore = StudyFolderDatastore(str(study.folder), auto_reload=False, read_only=True)
    if "final" not in datastore.get_labels_by_image_id(case):
        return None
    return read_masks(datastore.get_label_uri(case, "final"), study.task, read_image(study.image(case)).grid)


def waiting(server: RunningServer) -> list[str]:
    return [item["case"] for item in requests.get(f"{server.url}/samstudent/review", timeout=30).json()["cases"]]


def test_overview_shows_counts_rounds_and_served_student(browser: Browser) -> None:
    browser.open("samstudent")
    browser.find("section.rounds tbody tr")
    counts = browser.text("section.counts").split("\n")[1:]
    assert counts[:4] == ["10", "images", "5", "labelled"], counts
    assert "r0001" in browser.text("section.served") and "71.0 %" in browser.text("section.served")
    assert [row.split()[0] for row in browser.text("section.rounds tbody").splitlines() if row[:1] == "r"] == [
        "r0002",
        "r0001",
    ]
    assert browser.run("return document.querySelectorAll('.chart circle').length") == 2


def test_page_fits_on_a_laptop_in_light_and_dark_mode(browser: Browser) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for part in ("samstudent#overview", "samstudent#review"):
            browser.open(part)
            browser.find("#main > *")
            assert browser.run("return document.documentElement.scrollWidth") <= 1366, (scheme, part)
        browser.find("#accept")
        # Reviewing needs no scrolling at all.
        assert browser.run("return document.documentElement.scrollHeight") <= 768
        assert browser.run("return document.querySelector('#send').getBoundingClientRect().bottom") <= 768
        grounds.add(browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_promotion_is_confirmed_and_can_be_rolled_back(browser: Browser, server: RunningServer) -> None:
    def served() -> str:
        return str(requests.get(f"{server.url}/samstudent/rounds", timeout=30).json()["champion"])

    browser.open("samstudent")
    browser.find("#promote-r0002").click()
    browser.press(Keys.ESCAPE)
    browser.until(lambda: not browser.run("return document.querySelector('dialog')"), "closed dialog")
    assert served() == "r0001"
    browser.find("#promote-r0002").click()
    browser.press(Keys.ENTER)  # the focus is on the dialog's own button
    browser.until(lambda: "r0002" in browser.text("section.served"), "r0002 served")
    assert served() == "r0002"
    browser.find("#roll-back").click()
    browser.find("#confirm").click()
    browser.until(lambda: "rolled back to" in browser.text("section.served").lower(), "roll-back")
    assert served() == "r0001"


def test_case_of_lowest_quality_opens_and_masks_can_be_toggled(browser: Browser) -> None:
    browser.open("samstudent#review")
    browser.shows(CASES[3])
    both = browser.drawn()
    browser.press("m")
    plain = browser.drawn()
    assert plain != both and len(set(plain)) == 1  # without masks the film is grey
    browser.press("c")
    assert browser.drawn() not in (plain, both)
    browser.press("c", "m", "1", "2", "3")
    assert browser.drawn() == plain
    browser.press("0")
    assert browser.drawn() == both
    browser.press("f")
    assert browser.drawn() not in (plain, both)
    browser.press("f")
    structures = browser.text(".structures")
    assert "20 %" in structures and "95 %" in structures


def test_keyboard_moves_through_the_queue(browser: Browser) -> None:
    browser.press("j")
    browser.shows(CASES[4])
    browser.press(Keys.ARROW_RIGHT)
    browser.shows(CASES[5])
    browser.press("k", Keys.ARROW_LEFT)
    browser.shows(CASES[3])
    assert browser.run("return location.hash") == f"#review/{CASES[3]}"
    browser.press("?")
    assert "accept" in browser.text("dialog")
    browser.press(Keys.ESCAPE)


def test_acceptance_requires_a_source_for_rejected_structures(
    browser: Browser, prepared: TinyStudy, server: RunningServer
) -> None:
    browser.press("a")
    browser.until(lambda: "lunate" in browser.text("#notices"), "the reason")
    assert final(prepared, CASES[3]) is None
    assert browser.run("return document.activeElement.closest('li').dataset.structure") == "lunate"
    browser.press(Keys.TAB, Keys.ENTER)  # from SAM's mask to the student's
    browser.press("a")
    browser.until(lambda: CASES[3] not in waiting(server), "acceptance")
    label, truth = final(prepared, CASES[3]), prepared.truth[CASES[3]]
    assert label is not None and np.array_equal(label[2], shifted(truth)[2]) and np.array_equal(label[0], truth[0])
    browser.shows(CASES[4])


def test_sent_case_is_selected_first(browser: Browser, server: RunningServer) -> None:
    browser.press("s")
    browser.until(lambda: CASES[4] not in waiting(server), "sending")
    browser.shows(CASES[5])
    offered = server.client("anna").next_sample("random", {})
    assert (offered["id"], offered["selected_by"]) == (CASES[4], "review")


def test_rejection_can_be_undone(browser: Browser, server: RunningServer) -> None:
    browser.press("r")
    browser.until(lambda: CASES[5] not in waiting(server), "rejection")
    browser.shows(CASES[6])
    browser.press("u")
    browser.until(lambda: CASES[5] in waiting(server), "undo")
    browser.shows(CASES[5])


def test_shift_a_accepts_with_masks_of_sam(browser: Browser, prepared: TinyStudy, server: RunningServer) -> None:
    browser.press("A")
    browser.until(lambda: CASES[5] not in waiting(server), "acceptance")
    assert np.array_equal(final(prepared, CASES[5]), prepared.truth[CASES[5]])
    browser.shows(CASES[6])


def test_changed_pseudo_label_is_reported_and_reloaded(
    browser: Browser, prepared: TinyStudy, server: RunningServer
) -> None:
    datastore = StudyFolderDatastore(str(prepared.folder), auto_reload=False)
    qualities = {"radius": 0.9, "ulna": 0.9, "lunate": 0.65}
    write_pseudo_label(datastore, prepared.task, CASES[6], prepared.truth[CASES[6]], qualities)
    browser.press("a")
    browser.until(lambda: "has changed in the meantime" in browser.text("#notices"), "the conflict")
    assert final(prepared, CASES[6]) is None
    browser.until(lambda: "65 %" in browser.text(".structures"), "the new one")
    refused = browser.driver.get_log("browser")  # a browser writes every 409 into its console
    assert [entry["message"] for entry in refused if "409" not in entry["message"]] == []
    browser.press("a")
    browser.until(lambda: CASES[6] not in waiting(server), "acceptance")


def test_decisions_of_other_users_update_the_queue(browser: Browser, server: RunningServer) -> None:
    browser.open("samstudent/")  # with or without the slash
    browser.find("#to-review").click()
    browser.until(lambda: browser.text("#queue").startswith(CASES[7]), "the last case")
    path = f"{server.url}/samstudent/review/{CASES[7]}"
    body = {"digest": requests.get(path, timeout=30).json()["digest"]}
    assert requests.post(f"{path}/reject", json=body, headers={"X-Samstudent": "test"}, timeout=30).ok
    browser.run("document.dispatchEvent(new Event('visibilitychange'))")  # instead of waiting for the next look
    browser.until(lambda: browser.text("#queue") == "No case is waiting for review.", "an empty queue")


def test_decided_cases_can_be_listed(browser: Browser) -> None:
    browser.open("samstudent#review")
    browser.find("#state").send_keys("sent")
    browser.until(lambda: browser.text("#queue").startswith(CASES[4]), "what was sent")
    assert browser.find("#undo").text == "Undo: sent"


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[Browser]:
    """Page on three volumes, with our endpoints only."""
    with page_of(volume_bench(tmp_path / "study"), tmp_path / "profile") as browser:
        yield browser


def test_running_round_has_a_bar_for_each_step(review_bench: Bench, tmp_path: Path) -> None:
    jobs, over = review_bench.app.state.context.jobs, threading.Event()

    def never(*arguments: Any) -> Any:
        over.wait(120)
        raise OSError("the test is over")

    jobs._start_process = never
    jobs.start("train", {"model": "student"})
    (job,) = jobs.active("train")
    job.add_progress(Progress("reading labelled cases", 4, 4))
    job.add_progress(Progress("training the student", 30, 120, 0.5, 90.0))
    try:
        with page_of(review_bench, tmp_path / "profile") as browser:
            browser.open("samstudent#overview")
            browser.until(lambda: "training the student: 30 of 120 (25 %)" in browser.text("section.jobs"), "the step")
            bars = "return [...document.querySelectorAll('section.jobs progress')].map(bar => bar.value)"
            assert browser.run(bars) == [100, 25]
            assert "reading labelled cases" in browser.text("section.jobs")
            assert browser.text("#job") == "training the student 25 %"
            job.add_progress(Progress("comparing on the hold-out"))
            browser.until(lambda: browser.text("#job") == "comparing on the hold-out", "the next step")
            assert browser.run(bars)[:2] == [100, 25]
            assert browser.run("return document.querySelector('section.jobs [aria-current] progress').position") == -1
    finally:
        over.set()


def test_bounds_and_keys_are_shown_where_there_are_some(review_bench: Bench, tmp_path: Path) -> None:
    review_bench.pseudo_label("good", bounds={"disk": 0.938, "square": 0.91})
    with page_of(review_bench, tmp_path / "profile") as browser:
        columns = "return [...document.querySelectorAll('.bound')].map((e) => e.offsetWidth > 0)"
        browser.open("samstudent#review/good")
        browser.shows("good")
        assert browser.run(columns) == [True, True]
        browser.press("?")
        assert "accept: the pseudo label becomes a human label" in browser.text("dialog")
        browser.find("dialog button").click()
        browser.open("samstudent#review/middle")
        browser.shows("middle")
        assert browser.run(columns) == [False, False] and "quality, Dice" not in browser.text(".legend")
        browser.find("#to-overview").click()
        browser.find("section.counts")
        assert not browser.find("#help-button").is_displayed()
        assert browser.console() == []


def test_promised_structures_are_accepted_at_once(review_bench: Bench, tmp_path: Path) -> None:
    review_bench.pseudo_label("good", bounds={"disk": 0.938, "square": 0.91})
    review_bench.pseudo_label("middle", bounds={"disk": 0.5, "square": 0.92})
    with page_of(review_bench, tmp_path / "profile") as browser:
        browser.open("samstudent#review")
        browser.find("#queue button")
        browser.run("const s = document.getElementById('bound'); s.value = '0.9'; s.dispatchEvent(new Event('change'))")
        browser.shows("good")
        assert browser.run("return [...document.querySelectorAll('.bound')].map((e) => [e.textContent, e.title])") == [
            ["≥ 0.93", "Dice ≥ 0.93, certainty 90 %"], ["≥ 0.91", "Dice ≥ 0.91, certainty 90 %"],
        ]  # fmt: skip
        browser.find("#accept-promised").click()
        browser.until(lambda: browser.text("#confirm") == "Accept 2 structures in 1 case", "the preview")
        browser.find("#promised-partial").click()
        browser.until(lambda: browser.text("#confirm") == "Accept 3 structures in 2 cases", "partial cases")
        assert "1 other structure of these cases, and structures that were not found" in browser.text("dialog .facts")
        browser.find("#confirm").click()
        browser.until(lambda: "3 structures in 2 cases accepted" in browser.text("#notices"), "acceptance")
        assert sorted(review_bench.datastore.get_labeled_images()) == ["good", "middle"]
        browser.find("#notices button").click()
        browser.until(lambda: "2 cases: no longer accepted" in browser.text("#notices"), "undo")
        assert not review_bench.datastore.get_labeled_images()
        assert browser.console() == []


def test_volume_is_displayed_by_slices(volumes: Browser) -> None:
    volumes.open("samstudent#review")
    volumes.shows("v0 z 7")  # where the worse of the two, the block, is seen best
    assert "axial 8 / 12" in volumes.text(".stage")
    first = volumes.drawn()
    volumes.press(Keys.ARROW_UP)
    volumes.shows("v0 z 8")
    volumes.press(Keys.PAGE_DOWN)
    volumes.shows("v0 z 0")
    assert volumes.drawn() != first
    volumes.press("x")
    volumes.until(lambda: "sagittal" in volumes.text(".stage"), "sagittal slices")
    assert volumes.text(".side.left") == "A" and volumes.text(".side.top") == "S"
    volumes.find("[data-axis=y]").click()
    volumes.until(lambda: "coronal" in volumes.text(".stage"), "coronal slices")
    volumes.find("[data-structure=ball] .label").click()
    volumes.until(lambda: "15 / 40" in volumes.text(".stage"), "the ball's own slice")
    volumes.press("A")
    volumes.until(lambda: "accepted" in volumes.text("#notices"), "acceptance")
    volumes.until(lambda: "v0" not in volumes.text("#queue"), "a shorter queue")
    assert volumes.console() == [] and volumes.asked() == {volumes.url}
