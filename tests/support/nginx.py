"""nginx with the configuration of docs/examples, on a free loopback port."""

from __future__ import annotations

import getpass
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.certificate import make_certificate
from support.needed import require_nginx
from support.waits import until

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "nginx.conf"
#: As the user of the tests, whose temporary folders other users cannot read.
_MAIN = """\
user {user};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


class Nginx:
    """Running nginx.

    Attributes:
        url: address, by https.
        certificate: its certificate.
    """

    def __init__(self, folder: Path, ports: Mapping[int, int]) -> None:
        """Start it.

        Args:
            folder: of its own.
            ports: port of a server in the example -> real port.
        """
        program = require_nginx()
        self.certificate, key = make_certificate(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        site = EXAMPLE.read_text()
        changes = {"443": f"127.0.0.1:{port}", "labels.hospital.example": "127.0.0.1"}
        changes |= {"/etc/ssl/labels.pem": str(self.certificate), "/etc/ssl/labels.key": str(key)}
        changes |= {f"127.0.0.1:{old}/": f"127.0.0.1:{new}/" for old, new in ports.items()}
        for old, new in changes.items():
            site, times = re.subn(rf"(?<= |/){re.escape(old)}(?=[ ;])", new, site)
            assert times, f"{old} is not in {EXAMPLE}"
        (folder / "site.conf").write_text(site)
        (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, user=getpass.getuser()))
        self.url = f"https://127.0.0.1:{port}"
        self._log = folder / "error.log"
        command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(self._log)]
        self._process = subprocess.Popen(command)
        for _ in until(20):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
        pytest.fail(f"nginx did not start:\n{self._log.read_text()}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)
