"""Device and precision of computations, and threads on a CPU's cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from samstudent.errors import UserError

#: Largest number of threads: more would wait for memory bandwidth, and each needs its own memory.
_MOST_THREADS = 8

Part = TypeVar("Part")
Result = TypeVar("Result")


def pick_device(name: str | None = None) -> torch.device:
    """The named device ("cpu", "cuda", "cuda:1"), or the best one of this machine.

    Raises:
        UserError: no such device on this machine.
    """
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r}: use cpu, cuda or cuda:<number>") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r}: use cpu, cuda or cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def half_precision(device: torch.device) -> torch.dtype | None:
    """Reduced precision that is faster than float32 on this device; None: there is none.

    bfloat16 on a CPU only with AMX or AVX512-BF16: elsewhere it is emulated and slower. float16 on a GPU without
    bfloat16; training then needs a gradient scaler.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # Older versions of torch do not report it; float32 works everywhere.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else None


def autocast(device: torch.device) -> torch.autocast:
    """Context in which convolutions run in ``half_precision(device)``, or in float32."""
    dtype = half_precision(device)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def on_all_cores(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """``work`` on each part, in order, in threads of one core each.

    For many small calculations, which a second core hardly speeds up. There are as many threads as torch has in the
    calling thread, so that a limit of its cores is kept. With a GPU, which would have to hold all parts at once, there
    is no second thread.
    """
    share = torch.get_num_threads()
    threads = min(share, len(parts), _MOST_THREADS)
    if threads < 2 or torch.cuda.is_available():
        return [work(part) for part in parts]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, parts))
    finally:
        torch.set_num_threads(share)  # a new thread would start with the value that the pool's threads set
