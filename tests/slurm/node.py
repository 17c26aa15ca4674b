"""Runs a daemon and adopts all that its processes leave behind: the tree of one node.

Steps of jobs detach themselves from slurmd and would be children of process 1, where
nobody could tell whose they are. Started by `cluster.py`; when that is gone, even
by kill -9, the whole tree ends.
"""

import ctypes
import os
import signal
import subprocess
import sys

import psutil

PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> None:
    """Wait until nothing is left below, or whoever started this is gone."""
    owner = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    subprocess.Popen(command)
    # Not before: the daemon would inherit it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        if os.getppid() != owner:
            for process in psutil.Process().children(recursive=True):
                process.kill()
        signal.sigtimedwait({signal.SIGCHLD}, 1)


if __name__ == "__main__":
    main(sys.argv[1:])
