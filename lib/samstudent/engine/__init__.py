"""Execution of many independent pieces of work: one protocol, in this process or in local processes.

``protocol`` says what an engine does, ``store`` where results lie, ``in_process`` and ``local_processes`` are engines.
"""
