"""Unwritable log: reported once, not by a traceback for each line."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from samstudent.server import log_files


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[logging.Logger]:
    logger = logging.getLogger("test_log_files")
    logger.propagate = False
    handler = RotatingFileHandler(tmp_path / "app.log", maxBytes=1000, backupCount=3, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    log_files.use_brief_handlers()
    yield logger
    logger.handlers.clear()


def log_file(logger: logging.Logger) -> log_files.LogFile:
    (found,) = (handler for handler in logger.handlers if isinstance(handler, log_files.LogFile))
    return found


def test_records_are_written(logger: logging.Logger, tmp_path: Path) -> None:
    handler = log_file(logger)
    assert (handler.maxBytes, handler.backupCount) == (1000, 3)
    logger.warning("one")
    assert (tmp_path / "app.log").read_text() == "WARNING one\n"


def test_full_disk_is_one_message(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(log_files._BriefErrors, "_reported", float("-inf"))
    monkeypatch.setattr(RotatingFileHandler, "shouldRollover", full)
    for _ in range(10):
        logger.warning("one")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "the log is incomplete" in said and "app.log" in said


def test_other_errors_are_reported_as_python_does(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    log_file(logger).handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    assert "Traceback" in capsys.readouterr().err
