"""samstudent: from a handful of annotated images to a segmentation model trained on all of them."""

__version__ = "0.1.0"
