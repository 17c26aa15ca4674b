"""Verbs of SeqRF: pairs, trainings, solvers, paths."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewstep.cli.launch import start_training
from fewstep.cli.options import (
    Folder,
    Gpus,
    Maybe,
    Model,
    Nodes,
    Out,
    Rows,
    SaveEvery,
    Source,
    Spec,
    Work,
    app,
)


@app.command()
def train_flow(
    spec: Spec,
    work: Work,
    out: Out,
    curve: Rows,
    gpus: Gpus = 1,
    nodes: Nodes = 1,
    save_every: SaveEvery = 1000,
    batch: Annotated[int, typer.Option(help="Samples at once, for scores.")] = 64,
    dataset: Maybe = None,
    pairs: Maybe = None,
    teacher: Maybe = None,
    start: Maybe = None,
    reference: Maybe = None,
    weights: Maybe = None,
    weights_record: Maybe = None,
) -> None:
    """Train, straighten or distil a flow; the same command resumes."""
    start_training(spec, gpus, nodes, save_every)
    from fewstep.stages.flow_recipe import Sources
    from fewstep.stages.sources import check
    from fewstep.stages.train_flow import train_flow as run

    check(weights, weights_record)
    sources = Sources(dataset, pairs, teacher, start, reference, weights)
    run(spec, sources, work, out, curve, batch)


@app.command()
def prepare_flow(spec: Spec, source: Source, out: Out, record: Maybe = None) -> None:
    """Check a published flow and write its averaged weights as safetensors."""
    from fewstep.stages.prepare_flow import prepare as run

    run(spec, source, record, out)


@app.command()
def flow_state(source: Source, out: Out, record: Maybe = None) -> None:
    """Raw weights, average and moments of a training checkpoint of RectifiedFlow."""
    from fewstep.stages.prepare_flow import state as run

    run(source, record, out)


@app.command()
def edges(spec: Spec, model: Model, out: Out) -> None:
    """SeqRF-Ada's segments from trajectories of the teacher."""
    from fewstep.stages.edges import run

    run(spec, model, out)


@app.command()
def pairs(
    spec: Spec,
    number: Annotated[int, typer.Option(help="Number of the shard.")],
    model: Model,
    dataset: Folder,
    out: Out,
    edges: Maybe = None,
    batch: Annotated[int | None, typer.Option(help="Pairs at a time.")] = None,
) -> None:
    """One shard of reflow pairs."""
    from fewstep.stages.pairs import shard

    shard(spec, number, model, dataset, edges, out, batch)


@app.command()
def collect_pairs(
    folder: Folder,
    shards: Annotated[int, typer.Option(help="Number of shards.")],
    count: Annotated[int, typer.Option(help="Number of pairs.")],
    out: Out,
) -> None:
    """Check all shards of reflow pairs in a folder and write their manifest."""
    from fewstep.seqrf.pairs import collect

    records = [folder / f"shard-{number:05d}.json" for number in range(shards)]
    collect(records, out, count)


@app.command()
def solver(spec: Spec, out: Out) -> None:
    """Write the plan of an ODE solver."""
    from fewstep.stages.solver_plan import write

    write(spec, out)


@app.command()
def trajectories(
    spec: Spec,
    model: Model,
    rows: Rows,
    paths: Annotated[Path, typer.Option(help="Parquet file to write.")],
) -> None:
    """Straightness and paths of a flow."""
    from fewstep.stages.trajectories import measure

    measure(spec, model, rows, paths)


@app.command()
def solvers(
    samples: Annotated[list[Path], typer.Option(help="samples.json of a solver.")],
    out: Out,
) -> None:
    """The images of several solvers from the same noise."""
    from fewstep.stages.trajectories import solver_pictures

    solver_pictures(samples, out)
