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

DEMO = GRAPH.demo()
