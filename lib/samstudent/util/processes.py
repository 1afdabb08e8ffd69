"""Process and all that it has started."""

from __future__ import annotations

import psutil


def process_family(pid: int) -> list[psutil.Process]:
    """The process, first, and all that it has started, also by others; [] where it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []
