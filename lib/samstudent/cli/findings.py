"""Findings of a command, printed as one line each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape

from samstudent.errors import UserError
from samstudent.imaging.remarks import Remark, sentences

console = Console()


def print_finding(kind: str, text: str, style: str = "yellow") -> None:
    """Print a finding with its kind as prefix; file names are not interpreted as markup."""
    console.print(f"[{style}]{kind}[/] {escape(text)}", soft_wrap=True)


def first_names(names: Sequence[str], most: int = 5) -> str:
    """The first of some names for a message, with dots for the rest."""
    return f"{', '.join(names[:most])}{' ...' if len(names) > most else ''}"


@dataclass
class Findings:
    """Findings of a command; with at least one fault the command fails."""

    faults: int = 0
    noted: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)

    def ok(self, subject: str, text: str) -> None:
        print_finding("ok   ", f"{subject:12} {text}", "green")

    def note(self, subject: str, text: str) -> None:
        """Report an unusual property that may be intended; once, because file readers also log it."""
        if text not in self.noted:
            self.noted.add(text)
            print_finding("note ", f"{subject:12} {text}")

    def warn(self, subject: str, text: str) -> None:
        """Report a property that the user has to check."""
        print_finding("check", f"{subject:12} {text}", "yellow")

    def fault(self, subject: str, text: str) -> None:
        """Report an error; once, because all frames of a clip have the error of their file."""
        line = f"{subject:12} {text}"
        if line not in self.reported:
            self.reported.add(line)
            self.faults += 1
            print_finding("wrong", line, "red")

    def remarks(self, subject: str, remarks: Sequence[Remark], folder: str = "") -> None:
        for line in sentences([remark for remark in remarks if remark.is_fault], folder):
            self.fault(subject, line)
        for line in sentences([remark for remark in remarks if not remark.is_fault], folder):
            self.note(subject, line)

    def check(self, subject: str, action: Callable[[], str]) -> None:
        try:
            self.ok(subject, action())
        except UserError as error:
            self.fault(subject, str(error))


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
