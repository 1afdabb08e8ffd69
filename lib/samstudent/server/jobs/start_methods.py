"""Start methods of job processes, depending on the machine."""

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

#: Modules that Python's fork server imports before it forks.
PRELOAD = ("__main__", "samstudent.server.app", "monailabel.interfaces.utils.app")
#: Modules that our fork server imports before the first training: torch's compiler, which every optimizer imports, and
#: networks of SAM. 2 s of CPU, and so long each job would import them.
PRELOAD_FOR_TRAINING = ("torch._dynamo", "timm.models")


def best_start_method() -> StartProcess:
    """Our fork server if possible, else Python's fork server, else new interpreters.

    Call it in the main thread, before other threads run and files are locked.
    """
    if not fork_server.is_possible():
        return by_context()
    fork, otherwise = fork_server.ForkServer(PRELOAD_FOR_TRAINING), by_context()

    def start(kind: str, messages: Connection, output: Connection) -> JobProcess:
        try:
            return fork(kind, messages, output)
        except OSError as error:
            logger.warning("the fork server failed; the job is started by Python's fork server: %s", error)
            return otherwise(kind, messages, output)

    return start


def by_context(preload: Sequence[str] = PRELOAD) -> StartProcess:
    """Python's fork server, which does not initialise CUDA; new interpreters on systems without it.

    Args:
        preload: modules that Python's fork server imports at the start of the first job.
    """
    # PyTorch looks for GPUs by NVML, not by CUDA, which could not be used in a fork afterwards.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    context: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(preload))

    def start(kind: str, messages: Connection, output: Connection) -> JobProcess:
        process = context.Process(target=run_job, args=(messages, output))
        process.start()
        return process

    return start
