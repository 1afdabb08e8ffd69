"""The MONAI Label app: wires the study's parts into the host's tasks."""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.endpoints import train as train_endpoints
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from samstudent import __version__
from samstudent.errors import UserError, explain
from samstudent.imaging.case import read_image
from samstudent.imaging.label_tags import FINAL
from samstudent.imaging.labels import read_masks
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.rounds.schedule import Scheduler
from samstudent.rounds.study import Study
from samstudent.server import bootstrap, host_fixes
from samstudent.server.api import request_validation, threads
from samstudent.server.auth import audit, logins
from samstudent.server.auth.current_user import caller, user_name
from samstudent.server.datastore.label_folder import LabelFolder, claim, label_folder
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.jobs import host_endpoints
from samstudent.server.jobs.app_work import app_work
from samstudent.server.jobs.job_process import is_job_process
from samstudent.server.jobs.runner import JobRunner
from samstudent.server.jobs.start_methods import best_start_method
from samstudent.server.pacs.client import Pacs
from samstudent.server.pacs.datastore import SEND_SECONDS, PacsDatastore, ViewersGrid
from samstudent.server.pacs.settings import PacsSettings, require_supported
from samstudent.server.shutdown import Shutdown
from samstudent.server.tasks.active_learning import DiversityScoring, UncertaintyScoring, strategies
from samstudent.server.tasks.batch_infer import SamstudentBatchInfer
from samstudent.server.tasks.sam_interactive import SamInteractiveTask
from samstudent.server.tasks.sam_trainer import SamTrainTask
from samstudent.server.tasks.scoring import Examiner
from samstudent.server.tasks.student_infer import StudentInferTask, StudentSamInferTask
from samstudent.server.tasks.student_trainer import StudentTrainTask
from samstudent.task import load_task, shipped_tasks
from samstudent.util.places import require_free
from samstudent.util.progress import Report, log_progress
from samstudent.util.signals import end_now
from samstudent.util.timer import Timer

logger = logging.getLogger(__name__)
host_fixes.apply()

#: How often the schedule looks, and the scores are checked; seconds.
POLL_SECONDS = 5


