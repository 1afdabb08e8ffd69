"""Size of two checkouts: lines, modules, keys of the task file, and assignments to other packages.

python benchmarks/size.py BEFORE AFTER            # prints the table
python benchmarks/size.py BEFORE AFTER --list     # also prints the counted assignments
python benchmarks/size.py BEFORE AFTER --keep     # writes docs/results/size.json; then: make docs

Assignments are found in the source text: ``name.attribute = ...``, ``vars(name)[...] = ...``, ``setattr(name, ...)``,
where ``name`` is imported from one of ``PACKAGES``, or is a parameter for a module or a FastAPI application. Of a
function with ``setattr(parameter, ...)`` the calls with such names are counted. Objects that are only found at run
time (e.g. routes of the host) are not counted.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from samstudent.research.result_tables import markdown_table

RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "size.json"
#: Packages whose attributes should not be assigned.
PACKAGES = ("monailabel", "fastapi", "starlette", "torch", "monai", "logging", "pydicom", "uvicorn")
#: Types of parameters that are modules or applications of these packages.
_TYPES = ("ModuleType", "FastAPI")
#: Attributes that Python's import system, or FastAPI, define for assignment.
_INTENDED = ("__spec__", "__loader__", "__class__", "state")
_COUNT_KEYS = """
import sys, typing
from pydantic import BaseModel
from samstudent.task import Task

def models(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models(part)

def count(model):
    inner = [next(models(field.annotation), None) for field in model.model_fields.values()]
    return sum(1 if found is None else count(found) for found in inner)

print(count(Task))
"""


def main() -> None:
    """Print, and with ``--keep`` write, the table of two checkouts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--list", action="store_true", help="print the counted assignments")
    parser.add_argument("--keep", action="store_true", help="write docs/results/size.json")
    options = parser.parse_args()
    checkouts = (options.before, options.after)
    measured = [measure(checkout) for checkout in checkouts]
    columns = [
        "figure",
        *(f"{name}, commit {commit(path)}" for name, path in zip(("before", "after"), checkouts, strict=True)),
    ]
    rows = [[row, *(f"{figures[row]:,}" for figures in measured)] for row in measured[0]]
    print(markdown_table(columns, rows))
    if options.list:
        for checkout in checkouts:
            print(*(f"{place}: {text}" for place, text in assignments(checkout / "lib")), "", sep="\n")
    if options.keep:
        content = {
            "kind": "table",
            "title": "Size of library and tests, before and after the rebuild",
            "command": "python benchmarks/size.py BEFORE AFTER --keep   (paths of two checkouts)",
            "when": time.strftime("%Y-%m-%d"),
            "note": "Lines include blank lines and comments; empty modules are not counted. Keys: without sections. "
            "Assignments: to attributes of other packages, mainly of the host (definition in benchmarks/size.py).",
            "columns": columns,
            "rows": rows,
        }
        RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def measure(checkout: Path) -> dict[str, int]:
    """Figures of a checkout by name."""
    library, tests = (sorted((checkout / folder).rglob("*.py")) for folder in ("lib", "tests"))
    page = [path for path in (checkout / "lib").rglob("*") if path.suffix in (".js", ".css", ".html")]
    lines = [_lines(path) for path in library]
    return {
        "library: lines of Python": sum(lines),
        "library: modules": sum(1 for count in lines if count),
        "library: modules of more than 300 lines": sum(count > 300 for count in lines),
        "library: lines of JavaScript, CSS, HTML": sum(map(_lines, page)),
        "tests: lines of Python": sum(map(_lines, tests)),
        "tests: modules": sum(1 for path in tests if _lines(path)),
        "keys of the task file": keys(checkout),
        "assignments to other packages": len(list(assignments(checkout / "lib"))),
    }


def keys(checkout: Path) -> int:
    """Number of keys of the task file, without sections."""
    command = [sys.executable, "-c", _COUNT_KEYS]
    path = str((checkout / "lib").resolve())
    done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def commit(checkout: Path) -> str:
    """Abbreviated commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def assignments(library: Path) -> Iterator[tuple[str, str]]:
    """Assignments to attributes of other packages: file and line, and source text."""
    for path in sorted(library.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in _Assignments(tree).found:
            yield f"{path.relative_to(library)}:{node.lineno}", ast.unparse(node).split("\n")[0][:100]


class _Assignments(ast.NodeVisitor):
    """Visitor of one module; ``found``: a node for each assignment.

    Args:
        tree: the module.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[ast.stmt | ast.expr] = []
        self.imported = set(_imported(tree))
        #: Number of objects by the name that refers to them; several: a loop variable.
        self.names = dict.fromkeys(self.imported, 1)
        #: Position of the parameter to whose attributes a function assigns, by the function's name.
        self.setters: dict[str, int] = {}
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                arguments = [argument.arg for argument in function.args.args]
                for call in ast.walk(function):
                    if _is_setattr(call) and (name := _root(call.args[0])) in arguments and name in _typed(function):
                        self.setters[function.name] = arguments.index(name)
        self.visit(tree)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        names = self.names
        self.names = names | dict.fromkeys(_typed(node), 1)
        self.generic_visit(node)
        self.names = names

    def visit_For(self, node: ast.For) -> None:
        names = self.names
        if isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Tuple):
            count = sum(_root(element) in names for element in node.iter.elts)
            self.names = names | ({node.target.id: count} if count else {})
        self.generic_visit(node)
        self.names = names

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            match target:
                case ast.Attribute(value, attribute) if attribute not in _INTENDED:
                    self._count(node, value)
                case ast.Subscript(ast.Call(ast.Name("vars"), [value])):
                    self._count(node, value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(ast.Name(name), arguments) if name in self.setters and len(arguments) > self.setters[name]:
                self._count(node, arguments[self.setters[name]])
            case ast.Call(ast.Name("setattr"), [value, *_]) if _root(value) in self.imported:
                self._count(node, value)
        self.generic_visit(node)

    def _count(self, node: ast.stmt | ast.expr, value: ast.expr) -> None:
        if not any(isinstance(part, ast.Attribute) and part.attr in _INTENDED for part in ast.walk(value)):
            self.found += [node] * self.names.get(_root(value), 0)


def _imported(tree: ast.Module) -> Iterator[str]:
    """Names that a module imports from ``PACKAGES``, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                (alias.asname or alias.name.partition(".")[0])
                for alias in node.names
                if alias.name.partition(".")[0] in PACKAGES
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES:
            yield from (alias.asname or alias.name for alias in node.names)


def _typed(function: ast.FunctionDef) -> list[str]:
    """Parameters of a function that are modules or applications."""
    return [
        argument.arg
        for argument in function.args.args
        if argument.annotation is not None and ast.unparse(argument.annotation) in _TYPES
    ]


def _is_setattr(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr"


def _root(node: ast.expr) -> str:
    """Name at the begin of a chain of attributes; "" if there is none."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    main()
