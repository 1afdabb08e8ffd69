from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.imaging.grid import Grid
from samstudent.server.tasks.slice_geometry import MAX_IMAGES, RecentStacks, SliceStack


class Reader:
    """Function that reads slices and counts its calls; stacks of this many bytes."""

    def __init__(self, size: int = 12) -> None:
        self.size, self.read = size, list[str]()
        self.wait = threading.Event()
        self.wait.set()

    def __call__(self, path: str) -> SliceStack:
        self.read.append(Path(path).name)
        self.wait.wait(10)
        if path.endswith("broken"):
            raise UserError("broken")
        return SliceStack(np.zeros((1, 1, self.size // 3, 3), np.uint8), Grid.of((1, self.size // 3), np.eye(4)))


def test_an_image_is_read_again_only_when_its_file_changed(tmp_path: Path) -> None:
    reader = Reader()
    stacks = RecentStacks(reader)
    file = tmp_path / "a"
    file.write_bytes(b"1")
    assert stacks.of(str(file)) is stacks.of(str(file)) and reader.read == ["a"]
    os.utime(file, ns=(1, 1))
    stacks.of(str(file))
    assert reader.read == ["a", "a"]
    with pytest.raises(UserError):
        stacks.of("broken")
    with pytest.raises(UserError):
        stacks.of("broken")
    assert reader.read[2:] == ["broken", "broken"]


def test_least_recently_used_image_is_evicted_first() -> None:
    reader = Reader(30)
    stacks = RecentStacks(reader, max_bytes=64)
    for name in "abab":
        stacks.of(name)
    assert reader.read == ["a", "b"]
    for name in "cab":
        stacks.of(name)
    assert reader.read == ["a", "b", "c", "a", "b"]
    reader = Reader(300)
    stacks = RecentStacks(reader, max_bytes=64)
    for name in "aabba":
        stacks.of(name)
    assert reader.read == ["a", "b", "a"]
    reader = Reader(3)
    stacks = RecentStacks(reader)
    for _ in range(2):
        for number in range(MAX_IMAGES + 1):
            stacks.of(str(number))
    assert len(reader.read) == 2 * (MAX_IMAGES + 1)


def test_concurrent_reads_of_one_image_are_one_read_and_do_not_block_others() -> None:
    reader = Reader()
    reader.wait.clear()
    stacks = RecentStacks(reader)
    threads = [threading.Thread(target=stacks.of, args=(name,)) for name in ("a", "a", "b")]
    for thread in threads:
        thread.start()
    for _ in range(1000):
        if len(reader.read) == 2:
            break
        threading.Event().wait(0.005)
    reader.wait.set()
    for thread in threads:
        thread.join()
    assert sorted(reader.read) == ["a", "b"]
