"""What makes a graph of thousands of jobs quick to build changes nothing in it."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

from fewstep.graph import Graph, as_json, settle_signatures

ROOT = Path(__file__).parents[1]


def test_signatures_are_noted_on_the_rules_functions() -> None:
    """Of inputs, also inside a file's name, and of params; bound methods stay."""

    def given(wildcards: object) -> str:
        return ""

    def spec(wildcards: object, output: object) -> str:
        return ""

    class Named(str):
        __slots__ = ("_file",)

    file = Named("given")
    file._file = SimpleNamespace(callable=given)
    method = Graph(ROOT).real_images
    rule = SimpleNamespace(input=[file, "a.txt", method], params=[spec, 3])
    before = [inspect.signature(one) for one in (given, spec, method)]
    settle_signatures([rule])
    assert given.__signature__ == before[0]  # type: ignore[attr-defined]
    assert spec.__signature__ == before[1]  # type: ignore[attr-defined]
    assert inspect.signature(method) == before[2]


def test_the_text_of_a_sample_is_its_spec() -> None:
    """Each cell has its own, and it stays the same when it is asked again."""
    graph = Graph(ROOT)
    cells = graph.cells("tarflow")[:3]
    texts = [graph.sample_text(cell) for cell in cells]
    assert texts == [as_json(graph.sample(cell)) for cell in cells]
    assert [graph.sample_text(cell) for cell in cells] == texts
    assert len(set(texts)) == len(texts)
