"""Deferred imports: of some 6,500 modules that MONAI, the host and their libraries import at the start, a server needs
half for its first requests.

This module replaces two names of MONAI: ``monai.utils.module.load_submodules`` (which imports all 500 modules of MONAI)
and ``monai.utils.module.optional_import`` (by which MONAI imports optional libraries). See
docs/decisions/0023-deferred-imports.md. Nothing else of another package is assigned.

``install`` inserts a finder before Python's own. A module of ``MODULES`` is added to ``sys.modules`` unexecuted, and is
executed at the first access to an attribute that it does not have yet. Objects of the libraries in ``OPTIONAL`` are
represented by ``DeferredObject`` until they are used. A deferred module is the same object as with a normal import.

Only samstudent's commands and server call ``install``; other programs in the same environment import as usual.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

#: Deferred modules, with the names that other modules import from them at their own import: each with the module that
#: defines it, or None for a ``DeferredObject``. Comments: CPU seconds of the import with all that it imports.
MODULES: dict[str, dict[str, str | None]] = {
    # 1.0 s with sympy; ignite's checkpoints test whether an optimizer is of this class.
    "torch.distributed.optim": {"ZeroRedundancyOptimizer": None},
    # 1.0 s: all networks, AutoML, pathology; the host uses one function of it, to download apps.
    "monai.apps": {
        "download_and_extract": "monai.apps.utils",
        "download_url": "monai.apps.utils",
        "get_logger": "monai.apps.utils",
    },
    # 0.4 s: for MONAI's notebooks and our reports.
    "matplotlib": {},
    "matplotlib.pyplot": {},
    # 0.6 s: tracking of trainings is disabled unless MONAI_LABEL_TRACKING_URI is set.
    "mlflow": {},
    # 0.9 s with pandas and pyarrow: distances between scored cases.
    "sklearn": {},
    "sklearn.metrics": {},
    # 0.2 s: fit of the quality model; 0.5 s: statistical tests of rounds and recipes.
    "scipy.optimize": {"minimize": None, "brentq": None},
    "scipy.stats": {},
    # 0.2 s each: some file formats.
    "SimpleITK": {},
    "itk": {},
    # 0.2 s each: DICOM segmentations.
    "highdicom": {},
    "pydicom_seg": {},
    # 0.3 s: the table of all codes of structured reports.
    "pydicom.sr.codedict": {"codes": None, "Collection": None, "Concepts": None},
    # 0.1 s: only gdown reads HTML.
    "bs4": {},
}

#: Libraries that MONAI imports by ``optional_import``: first component of a module name, or the full name.
OPTIONAL = frozenset(
    {
        "bs4",
        "gdown",
        "huggingface_hub",
        "itk",
        "matplotlib",
        "mlflow",
        "pandas",
        "scipy",
        "skimage",
        "sklearn",
        "tensorboard",
        "torch.utils.tensorboard",
        "torchvision",  # 1.4 s with torch's compiler
        "transformers",
    }
)
_MONAI_UTILS = "monai.utils.module"


class DeferredObject:
    """Stand-in for an object of a module, which is imported when the object is called, subclassed or read.

    Args:
        module: full name of the module.
        name: name of the object in it; "" for the module itself.
    """

    def __init__(self, module: str, name: str = "") -> None:
        self.__dict__.update(_module=module, _name=name)

    def _resolve(self) -> Any:
        module = importlib.import_module(self._module)
        load(self._module)
        return getattr(module, self._name) if self._name else module

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._resolve(), attribute)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._resolve()(*args, **kwargs)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._resolve())

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self._resolve())

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[Any, ...]:
        return (self._resolve(),)

    def __repr__(self) -> str:
        return f"<deferred {self._module}{':' if self._name else ''}{self._name}>"


class DeferredModule(ModuleType):
    """Module that is executed at the first access to an attribute that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        state = self.__dict__.get("__deferred__")
        if state is None:  # executed by another thread in the meantime, or being created
            return object.__getattribute__(self, name)
        if name == "__path__":  # "from module import name" reads it of each module; packages have it
            raise AttributeError(name)
        if name in state.names:
            return state.stand_in(name)
        state.load(self)
        return getattr(self, name)


