"""Errors that are a user's to mend. The command line prints them, the server answers them as 4xx.

Each message names the file, key or value that is wrong and says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """Something the user gave is wrong (HTTP 400)."""

    status = 400


class NotFound(UserError):
    """A case, label, model, round or file that does not exist (HTTP 404)."""

    status = 404


class Conflict(UserError):
    """Right in itself, but not now: a job is running, nothing to train on (HTTP 409)."""

    status = 409


class Unavailable(UserError):
    """Another server that this needs (the PACS) does not answer, or answers what cannot be used (HTTP 503).

    It may be right a minute later: what is asked for was not done, and can be asked for again.
    """

    status = 503


@contextmanager
def named(path: Path, name: str) -> Iterator[None]:
    """Errors of the block say ``name`` instead of ``path``: the server's own name for an upload means nothing to its
    sender."""
    try:
        yield
    except UserError as error:
        put_name(error, path, name)
        raise


def put_name(error: UserError, path: Path, name: str) -> None:
    """Have an error say ``name`` instead of ``path``."""
    both = "|".join(re.escape(text) for text in (str(path), path.name))
    error.args = (re.sub(both, lambda found: name, str(error)), *error.args[1:])
