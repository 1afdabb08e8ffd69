"""Shares of a machine for worker processes: how many there are, and each one's cores and GPU."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

from samstudent.engine.in_process import InProcess
from samstudent.engine.local_processes import LocalProcesses
from samstudent.engine.protocol import Engine

#: Bytes that a process takes at most, as measured: SAM, a student in training, cases.
_MEMORY = 4 << 30


def engine_for(processes: int | None, log_folder: Path | None = None) -> Engine:
    """Engine of this machine.

    Args:
        processes: number of worker processes; None: ``default_processes``; 0: everything in this process.
        log_folder: for what the worker processes print.
    """
    count = default_processes() if processes is None else processes
    if count == 0:
        return InProcess()
    return LocalProcesses(worker_environments(count), log_folder=log_folder)


def default_processes() -> int:
    """One process a GPU; without any one a core, as far as there is memory: a second core makes the training of a small
    student hardly faster."""
    gpus = torch.cuda.device_count()
    return gpus or max(1, min(os.cpu_count() or 1, psutil.virtual_memory().available // _MEMORY))


def worker_environments(count: int) -> list[dict[str, str]]:
    """Variables of each of ``count`` processes: its share of the cores, its GPU; threads that wait sleep."""
    cores = max(1, (os.cpu_count() or 1) // count)
    threads = min(cores, int(os.environ.get("OMP_NUM_THREADS", cores)))
    shared = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    gpus = torch.cuda.device_count()
    if not gpus:
        return [dict(shared) for _ in range(count)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(gpus)]
    return [shared | {"CUDA_VISIBLE_DEVICES": names[number % gpus]} for number in range(count)]
