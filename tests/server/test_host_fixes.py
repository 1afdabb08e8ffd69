"""Each fix works, and each is still needed: a test named ``..._host_is_still_broken`` fails when the host is mended."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import inspect
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jwt
import numpy as np
import pytest
import requests
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from monailabel.config import settings
from monailabel.endpoints.user import auth
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.train import TrainTask

import samstudent
from samstudent.server import host_fixes
from samstudent.server.datastore.study_folder import StudyFolderDatastore

# Taken before apply(), which other test files may have called already: functools.wraps keeps the host's own function.
HOST_BATCH = getattr(BatchInferTask.__call__, "__wrapped__", BatchInferTask.__call__)
SOURCES = Path(samstudent.__file__).parent


@pytest.fixture(autouse=True)
def fixed() -> None:
    host_fixes.apply()


def drop(fix: str) -> str:
    return f"the host is mended: drop {fix} and its row of docs/reference/host.md"


def as_it_comes(module: ModuleType) -> ModuleType:
    """The host's module anew, whatever other tests (and our guards) did to the one that is imported."""
    assert module.__spec__ is not None and module.__spec__.loader is not None
    fresh = importlib.util.module_from_spec(module.__spec__)
    module.__spec__.loader.exec_module(fresh)
    return fresh


@contextlib.contextmanager
def still_broken(error: type[Exception], words: str, fix: str) -> Iterator[None]:
    """Like ``pytest.raises``, but says what to drop when nothing is raised."""
    try:
        yield
    except error as raised:
        if words not in str(raised):
            raise
    else:
        pytest.fail(drop(fix))


class Trained(TrainTask):  # type: ignore[misc]
    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, int]:
        return {"done": 1}


class App(MONAILabelApp):  # type: ignore[misc]
    def init_datastore(self) -> StudyFolderDatastore:
        return StudyFolderDatastore(self.studies)

    def init_trainers(self) -> dict[str, TrainTask]:
        return {"student": Trained("student")}

    def init_scoring_methods(self) -> dict[str, Any]:
        return {"dice": object()}


@pytest.fixture
def app(tmp_path: Path) -> App:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "a.png").touch()
    return App(str(tmp_path), str(tmp_path / "study"), {})


# ---- E3 ----


@pytest.mark.parametrize(("uri", "enabled"), [("", False), ("sqlite:///runs.db", True)])
def test_e3_tracking_is_off_unless_a_store_is_named(monkeypatch: pytest.MonkeyPatch, uri: str, enabled: bool) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_ENABLED", True)
    monkeypatch.setattr(settings, "MONAI_LABEL_TRACKING_URI", uri)
    host_fixes.tracking_off_unless_asked()
    assert enabled == settings.MONAI_LABEL_TRACKING_ENABLED


def test_e3_host_is_still_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with still_broken(Exception, "file", "tracking_off_unless_asked"):
        mlflow.MlflowClient(tmp_path.as_uri()).search_experiments()


# ---- E4; what takes its place is in test_login.py and test_openid.py ----


def test_e4_host_is_still_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pem = f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----"
    host = as_it_comes(auth)
    monkeypatch.setattr(host, "get_public_key", lambda realm: pem)
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    claims = {"preferred_username": "ann", "realm_access": {"roles": []}, "exp": time.time() + 60}
    with still_broken(jwt.DecodeError, "algorithms", "gate._recognised"):
        host.from_token(jwt.encode(claims, key, "RS256"))


# ---- E7 ----


