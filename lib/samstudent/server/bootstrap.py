"""What must be in place before the host is imported; ``samstudent-host.pth`` imports this when Python starts.

A ``.pth`` file, because the host starts its training, scoring and batch jobs as fresh interpreters, and each of them
imports the host before any line of an app runs. Everything here costs nothing until the host is used.
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

#: E1: pydicom-seg 0.4.1, which the host imports, asks for this module; pydicom 3 dropped it for ``pydicom.uid``.
_UIDS = "pydicom._storage_sopclass_uids"
_HOST_COMMAND = "monailabel.main"
#: What the host's command serves in place of its own application.
HTTP_APPLICATION = "samstudent.server.asgi:app"


class _MovedUids:
    """Finder and loader of a module that looks its names up in ``pydicom.uid``. Asked last, so a real one wins."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == _UIDS else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        from pydicom import uid

        module.__getattr__ = lambda name: getattr(uid, name)  # type: ignore[method-assign]


class _HostArguments:
    """Finder that only notes that the host is about to be imported: sets what it reads from the command line and the
    environment. Never finds a module itself."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        # E3: MLflow 3 refuses the folder that the host gives it by default, so every training would fail at its start.
        if name == "monailabel.config" and not os.environ.get("MONAI_LABEL_TRACKING_URI"):
            os.environ.setdefault("MONAI_LABEL_TRACKING_ENABLED", "false")
        if name == _HOST_COMMAND:
            sys.argv[1:] = with_defaults(sys.argv[1:])
            share_cores()
            if _our_command(sys.argv[1:]) is not None:
                from samstudent.server import deferred_imports

                deferred_imports.install()
            if os.environ.get("SAMSTUDENT_USERS"):  # the host builds its endpoints with or without login when imported
                os.environ.setdefault("MONAI_LABEL_AUTH_ENABLE", "true")


def share_cores() -> None:
    """Let threads that wait for others sleep instead of spin; to be called before torch is imported, or for children.

    Several processes with as many threads as cores otherwise burn the time slices that the others need: with three of
    them on two cores a training step took ten seconds instead of a half. So do the threads of one process that works in
    threads of its own (``util.device.on_all_cores``).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def warn_if_open(arguments: Sequence[str], login: bool) -> None:
    """Say it where everybody on the network may do everything, or can read along.

    Args:
        arguments: of the host's command.
        login: whether there is one.
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
        text = "anybody on the network can read all images, change labels and train. samstudent serve --users FILE"
        print(f"samstudent: WARNING: listening on {known.host} WITHOUT LOGIN: {text}", file=sys.stderr, flush=True)
    elif not known.ssl_certfile:
        text = "passwords cross the network in the clear, unless a proxy speaks TLS. --ssl_certfile, --ssl_keyfile"
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
    """The host's command line where our app is started, with ``--host 127.0.0.1`` and our HTTP application unless it
    names others.

    The host listens on every network interface by default, and asks nobody for a password by default.
    """
    known = _our_command(arguments)
    if known is None:
        return list(arguments)
    loopback = ["--host", "127.0.0.1"] if known.host is None else []
    application = ["--uvicorn_app", HTTP_APPLICATION] if known.uvicorn_app is None else []
    return [*arguments, *loopback, *application]


def _our_command(arguments: Sequence[str]) -> Namespace | None:
    """``host``, ``app`` and ``uvicorn_app`` of the host's command line where it serves our app; else None."""
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
        return None  # the host says what is wrong with them


def install() -> None:
    """Put both finders in place, once."""
    if not any(isinstance(finder, _MovedUids) for finder in sys.meta_path):
        sys.meta_path.insert(0, _HostArguments())
        sys.meta_path.append(_MovedUids())


install()
