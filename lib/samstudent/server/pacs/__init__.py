"""PACS as the study: images are read over DICOMweb, labels are stored as DICOM SEG.

``client`` sends DICOMweb requests, ``listing`` defines cases, ``cache`` stores images temporarily, ``sync_state``
records the labels that the PACS has, ``exchange`` synchronises both sides (``incoming``, ``outgoing``), ``datastore``
is the host's datastore of the study; ``pacs_study`` is the interface that ``exchange`` uses.
"""
