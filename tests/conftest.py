"""Fixtures and settings of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from samstudent.server import deferred_imports

# As in the server: MONAI and torch without the libraries that nothing here uses. Saves 6 s of CPU a test process.
deferred_imports.install()

# A busy machine must not fail a test: only what comes out counts, not how long a drawn case took.
settings.register_profile("samstudent", deadline=None)
settings.load_profile("samstudent")


#: Files and folders in the order of their start. What starts servers or trains takes longest and comes first: else one
#: process ends with such a file, while the other has nothing left to do. OHIF's is the longest that needs no embeddings
#: of films: one process makes them while the other runs it.
FIRST = ("test_ohif.py", "system", "server", "student", "rounds", "research", "test_examples.py", "test_packaging.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by ``FIRST``."""

    def rank(item: pytest.Item) -> int:
        return min((FIRST.index(part) for part in item.path.parts if part in FIRST), default=len(FIRST))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images beside the project; without it, the test is skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real images are not here: {folder}")
    return folder


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Folder of small inputs of issue 18; without it, the test is skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip(f"the issue's inputs are not here: {folder}")
    return folder
