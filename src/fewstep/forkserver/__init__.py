"""torch imported once for the jobs of a local run, not once a job.

`client.py` stands in for `python -m fewstep` in the rules' shell (rules/shell.smk). It
asks the fork server of its Snakemake, which has torch imported already, for a process
of its own; where anything speaks against that, it becomes the plain command. A server
is reached only by jobs that would start exactly as it did itself: same interpreter,
folder, environment, mask. So the libraries that a child inherits have read the settings
that it would have given them.
"""

from __future__ import annotations

import os
from pathlib import Path


def offer(here: bool) -> None:
    """Tell the jobs of this Snakemake where to ask: FEWSTEP_FORKSERVER, unless it is 0.

    Args:
        here: whether they run on this machine.
    """
    if os.environ.get("FEWSTEP_FORKSERVER") != "0":
        client = Path(__file__).with_name("client.py")
        os.environ["FEWSTEP_FORKSERVER"] = f"{os.getpid()} {client}" if here else "0"
