"""Verbs of TarFlow: training, ranking, strategies, their search."""

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
    Plan,
    Rows,
    SaveEvery,
    Source,
    Spec,
    Work,
    app,
)


@app.command()
def train_tarflow(
    spec: Spec,
    dataset: Folder,
    work: Work,
    out: Out,
    curve: Rows,
    gpus: Gpus = 1,
    nodes: Nodes = 1,
    save_every: SaveEvery = 1000,
) -> None:
    """Train a TarFlow; the same command resumes."""
    start_training(spec, gpus, nodes, save_every)
    from fewstep.stages.train_tarflow import train_tarflow as run

    run(spec, dataset, work, out, curve)


@app.command()
def prepare_tarflow(spec: Spec, source: Source, out: Out, record: Maybe = None) -> None:
    """Check a published TarFlow and write it as safetensors."""
    from fewstep.stages.prepare_tarflow import prepare as run

    run(spec, source, record, out)


@app.command()
def rank(
    spec: Spec, model: Model, dataset: Folder, out: Out, blocks: Rows, profile: Rows
) -> None:
    """IGM, CRM and the empirical profile of every block."""
    from fewstep.stages.rank import rank as run

    run(spec, model, dataset, out, blocks, profile)


@app.command()
def strategy(spec: Spec, out: Out, rank: Maybe = None) -> None:
    """Write a strategy that needs no search."""
    from fewstep.stages.strategy import write

    write(spec, rank, out)


@app.command()
def search(
    spec: Spec,
    model: Model,
    rank: Annotated[Path, typer.Option(help="rank.json.")],
    out: Out,
    strategies: Rows,
    profile: Rows,
) -> None:
    """Search the fastest strategy within a tolerance."""
    from fewstep.stages.search import run

    run(spec, model, rank, out, strategies, profile)


@app.command()
def trace(spec: Spec, model: Model, plan: Plan, out: Out) -> None:
    """The filmstrip from noise to image."""
    from fewstep.stages.pictures import trace as run

    run(spec, model, plan, out)


@app.command()
def side_by_side(
    samples: Annotated[list[Path], typer.Option(help="samples.json of a sampler.")],
    out: Out,
) -> None:
    """Images of several samplers from the same noise, and their differences."""
    from fewstep.stages.side_by_side import side_by_side as run

    run(samples, out)
