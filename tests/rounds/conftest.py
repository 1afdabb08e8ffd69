"""Fixtures of support/sam_models.py for all files of this folder."""

from support.sam_models import tiny

__all__ = ["tiny"]
