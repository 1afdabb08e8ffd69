"""What setup.cfg cannot say: the packages of two folders, and a .pth that lets MONAI Label's own command start.

`monailabel start_server` imports pydicom_seg before it imports any app, and pydicom_seg 0.4.1 does not import beside
pydicom 3. The .pth runs `samstudent.server.bootstrap` when Python starts; that module says when it becomes needless.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithStartup(build_py):
    def run(self):
        super().run()
        Path(self.build_lib, "samstudent-host.pth").write_text("import samstudent.server.bootstrap\n")


setup(packages=[*find_packages("lib"), "samstudent.configs"], cmdclass={"build_py": BuildWithStartup})
