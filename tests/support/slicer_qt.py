"""Stand-ins for the widgets that 3D Slicer's MONAILabel module uses: what they hold, and the signals they send.

They are as strict as PythonQt where the server's answers reach them: a combo box takes texts and nothing else.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

#: What QSettings keeps between sessions.
SETTINGS: dict[str, Any] = {}


class Quiet:
    """Object that accepts any call and returns another one of its kind: colours, cursors, icons, layouts."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **options: Quiet()


class _Signal:
    def __init__(self, widget: Widget, name: str) -> None:
        self._widget, self._name = widget, name

    def connect(self, handler: Callable[..., Any]) -> None:
        self._widget.connect(self._name, handler)


class Widget:
    """Signals, and whether it is enabled and shown; the rest is taken and forgotten."""

    def __init__(self, *args: Any) -> None:
        self._handlers: dict[str, list[Callable[..., Any]]] = {}
        self._blocked = False
        self.enabled, self.shown = True, True
        self.toolTip = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ("clicked", "stateChanged", "toggled"):
            return _Signal(self, name)
        return lambda *args, **options: Quiet()

    def connect(self, signal: str, handler: Callable[..., Any]) -> None:
        self._handlers.setdefault(signal.split("(")[0], []).append(handler)

    def emit(self, signal: str, *args: Any) -> None:
        """Call the handlers, each with as many arguments as it takes, as PythonQt does."""
        for handler in () if self._blocked else self._handlers.get(signal, ()):
            takes = [p for p in inspect.signature(handler).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
            handler(*args[: len(takes)])

    def click(self) -> None:
        """What a user does; a disabled button does nothing in Qt, and here it is a mistake of the test."""
        assert self.enabled, "the button is disabled"
        self.emit("clicked", False)

    def blockSignals(self, block: bool) -> bool:
        before, self._blocked = self._blocked, block
        return before

    def setEnabled(self, on: Any) -> None:
        self.enabled = bool(on)

    def setVisible(self, on: bool) -> None:
        self.shown = on

    def show(self) -> None:
        self.shown = True

    def hide(self) -> None:
        self.shown = False

    def setToolTip(self, text: str) -> None:
        self.toolTip = text


class CheckBox(Widget):
    checked = False

    def setChecked(self, on: bool) -> None:
        if not isinstance(on, bool):
            raise TypeError(f"a check box is on or off, not {on!r}")
        self.checked = on

    def checkState(self) -> int:
        return 2 if self.checked else 0


class ComboBox(Widget):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.items: list[str] = []
        self.currentIndex = -1
        self._typed: str | None = None

    @property
    def count(self) -> int:
        return len(self.items)

    @property
    def currentText(self) -> str:
        return self._typed if self._typed is not None else self.itemText(self.currentIndex)

    @currentText.setter
    def currentText(self, text: str) -> None:
        self.setCurrentText(text)

    def addItem(self, *what: Any) -> None:
        """(text), (text, data) or (icon, text)."""
        text = what[0] if isinstance(what[0], str) or len(what) == 1 else what[1]
        if not isinstance(text, str):
            raise TypeError(f"an item of a combo box is a text, not {text!r}")
        self.items.append(text)
        if self.currentIndex < 0:
            self.setCurrentIndex(0)

    def addItems(self, texts: list[str]) -> None:
        for text in texts:
            self.addItem(text)

    def clear(self) -> None:
        self.items, self._typed = [], None
        self.setCurrentIndex(-1)

    def itemText(self, index: int) -> str:
        return self.items[index] if 0 <= index < len(self.items) else ""

    def findText(self, text: str) -> int:
        return self.items.index(text) if text in self.items else -1

    def setCurrentIndex(self, index: int) -> None:
        before, self.currentIndex = self.currentIndex, index
        if index != before:
            self.emit("currentIndexChanged", index)

    def setCurrentText(self, text: str | None) -> None:
        if text in self.items:
            self._typed = None
            self.setCurrentIndex(self.items.index(text))
        else:
            self._typed = text or ""  # the server's address: that box is editable


class ProgressBar(Widget):
    value: float = 0

    def setValue(self, value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise TypeError(f"a progress bar shows a number, not {value!r}")
        self.value = value


class TableWidget(Widget):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rowCount = 0
        self._cells: dict[tuple[int, int], Any] = {}

    def clear(self) -> None:
        self._cells = {}

    def setRowCount(self, count: int) -> None:
        self.rowCount = count

    def setItem(self, row: int, column: int, item: TableWidgetItem) -> None:
        self._cells[row, column] = item

    setCellWidget = setItem

    def item(self, row: int, column: int) -> Any:
        cell = self._cells.get((row, column))
        return cell if isinstance(cell, TableWidgetItem) else None

    def cellWidget(self, row: int, column: int) -> Any:
        cell = self._cells.get((row, column))
        return None if isinstance(cell, TableWidgetItem) else cell

    def cells(self) -> dict[str, Any]:
        """What a user sees: key -> the text, or the widget, of its value."""
        rows = range(self.rowCount)
        return {self.item(row, 0).text(): self._cells[row, 1] for row in rows}


class TableWidgetItem:
    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a cell holds a text, not {text!r}")
        self._text = text

    def text(self) -> str:
        return self._text

    def setText(self, text: str) -> None:
        self._text = text

    def flags(self) -> int:
        return 0

    def setFlags(self, flags: int) -> None:
        pass


class PlaceWidget(Widget):
    """Places points or a box; which ones it holds is what matters."""

    placeModeEnabled = False
    _node: Any = None

    def setCurrentNode(self, node: Any) -> None:
        self._node = node

    def currentNode(self) -> Any:
        return self._node

    def placeButton(self) -> Widget:
        return Widget()

    deleteButton = placeButton


class Timer(Widget):
    """Timer that never fires itself: the test calls ``timeout``."""

    running = False

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False


class _Settings:
    def value(self, key: str, default: Any = None) -> Any:
        return SETTINGS.get(key, default)

    def setValue(self, key: str, value: Any) -> None:
        SETTINGS[key] = value


def load_ui(path: str, special: dict[str, type[Widget]]) -> Widget:
    """The widgets of a Qt Designer file, by their names, as ``children`` of one widget.

    Args:
        path: the module's own .ui file.
        special: classes by the names they have in that file, besides Qt's and CTK's.
    """
    known = {
        "QComboBox": ComboBox, "ctkComboBox": ComboBox, "QCheckBox": CheckBox, "QProgressBar": ProgressBar,
        "QTableWidget": TableWidget, "qSlicerMarkupsPlaceWidget": PlaceWidget,
    } | special  # fmt: skip
    top = Widget()
    found = ElementTree.parse(Path(path)).getroot().iter("widget")
    children = {w.attrib["name"]: known.get(w.attrib["class"], Widget)() for w in found}
    for name in ("paintScribblesButton", "eraseScribblesButton"):
        children[name] = CheckBox()  # buttons that stay down
    top.children = SimpleNamespace(**children)
    return top


def modules() -> dict[str, ModuleType]:
    """``qt`` and ``ctk`` as far as the module uses them."""
    qt, ctk = ModuleType("qt"), ModuleType("ctk")
    qt.__dict__.update(
        QComboBox=ComboBox, QCheckBox=CheckBox, QTableWidgetItem=TableWidgetItem, QTimer=Timer, QSettings=_Settings,
        QIcon=Quiet, QApplication=Quiet(), QInputDialog=Quiet, QMessageBox=Quiet(), QLineEdit=Widget, QDialog=Widget,
        QVBoxLayout=Quiet, QFormLayout=Quiet, SIGNAL=str,
        Qt=SimpleNamespace(WaitCursor=0, ToolTipRole=0, ItemIsEditable=2),
    )  # fmt: skip
    ctk.__dict__.update(ctkSettingsPanel=Widget, ctkCollapsibleGroupBox=Widget, ctkBooleanMapper=Quiet)
    return {"qt": qt, "ctk": ctk}
