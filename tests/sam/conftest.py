"""Fixtures of support/sam_models.py for all files of this folder."""

from support.sam_models import lite, small, tiny, tiny_sam

__all__ = ["lite", "small", "tiny", "tiny_sam"]
