"""Imports that wait until they are used: of some 6,500 modules that MONAI, the host and their libraries import at the
start, a server that answers its first requests needs half.

``install`` puts a finder in front of Python's own. A module named in ``MODULES`` is put into ``sys.modules`` unexecuted
and is executed in place at the first access to an attribute that it does not have yet. MONAI imports its optional
libraries through one function, ``optional_import``; those of ``OPTIONAL`` are represented by ``DeferredObject`` until
they are used. Nothing is left out: whatever is used is imported then, and is the same object as ever.

Only the commands of samstudent and its server call ``install``; a script of somebody else in the same environment
imports everything as it always did.
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

#: Module -> names that others import from it when they are imported themselves, each with the module that has it, or
#: None where a ``DeferredObject`` stands for it. In seconds of a processor: what the module takes with all it imports.
MODULES: dict[str, dict[str, str | None]] = {
    # 1.0 s with sympy; ignite's checkpoints ask of an optimizer whether it is of this kind.
    "torch.distributed.optim": {"ZeroRedundancyOptimizer": None},
    # 1.0 s: all networks, AutoML, pathology; the host uses one function of it, to download apps.
    "monai.apps": {
        "download_and_extract": "monai.apps.utils",
        "download_url": "monai.apps.utils",
        "get_logger": "monai.apps.utils",
    },
    # 0.4 s: MONAI's threads for notebooks draw by it; of ours the reports.
    "matplotlib": {},
    "matplotlib.pyplot": {},
    # 0.6 s: tracking of trainings is off unless MONAI_LABEL_TRACKING_URI is set.
    "mlflow": {},
    # 0.9 s with pandas and pyarrow: distances between cases, once cases are scored.
    "sklearn": {},
    "sklearn.metrics": {},
    # 0.2 s: fits of quality; 0.5 s: tests of rounds and of recipes.
    "scipy.optimize": {"minimize": None, "brentq": None},
    "scipy.stats": {},
    # 0.2 s each: files of some formats.
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

#: Libraries that MONAI asks for by ``optional_import``; the first part of a module's name, or all of it.
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
    """An object of a module that is imported when the object is used: called, subclassed, read, compared with.

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
    """A module that is executed at the first access to an attribute that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        state = self.__dict__.get("__deferred__")
        if state is None:  # another thread has executed it in the meantime, or it is being made
            return object.__getattribute__(self, name)
        if name == "__path__":  # asked of each module by "from module import name"; packages have it
            raise AttributeError(name)
        if name in state.names:
            return state.stand_in(name)
        state.load(self)
        return getattr(self, name)


class _Deferral(Loader):
    """Loader of a ``DeferredModule``.

    Args:
        name: of the module.
        loader: the one that executes it.
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
        """Execute the module, once; a failed import is tried again at the next access, as Python does.

        Raises:
            AttributeError: by the thread that executes it: it does not have what is asked for yet.
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
    """Loader of a module that its package has imported meanwhile."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _MonaiUtils(Loader):
    """Loader of the module by which MONAI imports its parts and its optional libraries."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        # It imports all 500 modules of MONAI, and executes each of them twice.
        vars(module)["load_submodules"] = _load_data_first
        vars(module)["optional_import"] = _optional_import(module.optional_import)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _load_data_first(*args: Any, **kwargs: Any) -> tuple[list[str], list[str]]:
    """In place of MONAI's ``load_submodules``: ``monai.data`` and ``monai.transforms`` import each other, which works
    only if data comes first, as in the order of the alphabet."""
    importlib.import_module("monai.data")
    return [], []


def _optional_import(original: Callable[..., tuple[Any, bool]]) -> Callable[..., tuple[Any, bool]]:
    """MONAI's function, with a ``DeferredObject`` in place of what is in ``OPTIONAL`` and installed."""

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
    """Finds the modules named above, by Python's own finder, and gives them another loader."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name in MODULES:
            return self._with_loader(name, path, lambda loader: _Deferral(name, loader))
        if name == _MONAI_UTILS:
            return self._with_loader(name, path, _MonaiUtils)
        package, _, _ = name.rpartition(".")
        deferral = getattr(sys.modules.get(package), "__dict__", {}).get("__deferred__")
        if deferral is None or deferral._is_running or name in deferral.names.values():
            return None
        # A part of a package is never executed before its package.
        deferral.load(sys.modules[package])
        found = sys.modules.get(name)
        if found is None:
            return None
        # Python takes the spec of a module that came into being meanwhile, and would execute the module again by it.
        found.__spec__ = ModuleSpec(name, _Loaded(found))
        return found.__spec__

    @staticmethod
    def _with_loader(name: str, path: Sequence[str] | None, wrap: Callable[[Loader], Loader]) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = wrap(spec.loader)
        return spec


def install() -> None:
    """From now on, imports of this process wait as described above; once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]


def load(*names: str) -> None:
    """Execute modules that wait; of a process whose forks would each do it. Without names: all that were imported."""
    for name in names or MODULES:
        module = sys.modules.get(name)
        deferral = vars(module).get("__deferred__") if module is not None else None
        if deferral is not None:
            deferral.load(module)
