"""A PACS as the study: images come from it over DICOMweb, labels go back to it as DICOM SEG.

``client`` speaks DICOMweb, ``listing`` says what a case is, ``cache`` holds images for a while, ``sync_state`` records
which labels the PACS has, ``exchange`` brings both sides up to date (``incoming``, ``outgoing``), ``datastore`` is the
host's datastore over all of it; ``pacs_study`` is what ``exchange`` sees of that.
"""
