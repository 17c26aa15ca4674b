# The checked configuration; what the rules ask of it is in fewstep/graph.py.
import sys
from pathlib import Path

from fewstep.errors import UserError
from fewstep.graph import Graph, as_json, code, one_of, use_this_python

use_this_python()
try:
    GRAPH = Graph(
        Path(workflow.basedir),
        workflow.config_settings.configfiles or (),
        workflow.config_settings.config,
    )
except UserError as error:
    # A user's mistake is one line, not Snakemake's report of an exception.
    sys.exit(f"fewstep: {error}")

ALL_CORES = workflow.cores or 1

# A signal that stops a job reaches all of its processes. tee outlives it: the stage
# still says where it stopped, and to a closed pipe it could not.
shell.prefix("set -euo pipefail; tee() {{ trap '' TERM USR2; exec tee \"$@\"; }}; ")

DEMO = GRAPH.demo()


def fetched_extractors():
    """Extractors whose weights torch-fidelity fetches."""
    named = GRAPH.config.extractors.items()
    return [n for n, own in named if own.kind != "classifier" and own.weights is None]


def extractor_files(reference):
    """What makes sure that the extractor of a reference is there."""
    name = GRAPH.config.references[reference].extractor
    if name in fetched_extractors():
        return [f"results/extractors/{name}.json"]
    return GRAPH.extractor_inputs(reference)


def reference_gpus(reference):
    """One, but where published statistics are only read; an .npz may hold images."""
    own = GRAPH.config.references[reference]
    read = own.file is not None and not GRAPH.asset_path(own.file).endswith(".npz")
    return 0 if read else 1
