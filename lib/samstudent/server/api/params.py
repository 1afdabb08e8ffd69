"""Validation of request parameters; pure functions that raise UserError."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from samstudent.errors import NotFound, UserError
from samstudent.imaging.label_tags import ORIGINAL, PSEUDO_TAGS
from samstudent.server.api.json_text import strict_json
from samstudent.server.datastore.identifiers import check_name

#: Keys by which the host opens files, runs code, or exchanges image or model; not allowed in requests.
RESERVED_KEYS = frozenset(
    [
        "image",
        "session",
        "description",
        "_id",
        "_image_id",
        "_answer_file",
        "train_ds",
        "val_ds",
        "bundle_path",
        "model_filename",
        "tracking_uri",
        "run_id",
        "conda_env",
        "local_rank",
        "load_path",
        "result_file",
        "result_write_to_file",
    ]
)
#: Keys with free text.
TEXT_KEYS = frozenset({"client_id", "label_info", "user"})
RESULT_EXTENSIONS = frozenset({".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff"})
RESULT_TYPES = frozenset({"uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"})

_DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?|mps")
_GPUS = re.compile(r"all|\d{1,2}(,\d{1,2})*")


def json_object(text: str | None, name: str) -> dict[str, Any]:
    """Parsed form field with a JSON object; empty: ``{}``."""
    try:
        value = strict_json(text) if text else {}
    except ValueError as error:
        raise UserError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{name} must be a JSON object, not {type(value).__name__}")
    return value


def check_params(params: Mapping[str, Any], devices: Collection[str] = (), model: str | None = None) -> None:
    """Validate the parameters of infer, train, batch infer, scoring and next sample.

    Args:
        params: parameters of the request. Empty values are accepted: 3D Slicer sends all options.
        devices: further names of devices besides ``cpu``, ``cuda``, ``cuda:<n>``, ``mps``.
        model: model in the address of the request; ``params["model"]`` must be equal.

    Raises:
        UserError: invalid parameter; with key, value and allowed values.
    """
    for key, value in params.items():
        if value is None or value == "" or key in TEXT_KEYS:
            continue
        if key in RESERVED_KEYS:
            raise UserError(f"params: {key!r} cannot be set by a client")
        if path := _path_in(value):
            raise UserError(f"params: {key!r} contains {path!r}, which looks like a path; paths are not allowed")
        if check := _CHECKS.get(key):
            check(key, value)
    if params.get("model") not in (None, "", model):
        raise UserError(f"params: 'model' is {params['model']!r}, but the request is for {model!r}")
    _check_devices(params.get("device"), devices)


def check_params_by_name(
    params: Mapping[str, Any], known: Collection[str], kind: str, devices: Collection[str]
) -> None:
    """Validate a body with parameters for several tasks, each under its name, and parameters for all of them.

    Args:
        params: parameters of the request.
        known: names of the tasks.
        kind: kind of the tasks, for messages.
        devices: see ``check_params``.

    Raises:
        NotFound: unknown name. UserError: see ``check_params``.
    """
    for key, value in params.items():
        if isinstance(value, dict) and key not in TEXT_KEYS:
            if key not in known:
                raise NotFound(f"there is no {kind} {key!r}; available: {', '.join(sorted(known)) or 'none'}")
            check_params(value, devices, key)
        else:
            check_params({key: value}, devices, key)


def params_of(params: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Parameters of one task in a body of ``check_params_by_name``, with those for all tasks."""
    for_all = {key: value for key, value in params.items() if not isinstance(value, dict) or key in TEXT_KEYS}
    return for_all | dict(params.get(name) or {})


def _path_in(value: Any) -> str | None:
    """First string inside a value with a path separator or ``..``, or None."""
    if isinstance(value, str):
        return value if "/" in value or "\\" in value or value == ".." or "\0" in value else None
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return next((path for item in value if (path := _path_in(item))), None)
    return None


def _check_devices(value: Any, devices: Collection[str]) -> None:
    for device in value if isinstance(value, list) else [value]:
        if device not in (None, "") and not (
            isinstance(device, str) and (_DEVICE.fullmatch(device) or device in devices)
        ):
            raise UserError(f"params: 'device' must be one of cpu, cuda, cuda:<n>, mps, not {device!r}")


def _check_extension(key: str, value: Any) -> None:
    if value not in RESULT_EXTENSIONS:
        raise UserError(f"params: {key!r} must be one of {' '.join(sorted(RESULT_EXTENSIONS))}, not {value!r}")


def _check_type(key: str, value: Any) -> None:
    if value not in RESULT_TYPES:
        raise UserError(f"params: {key!r} must be one of {' '.join(sorted(RESULT_TYPES))}, not {value!r}")


def _check_gpus(key: str, value: Any) -> None:
    if not isinstance(value, str) or not _GPUS.fullmatch(value):
        raise UserError(f"params: {key!r} must be 'all' or numbers with commas, e.g. '0,1', not {value!r}")


def _check_tag(key: str, value: Any) -> None:
    if check_name(value, key) != ORIGINAL:
        raise UserError(f"params: {key!r} must be 'original', the tag for results of models, not {value!r}")


def _check_name(key: str, value: Any) -> None:
    check_name(value, f"params: {key}")


def check_upload_tag(tag: str) -> str:
    """Validated tag of an uploaded label or changed metadata; raises UserError for tags of the software."""
    if check_name(tag, "tag") in PSEUDO_TAGS:
        raise UserError(
            f"tag {tag!r} is reserved for pseudo labels; {sorted(PSEUDO_TAGS)} cannot be uploaded or changed"
        )
    return tag


_CHECKS = {
    "result_extension": _check_extension,
    "result_dtype": _check_type,
    "gpus": _check_gpus,
    "label_tag": _check_tag,
    "name": _check_name,
}
