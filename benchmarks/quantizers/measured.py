"""Runs a command and says what it took: a process so small that its own memory does not count.

    python measured.py ANSWER.json LOG COMMAND…

A child begins with the memory of the process that forks it, which in a benchmark is large. Knows
nothing of arkinfer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main(answer: str, log: str, *command: str) -> None:
    began = time.monotonic()
    with Path(log).open("wb") as said:
        child = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    found = {
        "code": child.returncode,
        "seconds": time.monotonic() - began,
        "mebibytes": used.ru_maxrss / 1024,
    }
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
