"""Ways to start a job's process, by what the machine can do."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext

from samstudent.server.jobs import fork_server
from samstudent.server.jobs.job_process import run_job
from samstudent.server.jobs.runner import JobProcess, StartProcess

logger = logging.getLogger(__name__)

#: Imported once by the process that Python's fork server forks jobs from.
PRELOAD = ("__main__", "samstudent.server.app", "monailabel.interfaces.utils.app")


def best_start_method() -> StartProcess:
    """Forks of this process where that is possible, else Python's fork server, else new interpreters.

    To be called in the main thread, before other threads run and files are locked.
    """
    if not fork_server.is_possible():
        return by_context()
    fork, otherwise = fork_server.ForkServer(), by_context()

    def start(messages: Connection, output: Connection) -> JobProcess:
        try:
            return fork(messages, output)
        except OSError as error:
            logger.warning("a job is started by Python's fork server, since ours cannot be used: %s", error)
            return otherwise(messages, output)

    return start


def by_context(preload: Sequence[str] = PRELOAD) -> StartProcess:
    """Processes of Python's own fork server, which never asks for a GPU; new interpreters where it does not exist.

    Args:
        preload: modules that Python's fork server imports when the first job starts.
    """
    # Asked through the driver's library and not through CUDA, which a fork could then not use any more.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    context: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(preload))

    def start(messages: Connection, output: Connection) -> JobProcess:
        process = context.Process(target=run_job, args=(messages, output))
        process.start()
        return process

    return start
