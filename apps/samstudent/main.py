"""The MONAI Label app folder of samstudent: the host looks in here for a subclass of MONAILabelApp."""

from samstudent.server.app import SamstudentApp

__all__ = ["SamstudentApp"]
