"""Reservations of cases: who works on a case keeps it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from samstudent.errors import explain
from samstudent.server.auth.current_user import stamped
from samstudent.server.context import ServerContext

logger = logging.getLogger(__name__)


def note_work(context: ServerContext, image: str, params: Mapping[str, Any]) -> None:
    """Note that the caller works on a case, so that it keeps the reservation when it asks for another.

    Args:
        context: of the server.
        image: id of the case.
        params: of the request; ``client_id`` or ``user`` say who calls, unless somebody is logged in.
    """
    client = stamped(params).get("client_id") or params.get("user")
    try:
        if client:
            context.study.selection.note_work(image, str(client))
    except OSError as error:  # the answer, or the label, matters more
        logger.warning("the reservation of %s may be given up early: %s", image, explain(error))
