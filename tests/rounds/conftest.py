"""Fixtures of support/student_study.py and support/sam_models.py for all files of this folder."""

from support.sam_models import tiny
from support.student_study import bench, trained

__all__ = ["bench", "tiny", "trained"]
