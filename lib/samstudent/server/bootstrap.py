"""Preparations before the import of the host; imported by ``samstudent-host.pth`` at the start of Python.

A ``.pth`` file, because the host's command imports the host before any line of an app runs. It only installs two
finders of modules, which do nothing until the host is imported. Each entry (E1, E3) names what would stop the host from
starting.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace

#: E1: pydicom-seg 0.4.1, which the host imports, imports this module; pydicom 3 moved its names to ``pydicom.uid``.
_UIDS = "pydicom._storage_sopclass_uids"
_HOST_COMMAND = "monailabel.main"
#: ASGI application that the host's command serves in place of its own.
HTTP_APPLICATION = "samstudent.server.asgi:app"


class _MovedUids:
    """Finder and loader of a module with the names of ``pydicom.uid``. The last finder, so that a real module wins."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == _UIDS else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        from pydicom import uid

        module.__getattr__ = lambda name: getattr(uid, name)  # type: ignore[method-assign]


class _HostArguments:
    """Finder that finds nothing: at the import of the host it sets defaults of command line and environment."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        # E3: MLflow 3 rejects the host's default folder, so that every training would fail at its start.
        if name == "monailabel.config" and not os.environ.get("MONAI_LABEL_TRACKING_URI"):
            os.environ.setdefault("MONAI_LABEL_TRACKING_ENABLED", "false")
        if name == _HOST_COMMAND:
            sys.argv[1:] = with_defaults(sys.argv[1:])
            share_cores()
            if _our_command(sys.argv[1:]) is not None:
                from samstudent.server import deferred_imports

                deferred_imports.install()
            if os.environ.get("SAMSTUDENT_USERS"):
                os.environ.setdefault("MONAI_LABEL_AUTH_ENABLE", "true")


def share_cores() -> None:
    """Let waiting OpenMP threads sleep instead of spin; effective before torch is imported, and for child processes.

    With several processes of as many threads as cores, spinning threads use the time slices of working ones: with three
    processes on two cores a training step took ten seconds instead of half a second. The same holds for one process
    that computes in several threads (``util.device.on_all_cores``).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def warn_if_open(arguments: Sequence[str], login: bool) -> None:
    """Warn about a server that is reachable from the network without a login or without TLS.

    Args:
        arguments: arguments of the host's command.
        login: whether a login is required.
    """
    import ipaddress

    known = listening(arguments)
    try:
        loopback = known.host == "localhost" or ipaddress.ip_address(known.host).is_loopback
    except ValueError:
        loopback = False
    if loopback:
        return
    if not login:
        text = "everyone on the network can read all images, change labels and train. Use samstudent serve --users FILE"
        print(f"samstudent: WARNING: listening on {known.host} WITHOUT LOGIN: {text}", file=sys.stderr, flush=True)
    elif not known.ssl_certfile:
        text = "passwords are sent unencrypted, unless a proxy adds TLS. Use --ssl_certfile and --ssl_keyfile"
        print(f"samstudent: WARNING: listening on {known.host} without TLS: {text}", file=sys.stderr, flush=True)


def listening(arguments: Sequence[str]) -> Namespace:
    """``host``, ``port`` and ``ssl_certfile`` of the host's command line."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-i", "--host", default="127.0.0.1")
    parser.add_argument("-p", "--port", default=8000, type=int)
    parser.add_argument("--ssl_certfile")
    return parser.parse_known_args(list(arguments))[0]


def with_defaults(arguments: Sequence[str]) -> list[str]:
    """Command line of the host for our app, with ``--host 127.0.0.1`` and our HTTP application as defaults.

    By default the host listens on all network interfaces, without a login.
    """
    known = _our_command(arguments)
    if known is None:
        return list(arguments)
    loopback = ["--host", "127.0.0.1"] if known.host is None else []
    application = ["--uvicorn_app", HTTP_APPLICATION] if known.uvicorn_app is None else []
    return [*arguments, *loopback, *application]


def _our_command(arguments: Sequence[str]) -> Namespace | None:
    """``host``, ``app`` and ``uvicorn_app`` of the host's command line if it serves our app; otherwise None."""
    import argparse
    from pathlib import Path

    if not arguments or arguments[0] != "start_server":
        return None
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("-i", "--host")
    parser.add_argument("-a", "--app")
    parser.add_argument("--uvicorn_app")
    try:
        known, _ = parser.parse_known_args(list(arguments[1:]))
        return known if "samstudent" in Path(known.app or "", "main.py").read_text(encoding="utf-8") else None
    except (argparse.ArgumentError, OSError, UnicodeDecodeError):
        return None  # the host reports the error


def install() -> None:
    """Install both finders, once."""
    if not any(isinstance(finder, _MovedUids) for finder in sys.meta_path):
        sys.meta_path.insert(0, _HostArguments())
        sys.meta_path.append(_MovedUids())


install()
