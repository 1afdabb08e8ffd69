"""Modules that are executed at their first use."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from samstudent.server import deferred_imports
from samstudent.server.deferred_imports import DeferredModule, DeferredObject


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``heavy`` with ``heavy.part`` and ``heavy.alone``; each says in ``builtins`` style lists that it was executed."""
    folder = tmp_path / "heavy"
    folder.mkdir()
    (tmp_path / "executed.py").write_text("names = []\n")
    (folder / "__init__.py").write_text(
        "import executed\nexecuted.names.append('heavy')\n"
        "from heavy import part\nfrom heavy.part import Thing\nvalue = 7\n"
    )
    (folder / "part.py").write_text("import executed\nexecuted.names.append('part')\nclass Thing: pass\n")
    (folder / "alone.py").write_text("import executed\nexecuted.names.append('alone')\ndef double(x): return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(deferred_imports.MODULES, "heavy", {"double": "heavy.alone", "Thing": None})
    monkeypatch.setattr(sys, "meta_path", [deferred_imports._Finder(), *sys.meta_path])
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("heavy", "executed")]:
        del sys.modules[name]


def executed() -> list[str]:
    names: list[str] = importlib.import_module("executed").names
    return names


def test_module_is_executed_at_its_first_use(package: Path) -> None:
    heavy = importlib.import_module("heavy")
    assert isinstance(heavy, DeferredModule) and executed() == []
    assert heavy.value == 7
    assert executed() == ["heavy", "part"] and type(heavy) is ModuleType
    assert heavy.__spec__.loader is heavy.__loader__ and not hasattr(heavy.__loader__, "stand_in")
    with pytest.raises(AttributeError):
        _ = heavy.absent


def test_imported_names_do_not_execute_the_module(package: Path) -> None:
    heavy = importlib.import_module("heavy")
    thing = heavy.Thing
    assert heavy.double(4) == 8 and executed() == ["alone"]
    assert isinstance(thing, DeferredObject)
    made = thing()
    assert executed() == ["alone", "heavy", "part"]
    assert isinstance(made, thing) and not isinstance(3, thing)

    class Special(thing):  # type: ignore[misc, valid-type]
        pass

    assert issubclass(Special, type(made)) and issubclass(Special, thing)


def test_submodule_is_executed_once_after_its_package(package: Path) -> None:
    importlib.import_module("heavy")
    part = importlib.import_module("heavy.part")
    assert executed() == ["heavy", "part"]
    assert part is sys.modules["heavy"].part and part.Thing is sys.modules["heavy"].Thing
    assert part.__spec__ is not None and part.__spec__.origin == str(package / "heavy" / "part.py")


def test_concurrent_first_uses_execute_a_module_once(package: Path) -> None:
    heavy = importlib.import_module("heavy")
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(heavy.value)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [7] * 8 and executed() == ["heavy", "part"]


def test_a_failed_import_is_tried_again(package: Path) -> None:
    (package / "heavy" / "part.py").write_text("raise ImportError('no library')\n")
    heavy = importlib.import_module("heavy")
    for _ in range(2):
        with pytest.raises(ImportError, match="no library"):
            _ = heavy.value


def test_load_executes_deferred_modules(package: Path) -> None:
    importlib.import_module("heavy")
    deferred_imports.load("heavy", "not.imported")
    assert executed() == ["heavy", "part"]


def test_host_starts_without_unused_modules() -> None:
    """In an interpreter of its own; MONAI's optional libraries still work when they are used."""
    code = """
import sys
from samstudent.server import deferred_imports
deferred_imports.install()
import samstudent.server.app
waiting = {name for name in deferred_imports.MODULES if "__deferred__" in vars(sys.modules.get(name, sys))}
print(sorted(set(deferred_imports.MODULES) & set(sys.modules) - waiting))
print([name for name in ("torch._dynamo", "pandas", "sympy", "torchvision", "mlflow.tracking") if name in sys.modules])
import monai.transforms.utils as utils
print(utils.measure.label(__import__("numpy").array([[1, 0, 1]])).max())
import monai.apps
print(monai.apps.CrossValidation.__name__)
from torch.distributed.optim import ZeroRedundancyOptimizer
print(isinstance(3, ZeroRedundancyOptimizer))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Allow Origins")]
    assert lines == ["[]", "[]", "2", "CrossValidation", "False"]


def test_any_submodule_of_monai_can_be_imported_first() -> None:
    code = (
        "from samstudent.server import deferred_imports\n"
        "deferred_imports.install()\n"
        "import monai.transforms\n"
        "assert issubclass(monai.transforms.Flip, monai.transforms.Transform)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
