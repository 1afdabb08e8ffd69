"""Orthanc, a small PACS, as a local process for demo and tests."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from samstudent.errors import NotFound

START_SECONDS = 60
_PROGRAMS = ("Orthanc", "orthanc", "/usr/sbin/Orthanc", "/usr/local/sbin/Orthanc")
_PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")


def find_orthanc() -> tuple[str, Path]:
    """Program and DICOMweb plugin of Orthanc.

    Raises:
        NotFound: one of them is not installed.
    """
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    plugin = next((p for folder in _PLUGINS for p in sorted(Path(folder).glob("libOrthancDicomWeb.so*"))), None)
    if program is None or plugin is None:
        missing = "Orthanc" if program is None else "Orthanc's DICOMweb plugin"
        raise NotFound(f"{missing} is not installed: apt-get install orthanc orthanc-dicomweb")
    return program, plugin


class Orthanc:
    """PACS without a password on a loopback port.

    Args:
        folder: folder of configuration, storage and log; created if missing.
        port: None: a free one.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        #: Of its DICOMweb service.
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start Orthanc and wait until it responds; may be repeated after ``kill`` with the same storage.

        Raises:
            NotFound: it is not installed. RuntimeError: it does not start.
        """
        program, plugin = find_orthanc()
        self.folder.mkdir(parents=True, exist_ok=True)
        storage = str((self.folder / "storage").resolve())
        configuration = {
            "Name": "samstudent",
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "Plugins": [str(plugin)],
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (self.folder / "orthanc.json").write_text(json.dumps(configuration, indent=1))
        with (self.folder / "orthanc.log").open("ab") as log:
            command = [program, str(self.folder / "orthanc.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"{self.url}/studies", params={"limit": "1"}, timeout=5).ok:
                    return
            except requests.RequestException:
                time.sleep(0.2)
        self.kill()
        tail = "\n".join((self.folder / "orthanc.log").read_text(errors="replace").splitlines()[-10:])
        raise RuntimeError(f"Orthanc did not start; the end of its log:\n{tail}")

    def kill(self) -> None:
        """End the process immediately, as a power failure would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def store(self, images: Iterable[Dataset]) -> None:
        """Store images or segmentations, as a modality or a viewer does (STOW-RS)."""
        response = DICOMwebClient(self.url).store_instances(list(images))
        if response.get("FailedSOPSequence"):
            raise RuntimeError(f"Orthanc did not store everything: {response.FailedSOPSequence}")


def free_port() -> int:
    """Free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
