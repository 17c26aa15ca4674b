# What every shell command of a rule starts with.
import os

from fewstep import forkserver

# A signal that stops a job reaches all of its processes. tee outlives it: the stage
# still says where it stopped, and to a closed pipe it could not.
# Where the logger `fewstep` shows how far each job is, the log alone has its output.
shell.prefix(
    "set -euo pipefail; tee() {{ trap '' TERM USR2;"
    ' if [ -n "${{FEWSTEP_LOGS_ONLY:-}}" ]; then exec tee "$@" > /dev/null;'
    ' else exec tee "$@"; fi; }}; '
    # Bash says "Killed", with the whole command, where it waits for a process: here that
    # is the shell in the pipe, so it stands in the log and not amid the bars.
    'if [ -n "${{FEWSTEP_LOGS_ONLY:-}}${{FEWSTEP_FORKSERVER:-}}" ]; then python() {{'
    " trap : TERM USR2;"
    # `PID CLIENT`, see src/fewstep/forkserver.
    ' if [ "${{FEWSTEP_FORKSERVER:-0}}" = 0 ]; then command python "$@" || return;'
    ' else command python -S -E "${{FEWSTEP_FORKSERVER#* }}" "$@" || return; fi; }}; fi; '
)
if workflow.remote_exec:
    # On a node it is part of the log of the submission too.
    os.environ.pop("FEWSTEP_LOGS_ONLY", None)
if not workflow.subprocess_exec:
    # Jobs of this machine take torch from a process that has imported it.
    forkserver.offer(here=workflow.local_exec and not workflow.remote_exec)
if workflow.subprocess_exec:
    # The Snakemake of a `run:` job: with nobody at the other end of a pipe it would wait
    # for ever after its first word, so it ends.
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
