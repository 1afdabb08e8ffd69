"""Tab Annotate in a real browser: boxes of SAM, brush, polygon, undo, drafts, conflicts, flags, saved pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from starlette.testclient import TestClient

from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.server.annotation.drawn_label import encoded
from samstudent.server.review_page.pictures import Cropped
from samstudent.server.tasks.active_learning import strategies
from support.browser import Browser
from support.drawing_page import DrawingPage, Point, box_of
from support.drawn import FakeSam, dice
from support.page_server import page_of
from support.review_bench import Bench, volume_bench

pytestmark = pytest.mark.server


class Page(DrawingPage):
    """Tab Annotate on a bench."""

    def __init__(self, browser: Browser, bench: Bench, size: tuple[int, int], aspect: float = 1.0) -> None:
        super().__init__(browser, size, aspect)
        self.bench = bench

    def submit(self, case: str) -> np.ndarray:
        """Submit, and return the saved label."""
        self.press_submit(case)
        return self.label(case)

    def label(self, case: str) -> np.ndarray:
        store = self.bench.datastore
        grid = read_image(store.get_image_uri(case)).grid
        return read_masks(store.get_label_uri(case, "final"), self.bench.study.task, grid)

    def draft(self, case: str) -> dict[str, Any]:
        """Structures of the only draft of a case, once the page has saved its present state."""
        self.browser.until(lambda: self.browser.text("#saved") == "draft saved", "draft")
        path = f"/samstudent/annotate/{case}/draft"
        content = TestClient(self.bench.app).get(path, params={"client": self.client()})
        return dict(content.json()["label"]["structures"])


@pytest.fixture
def page(review_bench: Bench, tmp_path: Path) -> Iterator[Page]:
    """Films of 64 x 64 pixels with a disk and a square, which SAM draws as the bright pixels of a box."""
    sam = FakeSam()
    review_bench.study.sam = lambda: sam  # type: ignore[method-assign, assignment, return-value]
    study = review_bench.study
    review_bench.app.state.context.tasks.strategies.update(strategies(study.task, study.selection, study.holdout))
    with page_of(review_bench, tmp_path / "profile") as browser:
        yield Page(browser, review_bench, (64, 64))
        assert [text for text in browser.console() if " 409 " not in text] == []
        assert browser.asked() <= {browser.url}


def stroke(a: Point, b: Point, radius: float) -> np.ndarray:
    """Pixels of a horizontal stroke."""
    y, x = np.mgrid[:64, :64]
    return np.hypot(x - np.clip(x, a[0], b[0]), y - a[1]) <= radius


def is_stroke(mask: np.ndarray, a: Point, b: Point, radius: float, rest: np.ndarray | bool = False) -> bool:
    """Whether a mask is a horizontal stroke, beside the pixels of ``rest``; the mouse has whole screen pixels."""
    inner, outer = stroke(a, b, radius - 0.25), stroke(a, b, radius + 0.25)
    return not (inner & ~mask & ~rest).any() and not (mask & ~outer & ~rest).any()


def test_label_is_drawn_with_boxes_and_brush_and_saved_to_the_pixel(page: Page) -> None:
    browser, truth = page.browser, page.bench.truths["plain"]
    page.open("plain")
    assert page.states() == ["open", "open"]
    page.sam(lambda: page.drag(*box_of(truth[0])))
    assert page.states() == ["drawn", "open"]
    found = page.draft("plain")["disk"]
    assert found["box"] == encoded(Cropped.of(truth[0]))["box"]
    browser.press("2", "b")
    browser.find("[aria-label='Smaller brush']").click()  # 12 pixels
    page.drag((35, 55), (50, 55))
    browser.press("e", "[")  # 8 pixels
    page.drag((50, 55), (55, 55))
    label = page.submit("plain")
    assert dice(label[0], truth[0]) > 0.97
    assert is_stroke(label[1], (35, 55), (50, 55), 6, rest=stroke((50, 55), (55, 55), 4.25))
    assert not (label[1] & stroke((50, 55), (55, 55), 3.75)).any()
    info = page.bench.datastore.get_label_info("plain", "final")
    assert info["annotation"]["actions"] == 3 and info["annotation"]["start"] == "empty"
    assert 0 < info["annotation"]["seconds"] < 60


def test_stroke_begins_below_a_notice(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    browser.run("import('./samstudent/page/dom.js').then((dom) => dom.notice('label saved'))")
    browser.until(lambda: browser.run("return document.querySelector('.notice') !== null"), "the notice")
    # The middle of its text, from the middle of the canvas.
    x, y = browser.run(
        "const n = document.querySelector('.notice span').getBoundingClientRect(), "
        "c = document.getElementById('drawing').getBoundingClientRect();"
        "return [n.x + n.width / 2 - c.x - c.width / 2, n.y + n.height / 2 - c.y - c.height / 2]"
    )
    at = (x / page.scale + 31.5, y / page.scale + 31.5)
    assert 4 < at[0] < 50 and 4 < at[1] < 60
    browser.press("2", "b")
    page.drag(at, (at[0] - 4, at[1]))
    assert page.states()[1] == "drawn"
    browser.run("document.querySelector('.notice button').click()")
    assert not browser.run("return document.querySelector('.notice') !== null")


def test_every_action_is_undone_and_redone(page: Page) -> None:
    browser, truth = page.browser, page.bench.truths["plain"]
    page.open("plain")
    contents = [page_content(page)]
    page.sam(lambda: page.drag(*box_of(truth[0])))
    contents.append(page_content(page))
    page.sam(lambda: page.drag(*box_of(truth[1]), keys=Keys.ALT))  # a second part
    contents.append(page_content(page))
    browser.press("b")
    page.drag((10, 50), (30, 50))
    contents.append(page_content(page))
    browser.press("g")
    for corner in ((40, 40), (60, 40), (60, 60)):
        page.click(corner)
    browser.press(Keys.ENTER)
    contents.append(page_content(page))
    browser.press("m")
    contents.append(page_content(page))
    browser.press("2", "n")
    contents.append(page_content(page))
    browser.press("1", "a")
    contents.append(page_content(page))
    assert len({str(content) for content in contents}) == len(contents)
    for content in contents[-2::-1]:
        browser.press("u")
        assert page_content(page) == content
    for content in contents[1:]:
        browser.press("U")
        assert page_content(page) == content
    assert browser.run("return document.getElementById('redo-action').disabled")


def page_content(page: Page) -> Any:
    """Masks and states of the drawing, as the page would send them."""
    page.browser.until(lambda: page.browser.text("#saved") in ("draft saved", ""), "draft")
    drafts = page.bench.app.state.annotation.drafts
    if not drafts.folder.is_dir():
        return dict.fromkeys(page.bench.study.task.names, (None, "open"))
    structures = page.draft("plain")
    return {
        name: (found["box"] and (found["box"], found["runs"]), found["state"]) for name, found in structures.items()
    }


def test_polygon_with_hole_is_filled_and_finished_structure_is_protected(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    browser.press("g")
    for corner in ((9.5, 9.5), (30.5, 9.5), (30.5, 30.5), (9.5, 30.5)):
        page.click(corner)
    page.click((9.5, 9.5))  # closes it
    browser.press("x")
    for corner in ((15, 15), (25, 15), (25, 25), (15, 25)):
        page.click(corner)
    browser.press(Keys.ENTER, "h")
    y, x = np.mgrid[:64, :64]
    square = (abs(x - 20) <= 10) & (abs(y - 20) <= 10)
    browser.press("2", "b", "x")
    page.drag((25, 20), (40, 20))
    assert browser.run("return document.querySelector('[data-structure=disk] .lock').ariaPressed") == "true"
    label = page.submit("plain")
    assert np.array_equal(label[0], square)
    assert not (label[0] & label[1]).any()
    assert is_stroke(label[1], (25, 20), (40, 20), 9, rest=label[0])


def test_submission_needs_a_state_for_each_structure(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    browser.press("b")
    page.drag((20, 20), (30, 20))
    page.command(Keys.ENTER)
    browser.until(lambda: "square: draw, or mark as absent" in browser.text("#notices"), "reason")
    assert page.states() == ["drawn", "open undecided"]
    browser.press("A")
    assert page.states() == ["drawn", "absent"]
    label = page.submit("plain")
    assert label[0].any() and not label[1].any()


def test_closed_browser_loses_nothing(page: Page, tmp_path: Path) -> None:
    page.open("plain")
    page.browser.press("b")
    page.drag((20, 20), (30, 20))
    page.browser.press("2", "n")
    before = page.draft("plain")
    page.browser.open("samstudent#overview")
    page.browser.find("section.counts")
    page.open("plain")
    assert page.browser.text("#saved") == "draft loaded" and page.states() == ["drawn", "unknown"]
    page.browser.press("1", "b")
    page.drag((40, 40), (41, 40))
    after = page.draft("plain")
    assert after["square"] == before["square"] and sum(after["disk"]["runs"][1::2]) > sum(before["disk"]["runs"][1::2])


def test_structures_are_drawn_faster_than_sam_answers(page: Page) -> None:
    browser, truth = page.browser, page.bench.truths["plain"]
    page.open("plain")
    # The answer to the first box comes after the second box.
    browser.run(
        "const now = window.fetch; let held = null; window.fetch = (url, ...rest) => {"
        " if (!String(url).includes('/sam')) return now(url, ...rest);"
        " if (!held) return new Promise((done) => { held = () => done(now(url, ...rest)); });"
        " return now(url, ...rest).then((answer) => { setTimeout(held, 100); return answer; }); }"
    )
    page.drag(*box_of(truth[0]))
    browser.press("2")
    page.drag(*box_of(truth[1]))
    browser.until(lambda: page.states() == ["drawn", "drawn"], "both structures")
    structures = page.draft("plain")
    assert [structures[name]["box"] for name in ("disk", "square")] == [
        encoded(Cropped.of(mask))["box"] for mask in truth
    ]
    assert [structures[name]["finished"] for name in ("disk", "square")] == [True, False]


def test_mask_stays_where_sam_finds_nothing(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    browser.press("b")
    page.drag((20, 20), (30, 20))
    before = page.draft("plain")
    browser.press("s")
    page.sam(lambda: page.drag((1, 1), (4, 4)))
    assert "SAM found nothing there" in browser.text("#notices")
    assert page.draft("plain") == before and page.states() == ["drawn", "open"]


def test_case_stays_open_until_its_draft_is_saved(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    # The server does not answer.
    browser.run(
        "window.kept = window.fetch; window.fetch = (url, options) => options.method === 'PUT'"
        " ? Promise.reject(new TypeError()) : window.kept(url, options)"
    )
    browser.press("b")
    page.drag((20, 20), (30, 20))
    browser.find("[data-case=good]").click()
    browser.until(lambda: "the draft of plain is not saved yet" in browser.text("#notices"), "reason")
    assert page.shown() == "plain" and browser.run("return location.hash") == "#annotate/plain"
    browser.press("A")
    page.command(Keys.ENTER)
    browser.until(lambda: "No response from the server" in browser.text("#notices"), "a refused submission")
    browser.run("window.fetch = window.kept")
    page.command("s")
    assert page.draft("plain")["square"]["state"] == "absent"
    browser.find("[data-case=good]").click()
    browser.shows("good")


def test_change_by_somebody_else_is_shown_and_neither_label_is_lost(page: Page) -> None:
    browser, truth = page.browser, page.bench.truths["plain"]
    page.open("plain")
    browser.press("b")
    page.drag((20, 20), (30, 20))
    browser.press("A")
    structures = {"disk": {"state": "drawn", **encoded(Cropped.of(truth[0]))}, "square": {"state": "absent"}}
    other = page.bench.client.put(
        "/samstudent/annotate/plain/label",
        files={"label": ("label.json", json.dumps({"structures": structures}))},
        params={"client": "anna"},
        headers={"If-Match": "none"},
    )
    assert other.status_code == 200, other.text
    browser.find("#submit").click()
    browser.until(lambda: "changed by anna meanwhile" in browser.text("#conflict"), "conflict")
    assert np.array_equal(page.label("plain")[0], truth[0])
    browser.find("#compare-theirs").click()
    browser.until(lambda: "Dashed: the label of anna" in browser.text("#comparison"), "comparison")
    browser.find("#hide-comparison").click()
    assert not browser.run("return document.querySelector('#comparison') !== null")
    browser.find("#keep-mine").click()
    label = page.submit("plain")
    assert is_stroke(label[0], (20, 20), (30, 20), 9)
    page.open("plain")
    browser.press("y")
    browser.until(lambda: browser.text("dialog").count("anna") == 1, "history")
    assert "refused" in browser.text("dialog")
    browser.run("document.querySelector('dialog tbody tr:nth-child(2) [data-restore]').click()")
    browser.until(lambda: page.browser.text("#saved") == "draft saved", "restored draft")
    assert np.array_equal(page.submit("plain")[0], truth[0])


def test_submission_does_not_close_the_case_that_was_opened_meanwhile(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    browser.press("b")
    page.drag((20, 20), (30, 20))
    browser.press("A")
    browser.run(
        "const now = window.fetch; window.fetch = (url, options) => String(url).includes('/label?')"
        " && options.method === 'PUT' ? new Promise((done) => setTimeout(done, 1500)).then(() => now(url, options))"
        " : now(url, options)"
    )
    page.command(Keys.ENTER)
    browser.find("[data-case=good]").click()
    browser.shows("good")
    assert "label saved" not in browser.text("#notices")
    browser.until(lambda: "plain: label saved" in browser.text("#notices"), "label")
    browser.driver.execute_async_script("setTimeout(arguments[0], 200)")
    assert page.shown() == "good" and browser.run("return location.hash") == "#annotate/good"


def test_number_key_does_not_divert_a_stroke(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    browser.press("b", Keys.ARROW_RIGHT, Keys.ENTER, "2", *[Keys.ARROW_RIGHT] * 5, Keys.ENTER)
    assert page.states() == ["drawn", "open"]
    browser.press("2", "a")
    assert np.array_equal(page.submit("plain")[0], stroke((33, 32), (38, 32), 9))


def test_flagged_case_is_not_offered(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    browser.press("F")
    browser.find("#reason").send_keys("blurred", Keys.ENTER)
    browser.until(lambda: page.bench.study.flags.all(), "flag")
    assert page.bench.study.flags.all()["plain"].reason == "blurred"
    browser.until(lambda: "flagged" in browser.text("[data-case=plain]"), "list")
    page.open("plain")
    assert "Flagged as unusable" in browser.text(".banner")
    browser.find("#unflag").click()
    browser.until(lambda: not page.bench.study.flags.all(), "flag taken back")


def test_next_case_comes_from_the_strategy_and_follows_a_submission(page: Page) -> None:
    browser = page.browser
    browser.open("samstudent#annotate")
    browser.find("#cases button")
    browser.press("j")
    browser.until(lambda: browser.run("return document.querySelector('.stage').dataset.shown"), "a case")
    first = str(browser.run("return document.querySelector('.stage').dataset.shown"))
    browser.press("b")
    page.drag((20, 20), (30, 20))
    browser.press("A")
    page.submit(first)
    shown = "return document.querySelector('.stage').dataset.shown"
    browser.until(lambda: browser.run(shown) not in (None, first), "the next case")
    browser.press("k")
    second = browser.run(shown)
    browser.until(lambda: browser.run(shown) not in (None, second), "the case after it")


def test_next_case_does_not_call_back_a_person_who_has_left_the_tab(page: Page) -> None:
    browser = page.browser
    browser.open("samstudent#annotate")
    browser.find("#cases button")
    browser.run(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'j', bubbles: true }));"
        " location.hash = '#overview'"
    )
    answered = "return performance.getEntriesByType('resource').some(({ name }) => name.includes('/activelearning/'))"
    browser.until(lambda: browser.run(answered), "the next case")
    browser.find("section.counts .figure")
    browser.driver.execute_async_script("setTimeout(arguments[0], 200)")
    assert browser.run("return location.hash") == "#overview"


def test_pseudo_label_is_mended_from_the_review_queue(page: Page) -> None:
    browser, truth = page.browser, page.bench.truths["low"]
    browser.open("samstudent#review/low")
    browser.shows("low")
    browser.press("e")
    page.wait_for("low")
    assert browser.run("return location.hash") == "#edit/low" and page.states() == ["drawn", "drawn"]
    browser.press("2", "b")
    page.drag((5, 60), (12, 60))
    label = page.submit("low")
    assert np.array_equal(label[0], truth[0])
    assert is_stroke(label[1], (5, 60), (12, 60), 9, rest=truth[1]) and not (truth[1] & ~label[1]).any()
    browser.until(lambda: browser.run("return location.hash").startswith("#review"), "the queue")
    browser.until(lambda: browser.text("#queue") and "low" not in browser.text("#queue"), "a shorter queue")
    about = page.bench.datastore.get_label_info("low", "final")["annotation"]
    assert about["start"] == "sam"
    assert [about["structures"][name]["edited"] for name in ("disk", "square")] == [False, True]


def test_case_can_be_drawn_by_keyboard_alone(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    browser.press("b", Keys.ARROW_RIGHT)  # the cursor starts in the middle
    browser.press(Keys.ENTER, *[Keys.ARROW_RIGHT] * 5, Keys.ENTER, *[Keys.ARROW_DOWN] * 3)
    browser.press("A")
    label = page.submit("plain")
    assert np.array_equal(label[0], stroke((33, 32), (38, 32), 9))


def test_polygon_can_be_drawn_by_keyboard_alone(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    browser.press("g", Keys.ARROW_RIGHT)  # at 33, 32
    browser.press(Keys.ENTER, *[Keys.ARROW_RIGHT] * 12, Keys.ENTER, *[Keys.ARROW_DOWN] * 12)
    browser.press(Keys.ENTER, *[Keys.ARROW_LEFT] * 12, Keys.ENTER, Keys.ENTER)
    browser.press("A")
    y, x = np.mgrid[:64, :64]
    label = page.submit("plain")
    inner, outer = (abs(x - 39) < 6) & (abs(y - 38) < 6), (abs(x - 39) <= 6) & (abs(y - 38) <= 6)
    assert not (inner & ~label[0]).any() and not (label[0] & ~outer).any()


def test_one_finger_draws_and_two_move_and_zoom(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    browser.press("b")
    box = browser.run("const b = document.getElementById('drawing').getBoundingClientRect(); return [b.x, b.y]")
    box[0] += browser.run("return document.getElementById('drawing').clientWidth / 2")
    box[1] += browser.run("return document.getElementById('drawing').clientHeight / 2")

    def touch(kind: str, *fingers: Point) -> None:
        points = [{"x": box[0] + x, "y": box[1] + y, "id": number} for number, (x, y) in enumerate(fingers)]
        browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", page.on_screen((20, 20)))
    touch("touchMove", page.on_screen((30, 20)))
    touch("touchEnd")
    assert page.states() == ["drawn", "open"]
    before = browser.drawn()
    touch("touchStart", (-50, 0))
    touch("touchStart", (-50, 0), (50, 0))
    touch("touchMove", (-100, 0), (100, 0))
    touch("touchEnd", (-100, 0))  # fingers leave one after the other
    touch("touchMove", (-90, 0))
    touch("touchEnd")
    browser.until(lambda: browser.drawn() != before, "a larger image")
    browser.press("2", "a")
    assert is_stroke(page.submit("plain")[0], (20, 20), (30, 20), 9)


def test_crosshair_has_several_sizes_and_the_browser_keeps_it(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    marked = (
        "const c = document.getElementById('drawing'); const o = new OffscreenCanvas(c.width, c.height);"
        " const x = o.getContext('2d', { willReadFrequently: true }); x.drawImage(c, 0, 0);"
        " const d = x.getImageData(0, 0, c.width, c.height).data; let n = 0;"
        " for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n"
    )

    def next_size(name: str) -> int:
        browser.press("p")
        assert browser.find("#crosshair").get_attribute("data-size") == name
        ActionChains(browser.driver).move_to_element(browser.find("#drawing")).move_by_offset(5, 5).perform()
        browser.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        return int(browser.run(marked))

    large, small, none = next_size("large"), next_size("small"), next_size("off")
    assert large > small > none == 0
    browser.press(Keys.ARROW_RIGHT)  # the cursor of the keyboard has no other mark
    browser.until(lambda: browser.run(marked) == pytest.approx(small, rel=0.1), "the keyboard's cursor")
    page.open("plain")
    assert browser.find("#crosshair").get_attribute("data-size") == "off"
    assert next_size("full") > large


def test_window_and_position_change_by_keyboard(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    before = browser.drawn()
    browser.press("{")
    browser.until(lambda: browser.drawn()[0] > before[0], "a brighter image")
    browser.press("}")
    browser.until(lambda: browser.drawn() == before, "the level as before")
    browser.press("(")
    browser.until(lambda: browser.drawn() != before, "a narrower window")
    browser.press(")")
    browser.until(lambda: browser.drawn() == before, "the window as before")
    browser.press("+", "+", "+", "+")
    zoomed = browser.drawn()
    page.command(Keys.ARROW_DOWN)
    browser.until(lambda: browser.drawn() != zoomed, "another part of the image")
    browser.find(".opacity input").send_keys(Keys.ARROW_RIGHT)  # its own keys move a slider
    assert browser.find(".opacity input").get_attribute("value") == "0.4"


def test_window_changes_by_a_right_drag_and_image_is_inverted(page: Page) -> None:
    browser = page.browser
    page.open("plain")
    before = browser.drawn()
    browser.press("i")
    browser.until(lambda: browser.drawn() != before, "inverted image")
    assert browser.drawn()[0] > before[0]
    browser.press("i")
    browser.until(lambda: browser.drawn() == before, "image as before")
    canvas = browser.find("#drawing")
    pointer = ActionChains(browser.driver)
    pointer.move_to_element(canvas).w3c_actions.pointer_action.pointer_down(button=2)
    pointer.move_by_offset(-100, 0).w3c_actions.pointer_action.pointer_up(button=2)
    pointer.perform()
    browser.until(lambda: browser.drawn() != before, "another window")
    assert page.states() == ["open", "open"]


def page_with_box(browser: Browser, bench: Bench) -> Page:
    """Page on slice 5 of the volume, with SAM's mask of a box around the first structure."""
    page = Page(browser, bench, (32, 40))
    page.open("v0", shown="v0 z 6")
    browser.press(Keys.PAGE_DOWN)
    page.wait_for("v0 z 5")
    # The picture is turned by half: voxel (x, y) is at (31 - x, 39 - y).
    page.sam(lambda: page.drag((31 - 20, 39 - 23), (31 - 0, 39 - 3)))
    return page


