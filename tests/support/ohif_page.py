"""OHIF under test: user actions, and displayed masks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.select import Select

from support.browser import Browser
from support.waits import until

#: A picture of volumes needs WebGL; where there is no graphics card it is computed.
WEBGL = "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"
#: Seconds in which something comes of a click.
SOON = 20
_VOLUME = "services.segmentationService.getLabelmapVolume('1')"
_SEGMENTS = "Object.values(services.segmentationService.getSegmentation('1').segments)"


class Ohif:
    """One browser on OHIF."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    def open_list(self, patients: Collection[str]) -> None:
        """Open the study list, and wait until it contains all these studies."""
        self.browser.open("ohif/")
        self.browser.until(lambda: all(name in self.browser.text("body") for name in patients), f"{patients}")

    def open_study(self, uid: str) -> None:
        """Open a study in the MONAI Label mode, and wait until its image is displayed."""
        self.browser.open(f"ohif/monai-label?StudyInstanceUIDs={uid}")
        self.wait_for_picture()

    def wait_for_picture(self) -> None:
        """Wait for the image of a study just opened; hides the notice on its use."""
        loaded = "return window.cornerstone?.cache.getVolumes().some(volume => volume.loadStatus?.loaded)"
        self.browser.until(lambda: self.browser.run(loaded), "the volume")
        self.browser.until(lambda: self.drawn()[0] > 1000, "the picture")
        if self._find("button", "Confirm and Hide"):
            self.press("button", "Confirm and Hide")

    def connect(self) -> None:
        """Connect MONAI Label's panel to the server."""
        self.press(".settingsTable button")
        self.browser.until(lambda: "Options / Configurations" in self.browser.text(".monaiLabelPanel"), "the panel")
        self.browser.until(lambda: self.run(f"return !!{_VOLUME}"), "an empty segmentation")

    def press(self, selector: str, text: str = "") -> None:
        """Click with the mouse on the first visible element of a CSS selector that contains ``text``."""
        places: list[list[float] | None] = [None, None]

        def stands_still() -> bool:  # panels slide to their place
            places[:] = places[1], self._find(selector, text)
            return places[0] is not None and places[0] == places[1]

        self.browser.until(stands_still, f"{selector} {text}")
        x, y = places[1] or (0, 0)
        self._click(x, y)

    def press_until(self, selector: str, text: str, condition: Callable[[], Any], what: str) -> None:
        """Press until the condition holds: a click is lost while OHIF redraws its panels."""
        self._until_done(lambda: self.press(selector, text), condition, what)

    def _until_done(self, action: Callable[[], None], condition: Callable[[], Any], what: str) -> None:
        for _ in range(4):
            action()
            for _ in until(SOON):
                if condition():
                    return
        self.browser.until(condition, what, 180)  # on cores that other work holds a model takes minutes

    def _find(self, selector: str, text: str) -> list[float] | None:
        """The middle of the first that a click would reach: not folded away, nor below a notice."""
        found: list[float] | None = self.browser.driver.execute_script(
            "const [selector, text] = arguments;"
            " for (const element of document.querySelectorAll(selector)) {"
            "  if (!(element.innerText ?? '').includes(text)) continue;"
            "  const box = element.getBoundingClientRect();"
            "  const place = [box.left + box.width / 2, box.top + box.height / 2];"
            "  if (element.contains(document.elementFromPoint(...place))) return place; }"
            " return null",
            selector,
            text,
        )
        return found

    def _click(self, x: float, y: float) -> None:
        actions = ActionChains(self.browser.driver)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        actions.w3c_actions.pointer_action.click()
        actions.perform()

    def click_voxel(self, i: int, j: int) -> int:
        """Place a point on the axial image at column i, row j; returns the displayed slice."""
        x, y, k = self.run(
            "const view = cornerstone.getRenderingEngines()[0].getViewports().find(v => v.id === 'mpr-axial');"
            " const image = view.getImageData().imageData;"
            " const k = Math.round(image.worldToIndex(view.getCamera().focalPoint)[2]);"
            f" const [x, y] = view.worldToCanvas(image.indexToWorld([{i}, {j}, k]));"
            " const box = view.canvas.getBoundingClientRect(); return [box.left + x, box.top + y, k]"
        )
        # OHIF's crosshairs are annotations, too, and on busy cores they come late. Without a point, Run fails silently
        # and never runs again.
        points = (
            "return cornerstoneTools.annotation.state.getAllAnnotations()"
            ".filter(a => a.metadata.toolName === 'ProbeMONAILabel').length"
        )
        before = self.run(points)
        self._until_done(lambda: self._click(x, y), lambda: self.run(points) > before, "the point")
        return int(k)

    def choose(self, tab: str, model: str) -> None:
        """Open a tab of MONAI Label's panel and choose its model."""
        self.press(".tab-label", tab)
        label = f"[...document.querySelectorAll('.tab-label')].find(e => e.innerText === '{tab}')"
        select = self.browser.until(
            lambda: self.run(f"return {label}?.parentElement.querySelector('select.selectBox')"), f"models of {tab}"
        )
        Select(select).select_by_value(model)

    def choose_structure(self, name: str) -> None:
        """Select a structure in the list below the point prompts."""
        row = f"[...document.querySelectorAll('.clickable-row')].find(e => e.innerText.trim() === '{name}')"

        def chosen() -> bool:
            return bool(self.run(f"return {row}?.style.backgroundColor === 'darkblue'"))

        self._until_done(lambda: self.press(".clickable-row", name), chosen, f"the row {name}")

    def segments(self) -> dict[int, str]:
        """Number and name of the segments."""
        return {int(n): name for n, name in self.run(f"return {_SEGMENTS}.map(s => [s.segmentIndex, s.label])")}

    def labelmap(self) -> list[int]:
        """Segment numbers of all voxels, x fastest."""
        return list(self.run(f"return Array.from({_VOLUME}.voxelManager.getCompleteScalarDataArray())"))

    def run_model(self, button: str, text: str = "") -> None:
        """Press a *Run* button until the result of the model is displayed."""
        before = self.labelmap()
        self.press_until(button, text, lambda: self.labelmap() != before, "a model's answer")

    def export(self) -> None:
        """Segmentation panel, three dots, *Export DICOM SEG*, *Save*, until OHIF reports the storage."""
        self.press("[data-cy=panelSegmentationWithTools-btn]")
        self.browser.until(lambda: self._find("button", "Add Segment"), "the segmentation panel")
        menu = "[...document.querySelectorAll('button[role=combobox]')].find(e => e.innerText === 'Segmentations')"
        self.run(f"{menu}.parentElement.querySelector('button[aria-haspopup=menu]').id = 'segmentation-menu'")
        self.press("#segmentation-menu")
        self.press("[role=menuitem]", "Export & Download")
        self.press("[role=menuitem]", "Export DICOM SEG")
        self.press("button", "Save")
        self.wait_for_notice("Stored in the PACS.")

    def wait_for_notice(self, text: str) -> None:
        self.browser.until(lambda: text in self.browser.text("body"), f"the notice {text}")

    def next_sample(self) -> str:
        """*Active Learning*, *Next Sample*, *OK*, and yes: the Study Instance UID that it goes to."""
        form = ".nextSampleForm button"
        self.press_until("button", "Next Sample", lambda: self._find(form, "OK"), "the next sample")
        self.press(".nextSampleForm button", "OK")
        self.browser.driver.switch_to.alert.accept()
        self.wait_for_picture()
        return self.browser.driver.current_url.split("=")[-1]

    def drawn(self) -> tuple[int, int]:
        """Numbers of pixels in the images that are not black, and of those in colour."""
        bright, coloured = self.run(
            "let bright = 0, coloured = 0;"
            " for (const view of window.cornerstone?.getRenderingEngines()[0]?.getViewports() ?? []) {"
            "  const c = view.canvas; if (!c.width) continue;"
            "  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "  for (let i = 0; i < d.length; i += 4) {"
            "   bright += d[i] > 60; coloured += Math.abs(d[i] - d[i + 2]) > 25; } }"
            " return [bright, coloured]"
        )
        return int(bright), int(coloured)

    def run(self, script: str) -> Any:
        return self.browser.run(script)
