"""Between the clients and the host's endpoints: wrong requests answer 4xx with a reason.

The host's routes call plain functions of their modules (``endpoints.infer.run_inference`` ...) by name. Those functions
are wrapped, not the routes: so authentication comes first, and every route that ends in the same function is covered.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from fastapi import FastAPI, Request, UploadFile
from fastapi.background import BackgroundTasks
from monailabel.config import settings
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    infer,
    logs,
    ohif,
    proxy,
    scoring,
    session,
    train,
)
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.others.generic import device_map, file_checksum, remove_file
from starlette.background import BackgroundTask

from samstudent.errors import Conflict, NotFound, UserError, explain, named, put_name
from samstudent.imaging.folder import shown
from samstudent.imaging.value_lookup import structures_in
from samstudent.imaging.value_names import KEY
from samstudent.server.api import dicom_answers, disabled_endpoints, exception_handlers
from samstudent.server.api.params import TEXT_KEYS, check_known, check_params, check_upload_tag, json_object
from samstudent.server.auth import audit_lines, download_grants, middleware
from samstudent.server.auth.audit import recorded
from samstudent.server.auth.current_user import caller, stamped, user_name
from samstudent.server.auth.logins import Login
from samstudent.server.datastore.identifiers import check_image_id, check_name
from samstudent.server.ohif.files import ohif_file
from samstudent.server.pacs.datastore import ONLY_FROM_PACS
from samstudent.server.pacs.proxy import forward
from samstudent.server.review_page.service import ACCEPTED_FROM
from samstudent.server.tasks.sam_interactive import SamInteractiveTask
from samstudent.server.tasks.student_infer import StudentInferTask
from samstudent.util.address import is_pacs
from samstudent.util.places import require_readable

logger = logging.getLogger(__name__)

_ORIGINALS: dict[tuple[str, str], Callable[..., Any]] = {}
#: Of the log in one answer, while they are held in memory; 0 asks for the file.
MOST_LINES = 100_000
#: Whose a label is and what it was made of: told when it is saved, and not changed by who adds to its info later.
_SETTLED = frozenset({"user", "client_id", ACCEPTED_FROM, *ONLY_FROM_PACS})


class _NotThisRole(UserError):
    """Another role is needed (HTTP 403)."""

    status = 403


def install(fastapi_app: FastAPI, app: MONAILabelApp, login: Login | None = None) -> None:
    """Put all guards in place. To be called from ``on_init_complete``: in the host's lifespan, before any request."""
    exception_handlers.install(fastapi_app)
    offered = download_grants.configured()
    middleware.install(fastapi_app, login, disabled_endpoints.restrict_origins(fastapi_app), offered)
    disabled_endpoints.close_endpoints()
    disabled_endpoints.bound_requests(fastapi_app)
    _Guards(app, offered).install()
    # The host built its stack before the lifespan began; the next request goes through this one.
    fastapi_app.middleware_stack = fastapi_app.build_middleware_stack()