class _Deferral(Loader):
    """Loader of a ``DeferredModule``.

    Args:
        name: name of the module.
        loader: loader that executes the module.
    """

    def __init__(self, name: str, loader: Loader) -> None:
        self.name, self.loader = name, loader
        self.names = MODULES[name]
        self._lock = threading.RLock()
        self._is_running = False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return DeferredModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__deferred__"] = self

    def __getattr__(self, name: str) -> Any:
        # get_resource_reader, get_source and so on.
        return getattr(self.loader, name)

    def stand_in(self, name: str) -> Any:
        if elsewhere := self.names[name]:
            return getattr(importlib.import_module(elsewhere), name)
        return DeferredObject(self.name, name)

    def load(self, module: ModuleType) -> None:
        """Execute the module, once; a failed import is repeated at the next access, as in Python.

        Raises:
            AttributeError: in the thread that executes the module: the attribute is not defined yet.
        """
        with self._lock:
            if self._is_running:
                raise AttributeError(f"module {self.name!r} is being imported")
            if "__deferred__" not in module.__dict__:
                return
            self._is_running = True
            try:
                self.loader.exec_module(module)
            finally:
                self._is_running = False
            assert module.__spec__ is not None
            module.__spec__.loader = module.__loader__ = self.loader
            del module.__dict__["__deferred__"]
            module.__class__ = ModuleType


class _Loaded(Loader):
    """Loader of a module that its package has imported in the meantime."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _MonaiUtils(Loader):
    """Loader of ``monai.utils.module``; replaces the two names after its execution."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        # The original imports all 500 modules of MONAI, and executes each of them twice.
        vars(module)["load_submodules"] = _load_data_first
        vars(module)["optional_import"] = _optional_import(module.optional_import)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _load_data_first(*args: Any, **kwargs: Any) -> tuple[list[str], list[str]]:
    """Replacement of MONAI's ``load_submodules``: imports ``monai.data`` only, which must precede ``monai.transforms``,
    because they import each other."""
    importlib.import_module("monai.data")
    return [], []


def _optional_import(original: Callable[..., tuple[Any, bool]]) -> Callable[..., tuple[Any, bool]]:
    """MONAI's function, but with a ``DeferredObject`` for an installed library of ``OPTIONAL``."""

    def optional_import(
        module: str, version: str = "", version_checker: Any = None, name: str = "", *args: Any, **kwargs: Any
    ) -> tuple[Any, bool]:
        library = module.partition(".")[0]
        if {library, module} & OPTIONAL and PathFinder.find_spec(library) is not None:
            return DeferredObject(module, name), True
        checker = {} if version_checker is None else {"version_checker": version_checker}
        return original(module, version, *args, name=name, **checker, **kwargs)

    return optional_import


class _Finder:
    """Finder of the modules above: Python's own finder with another loader."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name in MODULES:
            return self._with_loader(name, path, lambda loader: _Deferral(name, loader))
        if name == _MONAI_UTILS:
            return self._with_loader(name, path, _MonaiUtils)
        package, _, _ = name.rpartition(".")
        deferral = getattr(sys.modules.get(package), "__dict__", {}).get("__deferred__")
        if deferral is None or deferral._is_running or name in deferral.names.values():
            return None
        # A submodule must not be executed before its package.
        deferral.load(sys.modules[package])
        found = sys.modules.get(name)
        if found is None:
            return None
        # Python would use the spec of the module that exists now, and execute the module again.
        found.__spec__ = ModuleSpec(name, _Loaded(found))
        return found.__spec__

    @staticmethod
    def _with_loader(name: str, path: Sequence[str] | None, wrap: Callable[[Loader], Loader]) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = wrap(spec.loader)
        return spec


def install() -> None:
    """Defer imports of this process from now on; idempotent."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]


def load(*names: str) -> None:
    """Execute deferred modules, before forks that would each do it. Without names: all that were imported."""
    for name in names or MODULES:
        module = sys.modules.get(name)
        deferral = vars(module).get("__deferred__") if module is not None else None
        if deferral is not None:
            deferral.load(module)
