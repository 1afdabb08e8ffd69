"""What a command finds: a line each on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape

from samstudent.errors import UserError
from samstudent.imaging.folder import Remark, sentences

console = Console()


def print_finding(what: str, text: str, style: str = "yellow") -> None:
    """Print a line with the kind of finding in front; names of files are no markup."""
    console.print(f"[{style}]{what}[/] {escape(text)}", soft_wrap=True)


@dataclass
class Findings:
    """Findings of a command; a fault makes it fail."""

    faults: int = 0
    noted: set[str] = field(default_factory=set)

    def ok(self, what: str, text: str) -> None:
        print_finding("ok   ", f"{what:12} {text}", "green")

    def note(self, what: str, text: str) -> None:
        """Report what may be as intended, but that people should know; once, although readers log it, too."""
        if text not in self.noted:
            self.noted.add(text)
            print_finding("note ", f"{what:12} {text}")

    def warn(self, what: str, text: str) -> None:
        """Report what may be right or wrong, which only the user can tell."""
        print_finding("check", f"{what:12} {text}", "yellow")

    def fault(self, what: str, text: str) -> None:
        self.faults += 1
        print_finding("wrong", f"{what:12} {text}", "red")

    def remarks(self, what: str, remarks: Sequence[Remark], folder: str = "") -> None:
        for line in sentences([remark for remark in remarks if remark.is_fault], folder):
            self.fault(what, line)
        for line in sentences([remark for remark in remarks if not remark.is_fault], folder):
            self.note(what, line)

    def check(self, what: str, action: Callable[[], str]) -> None:
        try:
            self.ok(what, action())
        except UserError as error:
            self.fault(what, str(error))


class _Notes(logging.Handler):
    """Log handler that turns warnings of file readers into notes."""

    def __init__(self, findings: Findings) -> None:
        super().__init__(logging.WARNING)
        self.findings = findings

    def emit(self, record: logging.LogRecord) -> None:
        self.findings.note("file", record.getMessage())


@contextmanager
def warnings_as_notes(findings: Findings) -> Iterator[None]:
    """Report warnings of this package as notes instead of on standard error."""
    logger, handler = logging.getLogger("samstudent"), _Notes(findings)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
