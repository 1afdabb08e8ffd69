"""Resources of a machine for worker processes: their number, and cores and GPU of each."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

from samstudent.engine.in_process import InProcess
from samstudent.engine.local_processes import LocalProcesses
from samstudent.engine.protocol import Engine

#: Largest measured memory of a process in bytes: SAM, a student in training, cases.
_MEMORY = 4 << 30


def engine_for(processes: int | None, log_folder: Path | None = None) -> Engine:
    """Engine of this machine.

    Args:
        processes: number of worker processes; None: ``default_processes``; 0: everything in this process.
        log_folder: folder for the output of the worker processes.
    """
    count = default_processes() if processes is None else processes
    if count == 0:
        return InProcess()
    return LocalProcesses(worker_environments(count), log_folder=log_folder)


def default_processes() -> int:
    """One process per GPU, without a GPU one per core as far as memory allows: a second core hardly speeds up the
    training of a small student."""
    gpus = torch.cuda.device_count()
    return gpus or max(1, min(os.cpu_count() or 1, psutil.virtual_memory().available // _MEMORY))


def worker_environments(count: int) -> list[dict[str, str]]:
    """Environment variables of each of ``count`` processes: its cores, its GPU; waiting threads sleep."""
    cores = max(1, (os.cpu_count() or 1) // count)
    threads = min(cores, int(os.environ.get("OMP_NUM_THREADS", cores)))
    shared = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    gpus = torch.cuda.device_count()
    if not gpus:
        return [dict(shared) for _ in range(count)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(gpus)]
    return [shared | {"CUDA_VISIBLE_DEVICES": names[number % gpus]} for number in range(count)]
