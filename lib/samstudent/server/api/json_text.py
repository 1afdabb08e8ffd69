"""JSON of clients: no deeper than anything here needs, and nothing in it that could not be answered again."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json

#: Objects and lists within each other; the deepest that clients send is a list of points in the parameters.
MAX_DEPTH = 32


def strict_json(text: str | bytes) -> Any:
    """Value of a JSON text.

    Raises:
        ValueError: no JSON in UTF-8 (also NaN, half of a surrogate pair); deeper than ``MAX_DEPTH``; a number that is
            not finite, or has thousands of digits.
    """
    # With a depth limit of its own (200), so that thousands of brackets end it.
    value = from_json(text, allow_inf_nan=False)
    _check_depth(value)
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:  # 1e999 is read as infinity
        raise ValueError("a number that is too large, and so not finite") from error
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node) if isinstance(child, dict | list)]
        if not level:
            return
    raise ValueError(f"more than {MAX_DEPTH} lists and objects within each other")


def _children(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
