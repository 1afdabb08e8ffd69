"""``samstudent experiment``: numbers of labels x methods x seeds on a labelled folder, measured and told in one report.

``data`` reads the folder, ``methods`` says what each method is made of, ``work`` does the jobs, ``run`` plans them and
shares them among processes, ``summary`` and ``report`` turn their results into figures, tables and pictures.
"""
