"""Work of a job process: the app's method for the kind of job, on a new app."""

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
    """Create the app and run one job.

    Args:
        app_dir, studies, conf: settings of the server.
        kind: name of the app's method: ``train``, ``batch_infer`` or ``scoring``.
        request: request of the job.
        report: receiver of the progress.

    Returns:
        Result of the method, a JSON value.

    Raises:
        UserError: invalid request.
    """
    app = app_instance(app_dir, studies, conf)
    app.report = report
    return getattr(app, kind)(request)
