"""Evaluation of one round, or comparison of two, on labelled cases: ``samstudent evaluate``."""
