"""MONAI Label app: creates the host's tasks from the parts of the study.

The server is composed in ``server/asgi.py``; jobs and the command line use the app alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from samstudent import __version__
from samstudent.errors import UserError, explain
from samstudent.rounds.study import Study
from samstudent.server import bootstrap
from samstudent.server.jobs.app_work import app_work
from samstudent.server.jobs.job_process import is_job_process
from samstudent.server.jobs.runner import JobRunner
from samstudent.server.jobs.start_methods import best_start_method
from samstudent.server.open_datastore import open_datastore
from samstudent.server.shutdown import Shutdown
from samstudent.server.tasks.active_learning import strategies
from samstudent.server.tasks.batch_infer import SamstudentBatchInfer
from samstudent.server.tasks.sam_interactive import SamInteractiveTask
from samstudent.server.tasks.sam_trainer import SamTrainTask
from samstudent.server.tasks.scoring import CaseScorer
from samstudent.server.tasks.scoring_methods import DiversityScoring, UncertaintyScoring
from samstudent.server.tasks.student_infer import StudentInferTask, StudentSamInferTask
from samstudent.server.tasks.student_trainer import StudentTrainTask
from samstudent.task import load_task, shipped_tasks
from samstudent.util.places import require_free
from samstudent.util.progress import Progress, Report, log_progress
from samstudent.util.signals import end_now


class SamstudentApp(MONAILabelApp):  # type: ignore[misc]
    """App of one study and task.

    Args:
        app_dir: app folder.
        studies: study folder, or URL of a DICOMweb server.
        conf: ``task``: name of a shipped task or path of a task file (required).

    Raises:
        UserError: invalid task or study. In a process of the host the message is printed and the process ends; the
            host would print a traceback.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        bootstrap.share_cores()
        #: Receiver of the progress of jobs that run in this process.
        self.report: Report = log_progress
        #: Jobs of the server; None in a job process and on the command line, which run a job themselves.
        self.jobs: JobRunner | None = None
        self.shutdown = Shutdown()
        if is_server():
            # Before anything that a fork must not inherit: threads, locks, open files.
            self.jobs = JobRunner(app_work(), best_start_method())
            self.shutdown.install(self.jobs)
        with ends_host():
            if is_server():  # before the models are loaded
                address = bootstrap.listening(sys.argv[1:])
                require_free(address.host, address.port)
            self.task = load_task(_required_task(conf))
            self.study = Study(studies, app_dir, self.task)
            self.case_scorer = CaseScorer(self.study)
            super().__init__(
                app_dir,
                studies,
                conf,
                name=f"samstudent - {self.task.name}",
                description=self.task.description or f"Student and SAM for {', '.join(self.task.names)}",
                version=__version__,
            )
            datastore = self.datastore()
            self.study.holdout.extend(datastore.list_images(), datastore.get_labeled_images())

    # ---- parts, created by the host's constructor ----

    def init_datastore(self) -> Datastore:
        return open_datastore(self.study, self.studies)

    def init_infers(self) -> dict[str, InferTask]:
        return {
            "student": StudentInferTask(self.study),
            "student+sam": StudentSamInferTask(self.study),
            "sam": SamInteractiveTask(
                self.task, self.study.sam, self.study.embeddings, self.study.plain_sam, self.study.click_decoder
            ),
        }

    def init_trainers(self) -> dict[str, TrainTask]:
        return {
            "student": StudentTrainTask(self.study, self.case_scorer.keep_scores, self._report),
            "sam": SamTrainTask(self.study, self._report),
        }

    def init_batch_infer(self) -> Callable[..., Any]:
        return SamstudentBatchInfer(self.study, self.case_scorer.keep_scores, self._report)

    def _report(self, progress: Progress) -> None:
        """Report the progress of a job to the current receiver."""
        self.report(progress)

    def init_strategies(self) -> dict[str, Strategy]:
        return strategies(self.task, self.study.selection, self.study.holdout, self.study.reviews)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        scorer, state, holdout, overlap = self.case_scorer, self.study.selection, self.study.holdout, self.task.overlap
        return {
            "diversity": DiversityScoring(state, holdout, scorer.vector_version, scorer.embed, self._report),
            "uncertainty": UncertaintyScoring(state, holdout, scorer.version, scorer.predict, overlap, self._report),
        }

    def async_scoring(self, method: str | None, params: dict[str, Any] | None = None) -> Any:
        """No operation. The host calls this after a training to send a request to the server, which fails with TLS, a
        login or another address. The server updates the scores by itself (``server/score_updates.py``)."""
        return {}

    def on_init_complete(self) -> None:
        """Called if the host's own HTTP application serves this app: that has neither our login nor our validation."""
        with ends_host():
            raise UserError("start this app by samstudent serve, or with --uvicorn_app samstudent.server.asgi:app")


def is_server() -> bool:
    """Whether this process is a server of the host."""
    return bool(settings.MONAI_LABEL_APP_DIR) and not is_job_process()


def _required_task(conf: dict[str, str]) -> str:
    if "task" not in conf:
        raise UserError(f"add --conf task NAME: one of {', '.join(shipped_tasks())}, or the path of a task file")
    return conf["task"]


@contextlib.contextmanager
def ends_host() -> Iterator[None]:
    """For mistakes of a user, a process of the host prints one line and ends; elsewhere (command line, tests) the error
    is raised."""
    try:
        yield
    except (UserError, OSError) as error:
        if settings.MONAI_LABEL_APP_DIR:
            end_now(2, explain(error))
        raise
