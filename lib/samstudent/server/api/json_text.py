"""JSON of clients: no deeper than anything here needs, and nothing in it that could not be answered again."""

from __future__ import annotations

import json
import math
from typing import Any

#: Objects and lists within each other; the deepest that clients send is a list of points in the parameters.
MAX_DEPTH = 32


def strict_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Python takes more than JSON allows (NaN, half of a surrogate pair) or than it can follow (thousands of brackets);
    such a value would be stored, and fail where it is answered or walked through.

    Raises:
        ValueError: no JSON in UTF-8; deeper than ``MAX_DEPTH``; a number that is not finite; text that is no Unicode.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    _check_depth(text)
    value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half of a surrogate pair, which is no character") from error
    return value


def _check_depth(text: str) -> None:
    depth, quoted, escaped = 0, False, False
    for sign in text:
        if quoted:
            quoted = escaped or sign != '"'
            escaped = sign == "\\" and not escaped
        elif sign == '"':
            quoted = True
        elif sign in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} lists and objects within each other")
        elif sign in "]}":
            depth -= 1


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is no finite number")
    return value
