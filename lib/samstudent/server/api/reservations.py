"""Extension of reservations: a client that works on a case keeps its reservation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from samstudent.errors import explain
from samstudent.server.auth.current_user import stamped
from samstudent.server.context import ServerContext

logger = logging.getLogger(__name__)


def note_work(context: ServerContext, image: str, params: Mapping[str, Any]) -> None:
    """Record that the client works on a case: its next request for a sample does not release the reservation.

    Args:
        context: parts of the server.
        image: id of the case.
        params: parameters of the request; without a login, ``client_id`` or ``user`` is the name of the client.
    """
    client = stamped(params).get("client_id") or params.get("user")
    try:
        if client:
            context.study.selection.note_work(image, str(client))
    except OSError as error:  # not a reason to fail the request
        logger.warning("the reservation of case %s could not be extended: %s", image, explain(error))
