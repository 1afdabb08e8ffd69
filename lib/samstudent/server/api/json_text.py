"""Strict parser of JSON from clients: bounded depth, and only values that can be written as JSON again."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json

#: Largest depth of nested objects and lists; clients nest lists of points in the parameters at most.
MAX_DEPTH = 32


def strict_json(text: str | bytes) -> Any:
    """Parsed JSON text.

    Raises:
        ValueError: invalid JSON or UTF-8 (also NaN, an unpaired surrogate); deeper than ``MAX_DEPTH``; a number that is
            not finite, or has thousands of digits.
    """
    # The parser has its own depth limit (200), against thousands of brackets.
    value = from_json(text, allow_inf_nan=False)
    _check_depth(value)
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:  # 1e999 is read as infinity
        raise ValueError("a number is too large and not finite") from error
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [value for node in level for value in _values_of(node) if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(f"lists and objects are nested more than {MAX_DEPTH} levels deep")


def _values_of(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
