from __future__ import annotations

import os
import subprocess
import sys

from samstudent.util.processes import process_family


def test_family_is_a_process_with_its_descendants() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        family = [process.pid for process in process_family(os.getpid())]
        assert family[0] == os.getpid() and child.pid in family
    finally:
        child.kill()
        child.wait()
    assert process_family(child.pid) == []
