"""``samstudent reproduce``: published experiments on the films and annotations that their authors used.

``films`` reads the lists of films, ``split`` assigns them to training, validation and test, ``prepare`` writes a folder
for ``samstudent experiment``, and ``command`` runs it with the publication's settings. The wrist study: Keuth et al.,
"SAM Carries the Burden", arXiv 2411.12602, on GRAZPEDWRI-DX (Nagy et al., Scientific Data 2022).
"""
