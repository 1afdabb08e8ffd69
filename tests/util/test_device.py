from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from samstudent.util.device import on_all_cores


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_parallel_parts_share_the_threads_and_keep_their_order() -> None:
    meeting = threading.Barrier(3, timeout=30)  # passed only if three work at once

    def work(part: int) -> tuple[int, int]:
        meeting.wait()
        return part, torch.get_num_threads()

    assert on_all_cores(work, range(6)) == [(part, 1) for part in range(6)]
    assert torch.get_num_threads() == 3
    started: list[int] = []
    thread = threading.Thread(target=lambda: started.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert started == [3]


@pytest.mark.usefixtures("three_threads")
def test_error_in_a_part_is_raised() -> None:
    def work(part: int) -> float:
        return 1 / part

    with pytest.raises(ZeroDivisionError):
        on_all_cores(work, [1, 0, 2])
    assert torch.get_num_threads() == 3


def test_one_part_or_one_core_needs_no_thread() -> None:
    def here(part: int) -> bool:
        return threading.current_thread() is threading.main_thread()

    assert on_all_cores(here, [1]) == [True]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert on_all_cores(here, [1, 2]) == [True, True]
    finally:
        torch.set_num_threads(before)
    assert on_all_cores(here, []) == []
