"""``samstudent experiment``: numbers of labels x methods x seeds on a labelled folder, measured and compared.

``methods`` says what each method is made of, ``plan`` holds jobs and their order, ``work`` does them, ``runner`` gives
them to an engine, ``summary``, ``results`` and ``report`` turn their results into figures, JSON and a page.
"""
