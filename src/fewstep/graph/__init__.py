"""What the rules ask of the configuration: targets, inputs, and each stage's spec.

Imported when a Snakefile is parsed, so without torch. A spec holds exactly what decides
a job's output; it becomes the job's params, so a change reruns that job and no other.
"""

from fewstep.graph.asked import check_command
from fewstep.graph.base import as_json, code, one_of, settle_signatures, use_this_python
from fewstep.graph.resources import ResourceGraph
from fewstep.graph.smoke import SmokeGraph

__all__ = [
    "Graph",
    "as_json",
    "check_command",
    "code",
    "one_of",
    "settle_signatures",
    "use_this_python",
]


class Graph(ResourceGraph, SmokeGraph):
    """The configuration as the rules see it; see `DataGraph` for the arguments."""