class _Guards:
    """Wraps the functions behind the host's endpoints, for one app."""

    def __init__(self, app: MONAILabelApp, offered: download_grants.Offers | None = None) -> None:
        self.app, self.offered = app, offered
        self.remote = is_pacs(app.studies)
        self.devices = [*device_map().keys(), *device_map().values()]

    def install(self) -> None:
        _wrap(infer, "run_inference", self.infer)
        _wrap(activelearning, "sample", self.sample)
        _wrap(train, "run", recorded("training started", self.train_all, audit_lines.trainings))
        _wrap(train, "run_model", recorded("training started", self.train, audit_lines.job))
        for jobs in (train, scoring, batch_infer):
            _wrap(jobs, "status", _job_status)
        _wrap(scoring, "run", self.score_all)
        _wrap(scoring, "run_method", self.score)
        _wrap(batch_infer, "run", recorded("batch inference started", self.batch, audit_lines.batch))
        _wrap(datastore, "add_image", recorded("image added", self.add_image, audit_lines.upload))
        _wrap(datastore, "remove_image", recorded("image removed", self.image_call, audit_lines.image))
        _wrap(datastore, "get_image_info", self.image_call)
        _wrap(datastore, "update_image_info", self.update_image_info)
        _wrap(datastore, "download_image", self.download_image)
        _wrap(datastore, "save_label", recorded("label saved", self.save_label, audit_lines.label))
        _wrap(datastore, "remove_label", recorded("label removed", self.label_call, audit_lines.removal))
        _wrap(datastore, "get_label_info", self.label_call)
        _wrap(datastore, "update_label_info", self.update_label_info)
        _wrap(datastore, "download_label", self.download_label)
        _wrap(datastore, "download_dataset", self.dataset)
        _wrap(session, "create_session", self.create_session)
        _wrap(session, "get_session", self.own_session)
        _wrap(session, "remove_session", self.own_session)
        _wrap(proxy, "proxy_dicom", self.proxy)
        _wrap(ohif, "get_ohif", self.ohif)
        _wrap(logs, "get_logs", _last_lines)

    # running

    def infer(
        self,
        original: Callable[..., Any],
        tasks: BackgroundTasks,
        name: str,
        image: str,
        session_id: str,
        params: str,
        file: UploadFile | None,
        label: UploadFile | None,
        output: str | None,
    ) -> Any:
        self.model(name)
        given = json_object(params, "params")
        check_params(given, self.devices, name)
        if given.get("save_label"):
            _require_annotator()
            if image and not (session_id or file):  # of other images the host keeps nothing
                original = recorded("label saved", original, _kept_answer)
        if not (image or session_id or file):
            raise UserError("nothing to work on: give image (an id), session_id, or upload a file")
        if image:
            # Slicer names the volume that the session is about; it need not be in the study, and the host ignores it.
            image = check_image_id(image) if session_id else self.image(image)
        if session_id:
            original = _naming_session(original, self.check_session(session_id))
        names = [self.rename(upload) for upload in (file, label) if upload is not None]
        if output == "dicom_seg":
            source = dicom_answers.require_dicom(self.app, image)
            params = json.dumps({**given, "result_extension": ".seg.nrrd"})
            drawn = _cleaning_up(tasks, names, original, name, image, session_id, params, file, label, "image")
            answer = dicom_answers.as_seg(self.app, tasks, name, source, Path(drawn.path))
        else:
            answer = _cleaning_up(tasks, names, original, name, image, session_id, params, file, label, output)
        # Any other answer is a look at the case; viewers ask for one by themselves when they open it.
        if image and isinstance(self.app._infers[name], SamInteractiveTask):
            self.note_work(image, given)
        if image and (note := getattr(self.app.datastore(), "note_assistance", None)):
            note(image, name)
        return answer

    def model(self, name: str) -> None:
        """Refuse a model that is not there, or cannot answer now; says why."""
        if isinstance(self.app._infers.get(name), StudentInferTask) and (fault := self.app.fault_of_student()):
            raise Conflict(fault)
        check_known(name, [k for k, task in self.app._infers.items() if task.is_valid()], "model")

    def sample(self, original: Callable[..., Any], strategy: str, params: dict[str, Any] | None, *rest: Any) -> Any:
        check_known(strategy, self.app._strategies, "strategy")
        check_params(params or {}, self.devices)
        offer = original(strategy, stamped(params or {}), *rest)
        if not offer.get("id"):  # the host's own answer says nothing at all
            why = getattr(self.app._strategies[strategy], "why_none", None)
            return {"reason": why(self.app.datastore())} if why else {}
        if self.offered is not None:
            self.offered.add(offer["id"])
        return offer

    def train_all(self, original: Callable[..., Any], params: dict[str, Any] | None, *rest: Any) -> Any:
        self.by_name(params, self.app._trainers, "trainer")
        refusals = []
        for name, task in self.app._trainers.items():
            try:
                if plan := getattr(task, "plan", None):
                    plan((params or {}).get(name) or {}, self.app.datastore())
            except UserError as error:  # one may not have enough to learn from where another has
                refusals.append(error)
        if refusals and len(refusals) == len(self.app._trainers):
            raise refusals[0]
        return original(params, *rest)

    def score_all(self, original: Callable[..., Any], params: dict[str, Any] | None, *rest: Any) -> Any:
        self.by_name(params, self.app._scoring_methods, "scoring method")
        return original(params, *rest)

    def by_name(self, params: dict[str, Any] | None, known: Collection[str], what: str) -> None:
        """Check a body that holds parameters for several, each under its name."""
        for key, value in (params or {}).items():
            if isinstance(value, dict) and key not in TEXT_KEYS:
                check_known(key, known, what)
                check_params(value, self.devices, key)
            else:
                check_params({key: value}, self.devices, key)

    def train(self, original: Callable[..., Any], name: str, params: dict[str, Any] | None, *rest: Any) -> Any:
        check_known(name, self.app._trainers, "trainer")
        check_params(params or {}, self.devices, name)
        if plan := getattr(self.app._trainers[name], "plan", None):
            plan(params or {}, self.app.datastore())
        return original(name, params, *rest)

    def score(self, original: Callable[..., Any], method: str, params: dict[str, Any] | None, *rest: Any) -> Any:
        check_known(method, self.app._scoring_methods, "scoring method")
        check_params(params or {}, self.devices)
        return original(method, params, *rest)

    def batch(
        self, original: Callable[..., Any], name: str, images: Any, params: dict[str, Any] | None, *rest: Any
    ) -> Any:
        self.model(name)
        check_params(params or {}, self.devices, name)
        chosen = (params or {}).get("images")
        if isinstance(chosen, list):
            params = {**(params or {}), "images": [self.image(case) for case in chosen]}
        return original(name, images, params, *rest)

    # the datastore

    def image(self, case: str) -> str:
        """The id as the study lists it, if there is such an image. A PACS holds more series than its search filter
        lists."""
        case = check_image_id(case)
        if not self.remote and case not in self.app.datastore().list_images():
            raise NotFound(f"image {case!r} is not in the study")
        return case

    def add_image(
        self, original: Callable[..., Any], tasks: BackgroundTasks, image: str | None, params: str, file: UploadFile,
        *rest: Any,
    ) -> Any:  # fmt: skip
        json_object(params, "params")
        # The host takes everything from the first dot for the extension: "1.2.840.55.png" would become image "1".
        image = check_image_id(image or self.split(os.path.basename(file.filename or ""))[0])
        return _cleaning_up(tasks, [self.rename(file)], original, image, params, file, *rest)

    def image_call(self, original: Callable[..., Any], image: str, *rest: Any) -> Any:
        return original(self.image(image), *rest)

    def update_image_info(self, original: Callable[..., Any], image: str, info: str, *rest: Any) -> Any:
        json_object(info, "info")
        return original(self.image(image), info or "{}", *rest)

    def download_image(self, original: Callable[..., Any], image: str, *rest: Any, **options: Any) -> Any:
        # The host compares a digest without its "SHA256:" to one that has it, so that no image ever fits.
        if check_sum := options.pop("check_sum", None):
            algorithm, _, digest = check_sum.rpartition(":")
            check_known(algorithm or "SHA256", ("SHA256", "SHA512", "MD5"), "checksum")
            uri = str(self.file_of(self.image(image)))
            if file_checksum(uri, algorithm or "SHA256").rpartition(":")[2] != digest.lower():
                raise NotFound(f"image {image!r} has another checksum")
        require_readable(self.file_of(self.image(image)))
        if hasattr(self.app.datastore(), "viewer_file"):
            return dicom_answers.download(self.file_of, self.image(image), bool(options.get("check_only")))
        return original(self.image(image), *rest, **options)

    def file_of(self, image: str) -> Path:
        """The one file that a client gets for an image."""
        store = self.app.datastore()
        return Path(store.viewer_file(image) if hasattr(store, "viewer_file") else store.get_image_uri(image))

    def save_label(
        self, original: Callable[..., Any], tasks: BackgroundTasks, image: str, params: str, tag: str,
        label: UploadFile, *rest: Any,
    ) -> Any:  # fmt: skip
        params = json.dumps(_without(stamped(json_object(params, "params")), {ACCEPTED_FROM}))
        check_upload_tag(tag or "final")
        image = self.image(image)
        self.note_work(image, json.loads(params))
        answer = _cleaning_up(tasks, [self.rename(label)], original, image, params, tag, label, *rest)
        return {**answer, **self.understood(image, tag or "final")}

    def note_work(self, image: str, params: Mapping[str, Any]) -> None:
        """The caller works on a case, so it keeps the reservation when it asks for another."""
        client, study = stamped(params).get("client_id") or params.get("user"), getattr(self.app, "study", None)
        try:
            if client and study:
                study.selection.note_work(image, str(client))
        except OSError as error:  # the answer, or the label, matters more
            logger.warning("the reservation of %s may be given up early: %s", image, explain(error))

    def label_call(self, original: Callable[..., Any], label: str, tag: str, *rest: Any, **options: Any) -> Any:
        check_name(tag, "tag")
        label = self.image(label)
        if not self.app.datastore().get_label_by_image_id(label, tag):
            raise NotFound(f"image {label!r} has no label {tag!r}")
        require_readable(Path(self.app.datastore().get_label_uri(label, tag)))
        return original(label, tag, *rest, **options)

    def download_label(self, original: Callable[..., Any], label: str, tag: str, *rest: Any, **options: Any) -> Any:
        store = self.app.datastore()
        if hasattr(store, "viewer_label") and not caller().is_browser and not options.get("check_only"):
            self.label_call(lambda *_, **__: None, label, tag)
            if file := store.viewer_label(label, tag):
                return dicom_answers.download(lambda _: file, label, check_only=False)
        return self.label_call(original, label, tag, *rest, **options)

    def update_label_info(self, original: Callable[..., Any], label: str, tag: str, info: str, *rest: Any) -> Any:
        check_upload_tag(tag)
        given = _without(json_object(info, "info"), _SETTLED)
        call = self.label_call
        if "label_info" in given:  # says what the label's values mean
            call = recorded("label changed", call, audit_lines.removal)
        # Without the host's last argument, the user: it would make the label his.
        answer = call(original, label, tag, json.dumps(given))
        return {**(answer or {}), **self.understood(label, tag)} if "label_info" in given else answer

    def understood(self, case: str, tag: str) -> dict[str, Any]:
        """For the answer to a client: the structures that its label was understood to show, and names left out."""
        store = self.app.datastore()
        info = store.get_label_info(case, tag)
        if KEY not in info:
            return {}
        structures, left_out = structures_in(Path(store.get_label_uri(case, tag)), info, self.app.task)
        return {"structures": structures, "left_out": left_out}

    def dataset(self, original: Callable[..., Any], limit_cases: int | None) -> Any:
        if limit_cases is not None and limit_cases < 1:
            raise UserError(f"limit_cases must be at least 1, not {limit_cases}")
        response = original(limit_cases)
        response.background = BackgroundTask(remove_file, response.path)  # the host leaves every archive in /tmp
        return response

    # uploads and the rest

    def split(self, name: str) -> tuple[str, str]:
        """A file name as (stem, extension that the study knows, else the last one)."""
        to_id = getattr(self.app.datastore(), "_to_id", None)
        stem, ext = to_id(name) if to_id else (name, "")
        return (stem, ext) if ext else (PurePosixPath(name).stem, PurePosixPath(name).suffix)

    def rename(self, upload: UploadFile) -> str:
        """Leave of an uploaded file's name only its extension: the host puts the rest into a path. Returns the name for
        messages."""
        name = os.path.basename(upload.filename or "")
        if name:
            ext = self.split(name)[1]
            if len(ext) > 12 or not ext.replace(".", "").isalnum():
                ext = ""
            upload.filename = f"upload{ext}"
        return shown(name) or "the uploaded file"

    def create_session(
        self, original: Callable[..., Any], tasks: BackgroundTasks, uncompress: bool, expiry: int,
        files: list[UploadFile],
    ) -> Any:  # fmt: skip
        self.app.sessions().check_expiry(expiry)
        names = [file.filename or "" for file in files]
        for name in names:
            check_image_id(name)
        if len(set(names)) < len(names) or "meta.info" in names:
            raise UserError("files of one session need names of their own, other than meta.info")
        answer = _cleaning_up(tasks, [], original, uncompress, expiry, files)
        self.app.sessions().belongs_to(answer["session_id"], user_name())
        return answer

    def own_session(self, original: Callable[..., Any], session_id: str, *rest: Any, **options: Any) -> Any:
        self.check_session(session_id)
        return original(session_id, *rest, **options)

    def check_session(self, session_id: str) -> Path:
        """The file or folder of a session. Refuses what is no session, has expired, or is another user's upload."""
        sessions, user = self.app.sessions(), caller().user
        info = sessions.get_session(session_id, update_ts=False) if sessions is not None else None
        admin = user is None or settings.MONAI_LABEL_AUTH_ROLE_ADMIN in user.roles
        if info is None or (user and not admin and user.username != info.meta.get("user")):
            raise NotFound(f"session {session_id!r}: no such session, or it has expired")
        return Path(info.image)

    async def proxy(self, original: Callable[..., Any], request: Request, op: str, path: str) -> Any:
        if not self.remote:
            raise NotFound("this study is a folder, not a DICOMweb server; there is nothing to be a proxy for")
        if ".." in path.split("/"):
            raise UserError("path: must not lead upwards")
        return forward(request, await request.body(), op, path)

    def ohif(self, original: Callable[..., Any], path: str) -> Any:
        return ohif_file(path)


