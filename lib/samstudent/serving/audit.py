"""Who did what: one line of JSON for every action that changes labels or what is served."""

from __future__ import annotations

import json
import logging
from typing import Any

logger = logging.getLogger("samstudent.audit")


def record(action: str, user: str, **details: Any) -> None:
    """Log an action of a user's, with what it was done to (JSON values)."""
    logger.info(json.dumps({"action": action, "user": user, **details}, default=str))
