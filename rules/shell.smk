# What every shell command of a rule starts with.
import os

# A signal that stops a job reaches all of its processes. tee outlives it: the stage
# still says where it stopped, and to a closed pipe it could not.
# Where the logger `fewstep` shows how far each job is, the log alone has its output.
shell.prefix(
    "set -euo pipefail; tee() {{ trap '' TERM USR2;"
    ' if [ -n "${{FEWSTEP_LOGS_ONLY:-}}" ]; then exec tee "$@" > /dev/null;'
    ' else exec tee "$@"; fi; }}; '
)
if workflow.remote_exec:
    # On a node it is part of the log of the submission too.
    os.environ.pop("FEWSTEP_LOGS_ONLY", None)
