"""Fixtures of live_server.py for all files of this folder."""

from support.live_server import film_embeddings, study

__all__ = ["film_embeddings", "study"]
