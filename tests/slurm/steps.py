"""A program that can be told to save: it counts, and after a restart it goes on.

    python steps.py WORK STEPS GATE

At its first start it waits before step GATE until the file WORK/go is there, so that a
test decides when it goes on; with WORK/hold it does so at every start. It saves only
when SIGUSR2 or SIGTERM comes, and then ends with status 75.

Files in WORK: `starts` (one line of JSON a start), `steps` (one line a step), `signals`
(one line a signal), `count` (what was saved).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

SHOWN = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURMD_NODENAME", "SUBMITIT_STARTS")


def add(path: Path, line: str) -> None:
    """Append a line at once."""
    with path.open("a") as file:
        file.write(f"{line}\n")


def main(folder: str, steps: int, gate: int) -> int:
    """Count from where it was to `steps`."""
    work = Path(folder)
    work.mkdir(parents=True, exist_ok=True)
    told: list[int] = []
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda number, frame: told.append(number))
    saved = work / "count"
    count = int(saved.read_text()) if saved.exists() else 0
    shown = {name: os.environ.get(name, "") for name in SHOWN}
    closed = not (work / "starts").exists() or (work / "hold").exists()
    add(work / "starts", json.dumps({**shown, "from": count}))
    while count < steps:
        if told:
            add(work / "signals", signal.Signals(told[0]).name)
            saved.write_text(str(count))
            sys.stdout.write(f"saved at step {count}\n")
            return 75
        if not closed or count != gate or (work / "go").exists():
            add(work / "steps", str(count))
            count += 1
        time.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