def test_volume_is_drawn_on_slices_of_two_directions(tmp_path: Path) -> None:
    bench, sam = volume_bench(tmp_path / "study"), FakeSam(level=100)
    bench.study.sam = lambda: sam  # type: ignore[method-assign, assignment, return-value]
    with page_of(bench, tmp_path / "profile") as browser:
        page = page_with_box(browser, bench)
        browser.press("2", "b", "[", "[", "[", "c")
        page.wait_for("v0 y 14")
        coronal = Page(browser, bench, (32, 12), aspect=3.0)
        coronal.drag((31 - 25, 11 - 2), (31 - 15, 11 - 2))
        label = page.submit("v0")
        assert browser.console() == []
    slices = np.flatnonzero(label[0].any(axis=(1, 2)))
    assert slices.tolist() == [5] and dice(label[0][5], bench.truths["v0"][0][5]) > 0.9
    drawn = np.argwhere(label[1])
    assert set(drawn[:, 1]) == {14} and {(2, 14, 15), (2, 14, 25)} <= {tuple(voxel) for voxel in drawn}


def test_structure_is_propagated_by_sam_and_interpolated_between_slices(tmp_path: Path) -> None:
    bench, sam = volume_bench(tmp_path / "study"), FakeSam(level=100)
    bench.study.sam = lambda: sam  # type: ignore[method-assign, assignment, return-value]
    with page_of(bench, tmp_path / "profile") as browser:
        page = page_with_box(browser, bench)
        browser.find("#propagate-up").click()
        browser.until(lambda: "drawn on 2 more slices (SAM does not find it further)" in browser.text("#notices"), "up")
        browser.press("<")
        browser.until(lambda: browser.text("#notices").count("drawn on 2 more slices") == 2, "down")
        browser.press("2", "b", Keys.PAGE_UP, Keys.PAGE_UP, Keys.PAGE_UP)
        page.wait_for("v0 z 8")
        page.drag((10, 10), (14, 10))
        browser.press(Keys.PAGE_UP, Keys.PAGE_UP)
        page.wait_for("v0 z 10")
        page.drag((10, 10), (14, 10))
        browser.find("#interpolate").click()
        browser.until(lambda: "block: 1 slice interpolated" in browser.text("#notices"), "interpolation")
        label, truth = page.submit("v0"), bench.truths["v0"]
        assert browser.console() == []
    assert np.flatnonzero(label[0].any(axis=(1, 2))).tolist() == [3, 4, 5, 6, 7]
    assert dice(label[0], truth[0]) > 0.95
    assert np.array_equal(label[1][9], label[1][8]) and np.flatnonzero(label[1].any(axis=(1, 2))).tolist() == [8, 9, 10]
