"""Log handlers that report a write error in one line a minute.

Python's handlers print a traceback for each record: on a full disk, thousands.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from logging.handlers import RotatingFileHandler

from samstudent.errors import explain

#: Seconds between two reports.
REPORT_SECONDS = 60


class _BriefErrors(logging.Handler):
    _reported = float("-inf")

    def handleError(self, record: logging.LogRecord) -> None:
        """Report a disk error; other errors as Python does."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif time.monotonic() > _BriefErrors._reported + REPORT_SECONDS:
            _BriefErrors._reported = time.monotonic()
            with contextlib.suppress(OSError):
                text = explain(error, getattr(self, "baseFilename", None))
                print(f"samstudent: WARNING: the log is incomplete: {text}", file=sys.stderr, flush=True)


class LogFile(_BriefErrors, RotatingFileHandler):
    """Log file."""


class LogStream(_BriefErrors, logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error, or another stream."""


def use_brief_handlers() -> None:
    """Replace the handlers that the host has configured, of all loggers, by those above."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        for handler in list(getattr(logger, "handlers", ())):
            if (brief := _brief(handler)) is not None and isinstance(logger, logging.Logger):
                brief.setLevel(handler.level)
                brief.setFormatter(handler.formatter)
                logger.removeHandler(handler)
                logger.addHandler(brief)


def _brief(handler: logging.Handler) -> logging.Handler | None:
    if type(handler) is RotatingFileHandler:
        handler.close()
        return LogFile(
            handler.baseFilename,
            handler.mode,
            handler.maxBytes,
            handler.backupCount,
            handler.encoding,
            delay=True,
        )
    return LogStream(handler.stream) if type(handler) is logging.StreamHandler else None
