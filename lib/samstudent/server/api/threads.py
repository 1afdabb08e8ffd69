"""Where requests are worked on: in threads, each kind of work in a pool of its own, so that none waits for another.

The host's endpoints are coroutines that call plain functions, so the one event loop of the server waits for each of
them: ``/info`` took 18 s behind a running job. Here the coroutine of an endpoint is run to its end in a thread; it can
be, because it waits for nothing by itself. What FastAPI built of an endpoint (parameters, authentication, OpenAPI)
stays as it is; only what it calls in the end is exchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio.to_thread
import torch
from anyio import CapacityLimiter
from fastapi import FastAPI, Request, Response, routing
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    infer,
    login,
    proxy,
    scoring,
    session,
    train,
    wsi_infer,
)

from samstudent.errors import UserError
from samstudent.util.address import is_pacs

#: More inferences at once only share the cores, and each holds its image.
MOST_INFERENCES = 4
#: Inferences that may wait for their turn; who comes after them is told to come again.
MOST_WAITING = 32
#: Inferences yield to the threads that answer /info; jobs yield to both (``jobs.job_process``).
INFERENCE_NICENESS = 5

Answer = Callable[[], Any]


class Busy(UserError):
    """Too many wait already (HTTP 503, with Retry-After)."""

    status = 503
    #: Seconds.
    retry_after = 5


class Pool:
    """Threads for calls of one kind; whoever finds all in use waits for his turn.

    Args:
        size: calls at once.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._limiter: CapacityLimiter | None = None

    async def run(self, call: Answer) -> Any:
        if self._limiter is None:  # it belongs to the event loop that it is made in
            self._limiter = CapacityLimiter(self.size)
        return await anyio.to_thread.run_sync(call, limiter=self._limiter)


class InferencePool:
    """Threads of low priority for inferences, sharing the cores; with a bound on how many wait.

    Args:
        size: inferences at once.
        waiting: how many more may wait.
    """

    def __init__(self, size: int, waiting: int = MOST_WAITING) -> None:
        self.size, self.waiting = size, waiting
        self._threads = ThreadPoolExecutor(size, "inference", initializer=_yield_to_others)
        self._cores = torch.get_num_threads()
        self._taken = 0  # only changed in the event loop
        self._running = 0
        self._lock = threading.Lock()

    async def run(self, call: Answer) -> Any:
        """The call's answer.

        Raises:
            Busy: too many wait.
        """
        if self._taken >= self.size + self.waiting:
            raise Busy(f"{self._taken} inferences run or wait already; try again in some seconds")
        self._taken += 1
        try:
            context = contextvars.copy_context()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, context.run, self._work, call)
        finally:
            self._taken -= 1

    def _work(self, call: Answer) -> Any:
        with self._lock:
            self._running += 1
            share = max(1, self._cores // self._running)
        # OpenMP keeps a team of threads for each thread that calls it: unshared, four inferences on two cores are eight
        # threads that wait for each other (docs/decisions/0006-waiting-threads-sleep.md).
        torch.set_num_threads(share)
        try:
            return call()
        finally:
            with self._lock:
                self._running -= 1


def inferences_at_once() -> int:
    """As many as the host's MONAI_LABEL_INFER_CONCURRENCY says, else one for each GPU, else one for each core."""
    if settings.MONAI_LABEL_INFER_CONCURRENCY > 0:
        return settings.MONAI_LABEL_INFER_CONCURRENCY
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_INFERENCES, cores)


