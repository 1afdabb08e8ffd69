"""Fixtures of live_server.py for all files of this folder."""

from support.live_server import client, server, study

__all__ = ["client", "server", "study"]
