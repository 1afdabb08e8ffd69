"""Parts of one server, as its routers get them."""

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
from samstudent.server.pacs.datastore import SEND_SECONDS, PacsDatastore
from samstudent.server.tasks.student_infer import StudentInferTask
from samstudent.server.upload_sessions import SafeSessions
from samstudent.task import Task


@dataclass(frozen=True)
class Tasks:
    """The host's tasks of one app, each by the name in its address.

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
        name, description: of the app.
        study: paths and state of the study.
        datastore: images and labels.
        tasks: models, trainers, strategies and scoring methods.
        jobs: training, batch inference and scoring in processes of their own.
        scheduler: starts rounds.
        sessions: uploads for one inference; None: switched off.
        inference: threads of inferences.
        turns: limits on requests that may take long, by kind.
        refresh_scores: has the tables of active learning filled again where something changed.
        login: None: there is none, everybody may do everything.
        grants: images that may be read without a token; None: switched off.
        log_file: the server's log.
        devices: names that clients may choose a device by, besides cpu, cuda and cuda:<n>.
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
        """The task file's content."""
        return self.study.task

    def student_fault(self) -> str | None:
        """Why the served student cannot answer: damaged, or made for another task; None where it can, or where none is
        served yet."""
        for model in self.tasks.models.values():
            if isinstance(model, StudentInferTask):
                return None if self.study.ledger.champion() is None or model.is_valid() else model.fault
        return None

    def model(self, name: str) -> InferTask:
        """A model that can answer now.

        Raises:
            NotFound: there is none of this name. Conflict: the student cannot answer; says why.
        """
        model = self.tasks.models.get(name)
        if isinstance(model, StudentInferTask) and (fault := self.student_fault()):
            raise Conflict(fault)
        return known(name, {name: task for name, task in self.tasks.models.items() if task.is_valid()}, "model")

    def image_id(self, image: str) -> str:
        """Id of an image as the study lists it.

        Raises:
            UserError: no id. NotFound: no image of the study. A PACS holds more series than its search filter lists.
        """
        image = check_image_id(image)
        if not isinstance(self.datastore, PacsDatastore) and image not in self.datastore.list_images():
            raise NotFound(f"image {image!r} is not in the study")
        return image

    def wait_for_pacs(self, image: str) -> dict[str, Any]:
        """State of a saved label in the PACS, for the answer to the client; waits a moment for it. {} in a folder."""
        store = self.datastore
        if not isinstance(store, PacsDatastore) or not store.is_labelled(image):
            return {}
        store.exchange.wait_for(image, FINAL, SEND_SECONDS)
        return {"pacs": store.label_state(image, FINAL)}


def known(name: str, there: Mapping[str, Any], what: str) -> Any:
    """What has this name.

    Raises:
        NotFound: nothing has; lists what there is.
    """
    if name not in there:
        raise NotFound(f"there is no {what} {name!r}; there is {', '.join(sorted(there)) or 'none yet'}")
    return there[name]


async def _context(request: Request) -> ServerContext:
    context: ServerContext = request.app.state.context
    return context


#: Parameter of an endpoint.
Context = Annotated[ServerContext, Depends(_context)]
