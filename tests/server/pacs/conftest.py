"""Fixtures of film_study.py for all files of this folder."""

from support.film_study import orthanc

__all__ = ["orthanc"]
