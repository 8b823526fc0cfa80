"""A program that runs a command, and ends it with all its children once its own standard input is closed.

Whoever started it holds the other end. So the command ends when it is told to and when the one that started it is
gone, however it went: the system closes the files of a process that is killed. It imports nothing of this package,
and is started by its path, so that it costs next to nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

#: Seconds between the request to end and the kill.
PATIENCE_S = 10.0


def main(command: list[str]) -> int:
    """Run the command; its exit status, or 128 and the number of the signal that ended it."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    status = child.wait()
    with suppress(ProcessLookupError, PermissionError):  # what it has started and left behind
        os.killpg(child.pid, signal.SIGKILL)
    return status if status >= 0 else 128 - status


def _watch(child: subprocess.Popen[bytes]) -> None:
    os.read(0, 1)  # nothing is ever written: it returns when the other end is closed
    for request in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, request)
            child.wait(PATIENCE_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
