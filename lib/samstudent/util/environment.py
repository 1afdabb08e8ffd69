"""Numbers and switches from the environment (docs/reference/environment.md)."""

from __future__ import annotations

import os

from samstudent.errors import UserError


def number(name: str, default: float) -> float:
    """A number above 0. Raises UserError naming the variable."""
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{name}={text!r}: expected a number above 0")
    return value


def whole_number(name: str, default: int, unit: str) -> int:
    """A whole number of 0 or more of ``unit``. Raises UserError naming the variable."""
    text = os.environ.get(name, "")
    if text and not (text.isascii() and text.isdigit()):
        raise UserError(f"{name}={text!r}: expected a whole number of {unit}")
    return int(text) if text else default


def yes_or_no(name: str, default: bool) -> bool:
    """Raises UserError naming the variable."""
    text = os.environ.get(name, "").lower()
    if text not in ("", "true", "false", "1", "0", "yes", "no"):
        raise UserError(f"{name}={text!r}: expected true or false")
    return text in ("true", "1", "yes") if text else default
