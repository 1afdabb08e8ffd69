"""Annotation files in the form of CVAT's export "CVAT for images 1.1"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

#: A square of 4 x 4 pixels whose first pixel is in row 3 and column 2.
SQUARE = "2.00,3.00;6.00,3.00;6.00,7.00;2.00,7.00"


def polygon(points: str = SQUARE, *, label: str = "bone", **attributes: str) -> str:
    """Element of a polygon; ``attributes``: further ones, e.g. ``Anatomie="Radius"``."""
    return _element("polygon", {"label": label, "points": points}, attributes)


def mask(pixels: NDArray[Any], *, label: str = "bone", changes: dict[str, str] | None = None, **attributes: str) -> str:
    """Element of a run-length mask from pixels bool (y, x); ``changes``: replaces attributes of the element."""
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    flat = np.concatenate([[False], pixels[top:bottom, left:right].ravel()])
    borders = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]), [flat.size - 1]])
    box = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    content = {"label": label, "rle": ", ".join(map(str, np.diff(borders))), **{k: str(v) for k, v in box.items()}}
    return _element("mask", content | (changes or {}), attributes)


def image(name: str, size: tuple[int, int], shapes: Sequence[str] = ()) -> str:
    """Element of an image; size (y, x)."""
    start = f'  <image id="0" name={quoteattr(name)} width="{size[1]}" height="{size[0]}">'
    return "\n".join([start, *shapes, "  </image>"])


def write_cvat(path: Path, *images: str) -> Path:
    """File of images."""
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta/>\n'
    path.write_text(head + "\n".join(images) + "\n</annotations>\n", encoding="utf-8")
    return path


def _element(tag: str, content: dict[str, str], attributes: dict[str, str]) -> str:
    inside = "".join(f"<attribute name={quoteattr(k)}>{v}</attribute>" for k, v in attributes.items())
    return f"    <{tag} {' '.join(f'{k}={quoteattr(v)}' for k, v in content.items())}>{inside}</{tag}>"