class SamstudentApp(MONAILabelApp):  # type: ignore[misc]
    """From a handful of labels to a model trained on all images.

    Args:
        app_dir: the app folder.
        studies: study folder, or URL of a DICOMweb server.
        conf: ``task``: name of a shipped task or path of a task file (required).

    Raises:
        UserError: the task or the study cannot be used. In a process of the host's it is printed and the process ends:
            the host would print a traceback.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        bootstrap.share_cores()
        #: Receiver of the progress of jobs that run in this process.
        self.report: Report = log_progress
        #: Jobs of the server; None in a job's process and on the command line, which do a job themselves.
        self.jobs: JobRunner | None = None
        self._shutdown = Shutdown()
        if _is_server():
            # Here nothing is begun yet that a fork should not inherit.
            self.jobs = JobRunner(app_work(), best_start_method())
            self._shutdown.install(self.jobs)
        try:
            if _is_server():  # before the models are loaded, and jobs begun
                address = bootstrap.listening(sys.argv[1:])
                require_free(address.host, address.port)
            self.task = load_task(_required_task(conf))
            self.study = Study(studies, app_dir, self.task)
            self.examiner = Examiner(self.study)
            super().__init__(
                app_dir,
                studies,
                conf,
                name=f"samstudent - {self.task.name}",
                description=self.task.description or f"Student and SAM for {', '.join(self.task.names)}",
                version=__version__,
            )
            self._extend_holdout()
        except (UserError, OSError) as error:
            _end_host(error)
            raise
        self._scored_for: object = None
        self._scoring = threading.Lock()

    # ---- the host asks for the parts ----

    def init_datastore(self) -> Datastore:
        require_supported(settings.MONAI_LABEL_DATASTORE, self.studies)
        if self.study.is_remote:
            return self._init_pacs()
        folder = Path(self.studies)
        place = label_folder(folder, self.task)
        if place.note and not is_job_process():
            logger.warning("%s: %s", folder, place.note)
        return StudyFolderDatastore(
            self.studies,
            # A job reads the list again where it has changed; files that come and go are the server's to see.
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD and not is_job_process(),
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
            check_label=self._check_label,
            image_check=self.study.image_check,
            task=self.task,
            place=place,
            claim=functools.partial(claim, folder, self.task) if place == LabelFolder() else lambda: None,
        )

    def _init_pacs(self) -> PacsDatastore:
        pacs = Pacs(self.studies, PacsSettings.from_environment())
        study = self.study
        datastore = PacsDatastore(study.folder / "pacs", pacs, self.task, study.root / "images", self._check_label)
        if not is_job_process():  # the server looks for its jobs, too
            audit.write_to(self.study.audit)  # what it takes in has its lines
            datastore.first_poll()
        return datastore

    def init_infers(self) -> dict[str, InferTask]:
        return {
            "student": StudentInferTask(self.study),
            "student+sam": StudentSamInferTask(self.study),
            "sam": SamInteractiveTask(self.task, self.study.sam, self.study.embeddings, self.study.plain_sam),
        }

    def init_trainers(self) -> dict[str, TrainTask]:
        return {"student": StudentTrainTask(self.study, self.examiner.remember), "sam": SamTrainTask(self.study)}

    def init_batch_infer(self) -> Callable[..., Any]:
        return SamstudentBatchInfer(self.study, self.examiner.remember)

    def init_strategies(self) -> dict[str, Strategy]:
        return strategies(self.task, self.study.selection, self.study.holdout, self.study.reviews)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        examiner, state, holdout = self.examiner, self.study.selection, self.study.holdout
        return {
            "diversity": DiversityScoring(state, holdout, examiner.vector_version, examiner.embed),
            "uncertainty": UncertaintyScoring(state, holdout, examiner.version, examiner.examine, self.task.overlap),
        }

    def infer(self, request: dict[str, Any], datastore: Any = None) -> Any:
        """As the host does it. Clients that fetch images of a PACS from this server are answered on the grid of what
        they fetched; browsers (OHIF) and this server's own jobs have the case's own."""
        store = datastore or self.datastore()
        asked_by_viewer = bool(caller().address) and not caller().is_browser
        if isinstance(store, PacsDatastore) and asked_by_viewer:
            store = ViewersGrid(store)
        return super().infer(request, store)

    # ---- the server ----

    def on_init_complete(self) -> None:
        """Called by the host when the server is about to take requests."""
        from monailabel.app import app as http  # only exists in the server

        from samstudent.server.api.routes import router
        from samstudent.server.auth import login_routes, roles

        try:
            login = logins.configured(self.app_dir)
        except (UserError, OSError) as error:
            _end_host(error)
            raise
        audit.write_to(self.study.audit)
        http.include_router(router(self))
        http.include_router(login_routes.router(self.name, login))
        request_validation.install(http, self, login)
        threads.install(http, login_routes.instead_of_the_hosts(login))
        roles.raise_roles(http)
        bootstrap.warn_if_open(sys.argv[1:], login is not None)
        if not self.datastore().list_images():
            where = "images appear as soon as they are put there, or uploaded"
            told = f"the study is empty: no image in {self.studies} yet; {where}"
            print(f"samstudent: {told}", file=sys.stderr, flush=True)
        jobs = self.jobs_of_server()
        host_endpoints.install(jobs)
        if isinstance(datastore := self.datastore(), PacsDatastore):
            datastore.exchange.start()
        super().on_init_complete()
        self.scheduler = Scheduler(
            self.task.schedule,
            self.study.ledger,
            self.label_times,
            busy=lambda: jobs.is_busy("train"),
            start=self._start_round,
            poll_seconds=POLL_SECONDS,
        )
        self.scheduler.run()
        Timer(POLL_SECONDS, self._refresh_scores, "scores")
        self._shutdown.ledger = self.study.ledger
        train_endpoints.stop = functools.partial(self._stop_training, train_endpoints.stop)

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """Tells a client, beside that its label is saved, whether the PACS has it yet."""
        datastore = self.datastore()
        if not isinstance(datastore, PacsDatastore) or not datastore.is_labelled(image_id):
            return {}
        datastore.exchange.wait_for(image_id, FINAL, SEND_SECONDS)
        return {"pacs": datastore.label_state(image_id, FINAL)}

    def async_scoring(self, method: str | None, params: dict[str, Any] | None = None) -> Any:
        """Scores are asked for by name, or by the host after every sample and training (method None).

        The latter starts a process each time, though mostly nothing changed: then ``_refresh_scores`` decides. In a
        child it would be an HTTP call back to the server, which fails behind TLS, a login or another address.
        """
        if method is None:
            return self._refresh_scores() if self._server_mode else {}
        return super().async_scoring(method, params)

    def fault_of_student(self) -> str | None:
        """Why the student that is served cannot answer: damaged, or made for another task; None where it can, or where
        none is served yet."""
        task = self._infers["student"]
        return None if self.study.ledger.champion() is None or task.is_valid() else task.fault

    def label_times(self) -> list[float]:
        """When each case's human label was last saved, seconds since 1970."""
        datastore = self.datastore()
        if isinstance(datastore, StudyFolderDatastore):
            return [saved for _, saved in datastore.label_times()]
        ids = datastore.get_labeled_images()
        return [float(datastore.get_label_info(case, FINAL).get("ts", 0)) for case in ids]

    def _start_round(self, reason: str) -> None:
        audit.record("training started", "schedule", model="student", why=reason)
        self.jobs_of_server().start("train", {"model": "student", "reason": reason})

    def jobs_of_server(self) -> JobRunner:
        """Jobs of the server that this process is."""
        assert self.jobs is not None, "only called in the server"
        return self.jobs

    def _stop_training(self, stop: Callable[[], Any]) -> Any:
        """DELETE /train. Who stops a round does not want it started again: it counts as concluded."""
        running = self.study.ledger.running()
        audit.record("training stopped", user_name(), round=running.id if running else None)
        stopped = stop()
        if running and stopped:
            self.study.ledger.update(running.id, status="failed", finished=time.time(), error="stopped on request")
        return stopped

    def _refresh_scores(self) -> dict[str, Any]:
        """Have the tables of active learning filled again when the served student or the set of cases changed."""
        try:
            champion = self.study.ledger.champion()
            present = (champion.id if champion else None, len(self.datastore().list_images()))
            with self._scoring:
                if present == self._scored_for or self.jobs_of_server().is_busy():
                    return {}
                self._scored_for = present
            jobs = self.jobs_of_server()
            return {name: jobs.start("scoring", {"method": name}, enqueue=True) for name in self._scoring_methods}
        except Exception:  # the next look happens all the same
            logger.exception("The scores of active learning could not be refreshed")
            return {}

    def _extend_holdout(self) -> None:
        datastore = self.datastore()
        self.study.holdout.extend(datastore.list_images(), datastore.get_labeled_images())

    def _check_label(self, image_id: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        """Refuse a human's label that could not be trained on later: the annotator is still there to mend it."""
        if tag == FINAL:
            grid = read_image(self.datastore().get_image_uri(image_id), self.task.dimension).grid
            read_masks(file, self.task, grid, names=names_for_reading(file, info))


def _is_server() -> bool:
    """Whether this process is the host's server."""
    return bool(settings.MONAI_LABEL_APP_DIR) and not is_job_process()


def _required_task(conf: dict[str, str]) -> str:
    if "task" not in conf:
        raise UserError(f"add --conf task NAME: one of {', '.join(shipped_tasks())}, or the path of a task file")
    return conf["task"]


def _end_host(error: UserError | OSError) -> None:
    """In a process of the host's, say what is wrong and end; elsewhere (command line, tests) do nothing."""
    if settings.MONAI_LABEL_APP_DIR:
        end_now(2, explain(error))
