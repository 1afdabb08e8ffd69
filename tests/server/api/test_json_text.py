"""Strict parsing of JSON from clients."""

from __future__ import annotations

import pytest

from samstudent.server.api.json_text import MAX_DEPTH, strict_json


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "levels deep"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "levels deep"),
        ("[" * 1_000_000, "recursion"),
        ('{"a": Infinity}', "expected value"),
        ('{"a": NaN}', "expected value"),
        ("1e999", "finite"),
        ('{"a": [-1e999]}', "finite"),
        ('"\\ud800"', "escape"),
        ('{"\\udfff": 1}', "surrogate"),
        ("9" * 10_000, "out of range"),
        (b"\xff", "expected value"),
        ("{", "EOF"),
        ("", "EOF"),
    ],
)
def test_invalid_json_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        strict_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ('"' + "[" * 100 + '"', "[" * 100),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ('{"a": [1, 2.5, {"b": null}]}', {"a": [1, 2.5, {"b": None}]}),
    ],
)
def test_valid_json_is_parsed(text: str, value: object) -> None:
    assert strict_json(text) == value


def test_nesting_up_to_the_limit_is_parsed() -> None:
    strict_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
