"""What the rules ask of the configuration: targets, inputs, and each stage's spec.

Imported when a Snakefile is parsed, so without torch. A spec holds exactly what decides
a job's output; it becomes the job's params, so a change reruns that job and no other.
"""

from fewstep.graph.base import as_json, code, one_of, use_this_python
from fewstep.graph.par import ParGraph
from fewstep.graph.seqrf import SeqRFGraph
from fewstep.graph.tarflow import TarFlowGraph

__all__ = ["Graph", "as_json", "code", "one_of", "use_this_python"]


class Graph(TarFlowGraph, SeqRFGraph, ParGraph):
    """The configuration as the rules see it; see `DataGraph` for the arguments."""
