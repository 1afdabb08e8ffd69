"""The main job: the whole loop through a real server, as a user's client would walk it."""

from samstudent.demo.run import DemoOptions, run_demo
from samstudent.demo.server import DemoError

__all__ = ["DemoError", "DemoOptions", "run_demo"]
