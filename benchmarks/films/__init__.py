"""Drawn radiographs for ``benchmarks/drawn.py``."""
