"""Fixtures that tests of the whole system share."""

from support.ct_study import ct
from support.film_study import film_server, films, orthanc
from support.live_server import client, film_embeddings, server, study
from support.review_bench import bench as review_bench
from support.student_study import bench

__all__ = [
    "bench",
    "client",
    "ct",
    "film_embeddings",
    "film_server",
    "films",
    "orthanc",
    "review_bench",
    "server",
    "study",
]
