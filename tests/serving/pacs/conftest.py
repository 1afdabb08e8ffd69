"""Fixtures of film_study.py for all files of this folder."""

from film_study import film_server, films, orthanc

__all__ = ["film_server", "films", "orthanc"]
