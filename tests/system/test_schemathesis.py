"""Hundreds of requests generated from the server's OpenAPI description.

Only 503, which is documented (PACS or login do not answer), may be over 499.
"""

from __future__ import annotations

from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings

from support.live_server import RunningServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def operations(server: RunningServer) -> list[Any]:
    # Late: a test process that does not run this file need not import it (2 s of CPU).
    import schemathesis

    description = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    found = [result.ok() for result in description.get_all_operations()]
    assert len(found) > 40
    return found


def broken(operation: Any, server: RunningServer, examples: int) -> str | None:
    """First of the generated requests, the same in every run, that causes a server error."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        response = case.call(timeout=60)
        assert response.status_code < 500 or response.status_code == 503, (
            f"{case.as_curl_command()[:1500]}\n{response.status_code} {response.text[:300]}"
        )

    try:
        ask()
    except AssertionError as error:
        return f"{operation.label}: {error}"
    return None


def try_all(operations: list[Any], server: RunningServer, examples: int) -> None:
    faults = [fault for operation in operations if (fault := broken(operation, server, examples))]
    assert not faults, "\n\n".join(faults)
    assert server.process.poll() is None, server.tail()
    assert requests.get(f"{server.url}/info/", timeout=60).ok


def test_generated_requests_cause_no_server_error(operations: list[Any], server: RunningServer) -> None:
    try_all(operations, server, 8)


@pytest.mark.slow
def test_many_generated_requests_cause_no_server_error(operations: list[Any], server: RunningServer) -> None:
    try_all(operations, server, 300)
