"""``samstudent experiment``: numbers of labels x methods x seeds on a labelled folder, measured and compared.

``methods`` defines each method as jobs, ``plan`` has the jobs and their order, ``work`` does them, ``runner`` submits
them to an engine, ``summary``, ``results`` and ``report`` turn their results into figures, JSON and a page.
"""
