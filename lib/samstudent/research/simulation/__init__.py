"""``samstudent simulate``: active learning on a labelled folder, with the truth as annotator.

For every strategy and seed: a student learns from the labelled cases, the strategy chooses the next batch among the
others by what this student and SAM predict, their labels are uncovered, and so on. The product's own code chooses
(``active_learning.strategies``, ``active_learning.scores``). All strategies of a seed start with the same drawn cases.

``options``: what is asked for; ``choice``: the next cases; ``run``: the rounds; ``curves``: what is measured;
``report``: the results.
"""
