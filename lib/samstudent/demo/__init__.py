"""Demo: one active learning loop with a real server and a simulated annotator as its client."""

from samstudent.demo.run import DemoOptions, run_demo
from samstudent.demo.server import DemoError

__all__ = ["DemoError", "DemoOptions", "run_demo"]
