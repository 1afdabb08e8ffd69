"""Work of a job's process: the app's own method for the kind of job, on an app of its own."""

from __future__ import annotations

import functools
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from samstudent.server.jobs.job_process import Work
from samstudent.util.progress import Report


def app_work() -> Work:
    """Work of the jobs of the app that this server runs."""
    return functools.partial(
        run_app_job,
        settings.MONAI_LABEL_APP_DIR,
        settings.MONAI_LABEL_STUDIES,
        settings.MONAI_LABEL_APP_CONF,
    )


def run_app_job(
    app_dir: str, studies: str, conf: dict[str, str], kind: str, request: dict[str, Any], report: Report
) -> Any:
    """Make the app and do one job.

    Args:
        app_dir, studies, conf: of the server.
        kind: name of the app's method: ``train``, ``batch_infer`` or ``scoring``.
        request: of the job.
        report: of the progress.

    Returns:
        What the method returns, a JSON value.

    Raises:
        UserError: the job cannot be done as asked for.
    """
    app = app_instance(app_dir, studies, conf)
    app.report = report
    return getattr(app, kind)(request)
