"""What the audit says about calls of the host: user and details, of the arguments that the guards take.

Each function takes what the guard of the same call in ``server/api/request_validation.py`` takes, the host's own
function first.
"""

from __future__ import annotations

from typing import Any

from samstudent.imaging.folder import case_id
from samstudent.server.api.params import json_object
from samstudent.server.auth.current_user import user_name

Told = tuple[str, dict[str, Any]]


def trainings(original: Any, params: Any, *rest: Any) -> Told:
    return user_name(), {"model": "all"}


def job(original: Any, name: str, params: Any, *rest: Any) -> Told:
    return user_name((params or {}).get("client_id")), {"model": name}


def batch(original: Any, name: str, images: Any, *rest: Any) -> Told:
    return user_name(), {"model": name, "images": images}


def upload(original: Any, tasks: Any, image: Any, params: str, file: Any, *rest: Any) -> Told:
    return user_name(json_object(params, "params").get("client_id")), {"case": image and case_id(image)}


def image(original: Any, image: str, *rest: Any) -> Told:
    return user_name(), {"case": image and case_id(image)}


def label(original: Any, tasks: Any, image: str, params: str, tag: str, *rest: Any) -> Told:
    return user_name(json_object(params, "params").get("client_id")), {"case": case_id(image), "tag": tag or "final"}


def removal(original: Any, label: str, tag: str, *rest: Any) -> Told:
    return user_name(), {"case": case_id(label), "tag": tag}
