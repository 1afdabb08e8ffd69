"""Fixtures of review_bench.py for all files of this folder."""

from support.review_bench import bench

__all__ = ["bench"]
