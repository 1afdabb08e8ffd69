"""End of the demo: the page on which a person goes on."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from samstudent.demo import run
from samstudent.demo.study import DemoStudy


@pytest.mark.parametrize("screen", [True, False])
def test_kept_server_ends_on_a_case_without_a_label(monkeypatch: pytest.MonkeyPatch, screen: bool) -> None:
    text, opened = io.StringIO(), list[str]()
    monkeypatch.setattr(run, "console", Console(file=text, width=60))
    monkeypatch.setattr(run, "_has_screen", lambda: screen)
    monkeypatch.setattr(run.webbrowser, "open", lambda url: opened.append(url) or True)
    arms: Any = {"labels only": {"labels_used": ["b", "a"]}, "+ SAM pseudo labels": {"labels_used": ["b", "a"]}}
    study = DemoStudy(Path("study"), {}, ["a", "b", "c 1", "d"], ["h"], False)
    server: Any = SimpleNamespace(url="http://127.0.0.1:8000", process=SimpleNamespace(pid=7))
    run._explain_keep(server, run._unlabelled(study, arms))
    page = "http://127.0.0.1:8000/samstudent#annotate/c%201"
    assert opened == ([page] if screen else [])
    assert f"  {page}\n" in text.getvalue() and "kill 7" in text.getvalue()
    assert ("has opened" in text.getvalue()) is screen


@pytest.mark.parametrize("display", ["", ":0"])
def test_no_browser_is_opened_where_nobody_sees_it(monkeypatch: pytest.MonkeyPatch, display: str) -> None:
    monkeypatch.setattr(run.sys, "platform", "linux")
    monkeypatch.setattr(run.sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert run._has_screen() is bool(display)
    monkeypatch.setattr(run.sys, "stdout", SimpleNamespace(isatty=lambda: False))
    assert not run._has_screen()
