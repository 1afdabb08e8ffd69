"""Fixtures of film_study.py and ct_study.py for all files of this folder."""

from support.ct_study import ct
from support.film_study import films, orthanc

__all__ = ["ct", "films", "orthanc"]
