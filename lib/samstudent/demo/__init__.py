"""The main job: the whole loop through a real server, as a user's client would walk it."""

from samstudent.demo.run import DemoOptions, run_demo

__all__ = ["DemoOptions", "run_demo"]
