"""How reports write figures, and what their one file carries."""

from __future__ import annotations

import math

import jinja2
import pytest

from samstudent.research.html import data_uri, duration, installed_versions, percent, points, render


def test_figures_as_text() -> None:
    assert [percent(0.8312), percent(1), percent(math.nan)] == ["83.1", "100.0", "–"]
    assert [points(0.0312), points(-0.5), points(math.nan)] == ["+3.1", "−50.0", "–"]
    assert [duration(s) for s in (0.314, 12.4, 60, 75.4)] == ["0.31 s", "12 s", "1 min 00 s", "1 min 15 s"]


def test_pictures_are_in_the_file() -> None:
    assert data_uri(b"abc") == "data:image/png;base64,YWJj"


def test_versions_name_what_decides_the_figures() -> None:
    assert {"Python", "monai", "torch", "monailabel"} <= set(installed_versions())


def test_a_page_that_lacks_a_value_is_not_made() -> None:
    with pytest.raises(jinja2.UndefinedError, match="report"):
        render("report.html", when="now")