def _yield_to_others() -> None:
    """Lower the calling thread's priority; Linux has one for each thread."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), INFERENCE_NICENESS)


class Pools:
    """The server's pools, and which endpoint of the host belongs to which."""

    def __init__(self) -> None:
        self.inference = InferencePool(inferences_at_once())
        #: What only reads, and is answered in milliseconds.
        self.reading = Pool(32)
        #: Active learning: reads, reserves, and writes one line.
        self.sampling = Pool(8)
        #: What changes the study's list: each waits for the one before it anyway.
        self.writing = Pool(8)
        #: What may take minutes: archives, and whoever waits for a job's end.
        self.long = Pool(8)
        #: What hashes passwords, or waits for an OpenID provider.
        self.logins = Pool(4)
        #: What waits for a PACS.
        self.proxy = Pool(16)
        self._by_endpoint: dict[Callable[..., Any], Pool | InferencePool] = {
            infer.api_run_inference: self.inference,
            wsi_infer.api_run_wsi_inference: self.inference,
            wsi_infer.api_run_wsi_v2_inference: self.inference,
            activelearning.api_sample: self.sampling,
            datastore.api_download_dataset: self.long,
            session.api_create_session: self.long,
            login.access_token: self.logins,
            **dict.fromkeys([train.api_run, train.api_run_model, batch_infer.api_run], self.long),
            **dict.fromkeys([scoring.api_run, scoring.api_run_method], self.long),
            **dict.fromkeys([proxy.proxy, proxy.proxy_qido, proxy.proxy_stow, proxy.proxy_wado], self.proxy),
            **dict.fromkeys([datastore.api_add_image, datastore.api_remove_image], self.writing),
            **dict.fromkeys([datastore.api_save_label, datastore.api_remove_label], self.writing),
            **dict.fromkeys([datastore.api_put_image_info, datastore.api_put_label_info], self.writing),
            datastore.api_update_label_info: self.writing,
        }

    def of(self, endpoint: Callable[..., Any]) -> Pool | InferencePool:
        return self._by_endpoint.get(endpoint, self.reading)


def install(fastapi_app: FastAPI, instead: Mapping[Callable[..., Any], Callable[..., Any]] | None = None) -> Pools:
    """Have the host's endpoints run in threads. Idempotent.

    Args:
        fastapi_app: the host's.
        instead: plain functions that take the place of endpoints of the host, with the same parameters.
    """
    pools = Pools()
    for route in api_routes(fastapi_app):
        endpoint = getattr(route.endpoint, "_of_host", route.endpoint)
        if not endpoint.__module__.startswith("monailabel.endpoints."):
            continue
        function = (instead or {}).get(endpoint) or functools.partial(_finish, endpoint)
        offloaded = _offloaded(endpoint, function, pools.of(endpoint))
        # FastAPI builds a route again for each router that it is included in; both are to call the same.
        original = getattr(route, "original_route", route)
        for built in (route, original):
            built.dependant.call = offloaded
        original.endpoint = offloaded
    return pools


def api_routes(fastapi_app: FastAPI) -> Iterator[Any]:
    """All routes that FastAPI built of functions, those of included routers too."""
    every = getattr(routing, "iter_route_contexts", iter)  # earlier FastAPI copies included routes
    for route in every(fastapi_app.routes):
        if isinstance(getattr(route, "original_route", route), routing.APIRoute):
            yield route


def _offloaded(
    endpoint: Callable[..., Any], function: Callable[..., Any], pool: Pool | InferencePool
) -> Callable[..., Any]:
    @functools.wraps(endpoint)
    async def call(**values: Any) -> Any:
        for value in values.values():
            # Only the proxy takes one. While the study is a folder it refuses (guards.py): nothing is read for that.
            if isinstance(value, Request) and is_pacs(settings.MONAI_LABEL_STUDIES):
                await value.body()  # kept in the request: the thread finds it there, and waits for nothing
        return await pool.run(functools.partial(_rendered, function, values))

    call._of_host = endpoint  # type: ignore[attr-defined]
    return call


def _rendered(function: Callable[..., Any], values: dict[str, Any]) -> Response:
    """The answer as bytes: in the event loop, a list of 10,000 images would hold up everybody for a second."""
    answer = function(**values)
    return answer if isinstance(answer, Response) else JSONResponse(jsonable_encoder(answer))


def _finish(endpoint: Callable[..., Any], **values: Any) -> Any:
    """Run a coroutine that waits for nothing to its end, without an event loop."""
    coroutine = endpoint(**values)
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError(f"{endpoint.__module__}.{endpoint.__name__} waits for something, so it cannot run in a thread")
