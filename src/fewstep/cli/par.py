"""Verbs of PAR: tokenizers, codes, trainings, plans."""

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

Tokenizer = Annotated[Path, typer.Option(help="….safetensors of a tokenizer.")]


@app.command()
def train_tokenizer(
    spec: Spec,
    dataset: Folder,
    work: Work,
    out: Out,
    curve: Rows,
    gpus: Gpus = 1,
    nodes: Nodes = 1,
    save_every: SaveEvery = 1000,
) -> None:
    """Train a VQ tokenizer; the same command resumes."""
    start_training(spec, gpus, nodes, save_every)
    from fewstep.stages.train_tokenizer import train_tokenizer as run

    run(spec, dataset, work, out, curve)


@app.command()
def prepare_tokenizer(
    spec: Spec, source: Source, out: Out, record: Maybe = None
) -> None:
    """Check a published tokenizer and write it as safetensors."""
    from fewstep.stages.prepare_tokenizer import prepare as run

    run(spec, source, record, out)


@app.command()
def reconstruct(
    spec: Spec,
    tokenizer: Tokenizer,
    dataset: Folder,
    reference: Annotated[Path, typer.Option(help="Reference .npz.")],
    out: Out,
    picture: Annotated[Path, typer.Option(help="PNG file to write.")],
    weights: Maybe = None,
    weights_record: Maybe = None,
) -> None:
    """Error, score and picture of a tokenizer's reconstructions."""
    from fewstep.stages.reconstruct import reconstruct as run

    run(spec, tokenizer, dataset, reference, weights, out, picture, weights_record)


@app.command()
def index_images(spec: Spec, out: Out) -> None:
    """List the images of a folder."""
    from fewstep.stages.code_index import index as run

    run(spec, out)


@app.command()
def codes(
    spec: Spec,
    number: Annotated[int, typer.Option(help="Number of the shard.")],
    tokenizer: Tokenizer,
    dataset: Annotated[Path, typer.Option(help="index.json, or a dataset's folder.")],
    out: Out,
    batch: Annotated[int, typer.Option(help="Views at a time.")] = 64,
) -> None:
    """One shard of the codes of a dataset."""
    from fewstep.stages.codes import shard as run

    run(spec, number, tokenizer, dataset, out, batch)


@app.command()
def collect_codes(
    spec: Spec,
    folder: Annotated[Path, typer.Option(help="Folder of the shards.")],
    shards: Annotated[int, typer.Option(help="Number of shards.")],
    out: Out,
) -> None:
    """Check all shards of codes in a folder and write their manifest."""
    from fewstep.stages.codes import collect as run

    records = [folder / f"shard-{number:05d}.json" for number in range(shards)]
    run(spec, records, out)


@app.command()
def import_codes(
    spec: Spec,
    folder: Annotated[Path, typer.Option(help="Folder of the released files.")],
    tokenizer: Tokenizer,
    out: Out,
) -> None:
    """Turn codes that LlamaGen's program wrote into shards of ours."""
    from fewstep.stages.import_codes import import_released as run

    run(spec, folder, out, tokenizer)


@app.command()
def train_par(
    spec: Spec,
    codes: Annotated[Path, typer.Option(help="codes.json.")],
    work: Work,
    out: Out,
    curve: Rows,
    start: Maybe = None,
    gpus: Gpus = 1,
    nodes: Nodes = 1,
    save_every: SaveEvery = 1000,
) -> None:
    """Train a PAR transformer; the same command resumes."""
    start_training(spec, gpus, nodes, save_every)
    from fewstep.stages.train_par import train_par as run

    run(spec, codes, start, work, out, curve)


@app.command()
def prepare_par(spec: Spec, source: Source, out: Out, record: Maybe = None) -> None:
    """Check a published transformer and write it as safetensors."""
    from fewstep.stages.prepare_par import prepare as run

    run(spec, source, record, out)


@app.command()
def token_plan(spec: Spec, tokenizer: Tokenizer, out: Out) -> None:
    """Write the plan of a PAR sampler."""
    from fewstep.stages.token_plan import write as run

    run(spec, tokenizer, out)


@app.command()
def token_order(
    spec: Spec,
    model: Model,
    plan: Plan,
    strip: Annotated[Path, typer.Option(help="PNG of a filmstrip.")],
    moving: Annotated[Path, typer.Option(help="Animated PNG.")],
) -> None:
    """Pictures of which tokens are drawn at which step."""
    from fewstep.stages.token_order import draw_order as run

    run(spec, model, plan, strip, moving)


@app.command()
def adm_batch(
    samples: Annotated[Path, typer.Option(help="samples.json.")],
    out: Out,
    seed: Annotated[int, typer.Option(help="Of the order.")] = 0,
) -> None:
    """Samples as the .npz that guided-diffusion's evaluator reads, shuffled."""
    from fewstep.stages.adm_batch import write as run

    run(samples, out, seed)
