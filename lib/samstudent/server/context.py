"""Parts of one server, as dependency of its endpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from samstudent.errors import Conflict, NotFound
from samstudent.imaging.label_tags import FINAL
from samstudent.rounds.schedule import Scheduler
from samstudent.rounds.study import Study
from samstudent.server.auth.download_grants import DownloadGrants
from samstudent.server.auth.logins import Login
from samstudent.server.concurrency import InferencePool, Turns
from samstudent.server.datastore.identifiers import check_image_id
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.jobs.runner import JobRunner
from samstudent.server.label_reviews import LabelReviews
from samstudent.server.pacs.datastore import SEND_SECONDS, PacsDatastore
from samstudent.server.tasks.student_infer import StudentInferTask
from samstudent.server.upload_sessions import SafeSessions
from samstudent.task import Task


@dataclass(frozen=True)
class Tasks:
    """Tasks of one app, by the name in their address.

    Attributes:
        models: infer tasks.
        trainers: training tasks.
        strategies: active-learning strategies.
        scoring: scoring methods of active learning.
    """

    models: Mapping[str, InferTask]
    trainers: Mapping[str, TrainTask]
    strategies: Mapping[str, Strategy]
    scoring: Mapping[str, ScoringMethod]


@dataclass(frozen=True)
class ServerContext:
    """Parts of one server.

    Attributes:
        name, description: name and description of the app.
        study: paths and state of the study.
        datastore: images and labels.
        tasks: models, trainers, strategies and scoring methods.
        jobs: runner of trainings, batch inferences and scorings in job processes.
        scheduler: start of rounds by time and number of labels.
        sessions: uploads for inference; None: disabled.
        inference: thread pool for inferences.
        turns: limits on concurrent requests by kind.
        refresh_scores: starts the scoring methods if their scores are out of date.
        login: login of users; None: no login, every request has all roles.
        grants: images that may be read without a token; None: disabled.
        log_file: log of the server.
        devices: names of devices in requests, besides cpu, cuda and cuda:<n>.
    """

    name: str
    description: str
    study: Study
    datastore: StudyFolderDatastore
    tasks: Tasks
    jobs: JobRunner
    scheduler: Scheduler
    sessions: SafeSessions | None
    inference: InferencePool
    turns: Mapping[str, Turns]
    refresh_scores: Callable[[], object]
    login: Login | None
    grants: DownloadGrants | None
    log_file: Path
    devices: tuple[str, ...]

    @property
    def task(self) -> Task:
        """Content of the task file."""
        return self.study.task

    @property
    def label_reviews(self) -> LabelReviews:
        """Reviews of the study's human labels."""
        return LabelReviews(self.study, self.datastore)

    def student_fault(self) -> str | None:
        """Reason that the served student is unusable (damaged, or trained for another task).

        None if it is usable, or if no student is served yet.
        """
        for model in self.tasks.models.values():
            if isinstance(model, StudentInferTask):
                return None if self.study.ledger.champion() is None or model.is_valid() else model.fault
        return None

    def model(self, name: str) -> InferTask:
        """Model of a name.

        Raises:
            NotFound: no such model, or it is not available yet. Conflict: the student is unusable.
        """
        model = self.tasks.models.get(name)
        if isinstance(model, StudentInferTask) and (fault := self.student_fault()):
            raise Conflict(fault)
        return require_known(name, {name: task for name, task in self.tasks.models.items() if task.is_valid()}, "model")

    def image_id(self, image: str) -> str:
        """Validated id of an image; with a PACS also of series outside of its search filter.

        Raises:
            UserError: invalid id. NotFound: no image of the study.
        """
        image = check_image_id(image)
        if not isinstance(self.datastore, PacsDatastore) and image not in self.datastore.list_images():
            raise NotFound(f"image {image!r} is not in the study")
        return image

    def wait_for_pacs(self, image: str) -> dict[str, Any]:
        """State of a saved label in the PACS, after a wait for its transfer; {} if the study is a folder."""
        store = self.datastore
        if not isinstance(store, PacsDatastore) or not store.is_labelled(image):
            return {}
        store.exchange.wait_for(image, FINAL, SEND_SECONDS)
        return {"pacs": store.label_state(image, FINAL)}


def require_known(name: str, available: Mapping[str, Any], kind: str) -> Any:
    """Value of a name.

    Args:
        name: name in the request.
        available: values by name.
        kind: kind of the values, for the message.

    Raises:
        NotFound: unknown name; the message lists the available ones.
    """
    if name not in available:
        raise NotFound(f"there is no {kind} {name!r}; available: {', '.join(sorted(available)) or 'none'}")
    return available[name]


async def _context(request: Request) -> ServerContext:
    context: ServerContext = request.app.state.context
    return context


#: Type of an endpoint's parameter.
Context = Annotated[ServerContext, Depends(_context)]
