"""Execution of many independent pieces of work: one protocol, in this process or in local processes.

``protocol`` defines an engine, ``store`` keeps results, ``in_process`` and ``local_processes`` are engines.
"""