def infer(request: dict[str, Any], datastore: Any) -> dict[str, Any]:
    return {"label": request["image"], "device": request["device"]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_e7_batch_infer_on_a_cpu(app: App) -> None:
    request = {"device": "cuda", "multi_gpu": True, "gpus": "all", "max_workers": 1}
    assert BatchInferTask()(request, app.datastore(), infer) == {"a": {"label": "a", "device": "cpu"}}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_e7_host_is_still_broken(app: App) -> None:
    with still_broken(ZeroDivisionError, "", "_one_device_without_gpu"):
        HOST_BATCH(BatchInferTask(), {"multi_gpu": True}, app.datastore(), infer)


# ---- E9 ----


def test_e9_training_stays_done_when_nobody_takes_the_callback(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_SERVER_PORT", 1)
    assert app.train({"model": "student"}) == {"done": 1}
    assert "Scoring was not started" in caplog.text


def test_e9_answers_of_the_server(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = requests.Response()
    answer._content, answer.status_code = b'{"id": "x"}', 200
    monkeypatch.setattr(host_fixes.requests, "post", lambda *a, **k: answer)
    assert app._local_request("/scoring/dice", None, "Scoring") == {"id": "x"}
    answer.status_code = 401
    assert app._local_request("/scoring/dice", None, "Scoring") is None


def test_e9_host_is_still_broken() -> None:
    source = Path(host_fixes.MONAILabelApp.__init__.__code__.co_filename).read_text()
    body = source[source.index("def _local_request") : source.index("def _download_dcmqi_tools")]
    assert "http://127.0.0.1" in body and "except" not in body, drop("_callback")


# ---- E10; the rest of it is in test_sessions.py and test_guards.py ----


def test_e10_failing_clean_up_ends_nothing(app: App, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def fail() -> int:
        raise OSError("disk gone")

    assert isinstance(app.sessions(), host_fixes.SafeSessions)
    monkeypatch.setattr(app.sessions(), "remove_expired", fail)
    app.cleanup_sessions()
    assert "disk gone" in caplog.text


def test_e10_host_is_still_broken() -> None:
    from monailabel.endpoints import logs

    host = as_it_comes(logs)
    assert "https://" in host.HTML_TEMPLATE, drop("guards._last_lines")
    with pytest.raises(OverflowError):
        host.get_logs(__file__, 1 << 64, html=False, text=True, refresh=0)


# ---- E12; what is done about it is tried in test_awake.py ----


def test_e12_host_is_still_broken() -> None:
    from monailabel.endpoints import activelearning, infer, info

    for endpoint in (infer.api_run_inference, info.api_app_info, activelearning.api_sample):
        source = inspect.getsource(endpoint)
        assert "async def" in source and "await" not in source, drop("server/api/threads.py")


def test_fixes_are_applied_once() -> None:
    before = BatchInferTask.__call__
    host_fixes.apply()
    assert BatchInferTask.__call__ is before


# ---- what does not reach us ----


def imports_of_ours(*, but: str = "") -> str:
    paths = [path for path in SOURCES.rglob("*.py") if path.name != but]
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return "\n".join(line for line in lines if re.match(r"\s*(from|import|\w+,$)", line))


def test_e2_spacingd_is_not_used() -> None:
    assert "Spacingd" not in imports_of_ours()


def test_e2_host_is_still_broken() -> None:
    from monai.data import MetaTensor
    from monai.transforms import Spacingd

    image = MetaTensor(np.zeros((1, 4, 4, 4), np.float32), meta={"filename_or_obj": "x.nii.gz"})
    data = {"image": image, "image_path": "x.nii.gz"}  # the host's BasicInferTask adds the second
    with still_broken(AttributeError, "update", "the remark on Spacingd"):
        Spacingd(keys="image", pixdim=(2, 2, 2))(data)


def test_e8_writer_of_the_host_is_not_used() -> None:
    assert "monailabel.transform.writer" not in imports_of_ours()


def test_e8_host_is_still_broken(tmp_path: Path) -> None:
    from monailabel.transform.writer import write_itk

    with still_broken(RuntimeError, "", "the remark on PNG results"):
        write_itk(np.zeros((8, 8), np.float32), str(tmp_path / "x.png"), None, None, False)


def test_e11_only_pythons_that_the_host_runs_on() -> None:
    configuration = SOURCES.parents[1] / "setup.cfg"
    if not configuration.is_file():
        pytest.skip("not a source checkout")
    assert "python_requires = >=3.10,<3.13" in configuration.read_text()


def test_e11_host_is_still_broken() -> None:
    from monailabel.client import client
    from monailabel.utils.others import generic

    sources = Path(client.__file__).read_text() + Path(generic.__file__).read_text()
    assert "import cgi" in sources or "distutils" in sources, "the host runs on newer Python: widen python_requires"
