"""Division of cores, memory and GPUs among processes."""

from __future__ import annotations

import os
from types import SimpleNamespace

import psutil
import pytest
import torch

from samstudent.engine.in_process import InProcess
from samstudent.engine.resources import default_processes, engine_for, worker_environments


@pytest.mark.parametrize(("cores", "gigabytes", "expected"), [(1, 64, 1), (4, 64, 4), (4, 9, 2), (64, 1, 1)])
def test_without_a_gpu_processes_are_limited_by_cores_and_memory(
    cores: int, gigabytes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=gigabytes << 30))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert default_processes() == expected
    environments = worker_environments(expected)
    assert len(environments) == expected
    assert all(int(environment["OMP_NUM_THREADS"]) == max(1, cores // expected) for environment in environments)


def test_limit_on_threads_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert worker_environments(2)[0]["OMP_NUM_THREADS"] == "3"


def test_each_process_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert default_processes() == 2
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in worker_environments(3)] == ["4", "7", "4"]


def test_zero_processes_selects_the_serial_engine() -> None:
    assert isinstance(engine_for(0), InProcess)
    with engine_for(2) as engine:
        assert engine.workers == 2
