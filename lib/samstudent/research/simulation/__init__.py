"""``samstudent simulate``: active learning on a labelled folder, with the truth as annotator.

For every strategy and seed: a student is trained on the labelled cases, the strategy selects the next batch of the
others from predictions of this student and SAM, their labels are revealed, and so on. The selection is the product's
own code (``active_learning.strategies``, ``active_learning.scores``). All strategies of a seed start with the same
random cases.

``options``: the options; ``choice``: selection of cases; ``run``: the rounds; ``curves``: learning curves;
``report``: the results.
"""
