"""Exchange of data with other tools: import into a study, and export of a study, as nnU-Net, COCO, CVAT, label maps."""