def _wrap(module: ModuleType, name: str, guard: Callable[..., Any]) -> None:
    """Replace a function of the host by a guard that is given it first; a second time replaces the first guard."""
    original = _ORIGINALS.setdefault((module.__name__, name), getattr(module, name))
    setattr(module, name, functools.partial(guard, original))


def _without(info: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in keys}


def _require_annotator() -> None:
    """Inferring is everybody's; whoever has the answer kept as a label needs the role that saves labels."""
    user, role = caller().user, settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR
    if user is not None and role not in user.roles:
        raise _NotThisRole(f"params: 'save_label': role \"{role}\" is required to save labels")


def _kept_answer(
    tasks: BackgroundTasks, model: str, image: str, session_id: str, params: str, *rest: Any
) -> audit_lines.Told:
    """For the audit, of what the host's ``run_inference`` is given."""
    user = user_name(json_object(params, "params").get("client_id"))
    return user, {"case": image, "tag": "original", "model": model}


def _last_lines(original: Callable[..., Any], file: str, lines: int, html: bool, text: bool, refresh: int) -> Any:
    """The log as plain text: the host's page of it draws itself with scripts of two other sites."""
    return original(file, min(lines, MOST_LINES), False, True, 0)


def _job_status(original: Callable[..., Any], *args: Any) -> Any:
    """A job may end while the host looks it up."""
    try:
        return original(*args)
    except (StopIteration, IndexError):
        raise NotFound("no such job is running at the moment") from None


def _naming_session(original: Callable[..., Any], image: Path) -> Callable[..., Any]:
    """``original``, whose errors name the session's file as its client did, not where it lies on this server."""

    def call(*arguments: Any) -> Any:
        with named(image, f"the session's {shown(image.name)}"):
            return original(*arguments)

    return call


def _cleaning_up(tasks: BackgroundTasks, names: Sequence[str], original: Callable[..., Any], *arguments: Any) -> Any:
    """Call an endpoint's function; where it fails, remove the uploads that the host removes only after success, and let
    the error say their names: ``names``, in the order in which the host takes them."""
    try:
        return original(tasks, *arguments)
    except BaseException as error:
        paths = [str(task.args[0]) for task in tasks.tasks if task.func == remove_file]
        if isinstance(error, UserError):
            for path, name in zip(paths, names, strict=False):
                put_name(error, Path(path), name)
        for path in paths:
            remove_file(path)
        raise
