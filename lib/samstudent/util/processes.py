"""A process and those that it started."""

from __future__ import annotations

import psutil


def process_family(pid: int) -> list[psutil.Process]:
    """The process, first, and those that it started directly or indirectly; [] if it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []
