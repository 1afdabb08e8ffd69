"""MONAI Label 0.8.5 mended where it is broken, in one place. docs/reference/host.md lists each fix.

Every fix names its reason and what makes it needless; tests/server/test_host_fixes.py has a test for each that fails
as soon as the host no longer needs it. ``server/bootstrap.py`` holds what must be in place before the host is imported.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import torch
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from samstudent.errors import Unusable, explain
from samstudent.server.api.sessions import SafeSessions
from samstudent.server.jobs.job_process import is_job_process
from samstudent.util.places import require_writable

logger = logging.getLogger(__name__)

#: So often it is said that the log cannot be written.
LOG_FAULT_SECONDS = 60
#: The server answers itself on loopback, or not at all.
CALLBACK_SECONDS = 10


def apply() -> None:
    """Mend the host in this process. Children of the server call it too, when they import the app. Idempotent."""
    if getattr(MONAILabelApp, "_samstudent_fixed", False):
        return
    MONAILabelApp._samstudent_fixed = True
    tracking_off_unless_asked()
    BatchInferTask.__call__ = _one_device_without_gpu(BatchInferTask.__call__)
    MONAILabelApp._local_request = _callback
    MONAILabelApp._load_sessions = _safe_sessions
    MONAILabelApp.cleanup_sessions = _never_raises(MONAILabelApp.cleanup_sessions)
    logging.Handler.handleError = _one_line(logging.Handler.handleError)  # type: ignore[method-assign]


def tracking_off_unless_asked() -> None:
    """E3. MLflow 3 refuses the folder that the host gives it by default, so every training fails at its start.

    Needless when the host's default is a store that MLflow takes. A user who names MONAI_LABEL_TRACKING_URI gets it.
    """
    settings.MONAI_LABEL_TRACKING_ENABLED = bool(settings.MONAI_LABEL_TRACKING_URI)


def _one_device_without_gpu(original: Callable[..., Any]) -> Callable[..., Any]:
    """E7. The default request of batch inference shares the work over all GPUs; with none it divides by zero.

    Needless when the host's BatchInferTask falls back to the CPU.
    """

    @functools.wraps(original)
    def call(self: BatchInferTask, request: dict[str, Any], datastore: Any, infer: Any) -> Any:
        if not torch.cuda.is_available():
            request = {**request, "multi_gpu": False}
        return original(self, request, datastore, infer)

    return call


def _callback(app: MONAILabelApp, url: str, params: dict[str, Any] | None, action: str) -> Any:
    """E9. A finished training asks the server for scores at http://127.0.0.1; if that fails, it is reported as ERROR.

    It fails with TLS, with another address, with authentication, and when the job runs without a server. Needless when
    the host takes the failure as what it is: no scores.
    """
    address = f"http://127.0.0.1:{settings.MONAI_LABEL_SERVER_PORT}{url}"
    try:
        response = requests.post(address, json=params or {}, timeout=CALLBACK_SECONDS)
        response.raise_for_status()
        return response.json()
    except requests.RequestException as error:
        logger.warning("%s was not started: %s", action, error)
        return None


def _safe_sessions(app: MONAILabelApp, load: bool = False) -> SafeSessions | None:
    """E10 and the holes of uploads: see server/api/sessions.py."""
    if not load:
        return None
    sessions = SafeSessions(settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY)
    if not is_job_process():
        try:
            require_writable(Path(sessions.store_path), "uploads (PUT /session) are kept")
        except Unusable as error:
            text = f"uploads will be refused: {error}; MONAI_LABEL_SESSION_PATH names another one"
            print(f"samstudent: WARNING: {text}", file=sys.stderr, flush=True)
    return sessions


def _one_line(original: Callable[..., Any]) -> Callable[..., Any]:
    """A log file on a full disk: Python prints a traceback for each line that cannot be written to it."""
    told = 0.0

    @functools.wraps(original)
    def handle(handler: logging.Handler, record: logging.LogRecord) -> None:
        nonlocal told
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            original(handler, record)
        elif time.monotonic() > told + LOG_FAULT_SECONDS or not told:
            told = time.monotonic()
            with contextlib.suppress(OSError):
                text = explain(error, getattr(handler, "baseFilename", None))
                print(f"samstudent: WARNING: the log is not complete: {text}", file=sys.stderr, flush=True)

    return handle


def _never_raises(original: Callable[..., Any]) -> Callable[..., Any]:
    """E10. One exception in a job of the host's scheduler ends its thread, and all other jobs with it."""

    @functools.wraps(original)
    def call(*args: Any) -> None:
        try:
            original(*args)
        except Exception:
            logger.exception("cleaning up sessions failed; the next try is in five minutes")

    return call
