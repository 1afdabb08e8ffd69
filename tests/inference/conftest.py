"""Fixtures of support/student_study.py for all files of this folder."""

from support.student_study import bench, trained

__all__ = ["bench", "trained"]
