"""The command line: one verb a stage, which is what the rules call.

A stage's settings come as one JSON value (`--spec`), resolved from config.yaml by the
workflow; everything else is a path. A user's mistake is one line and exit status 1.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.errors import UserError

TRY_AGAIN = 75
"""Exit status of a job that was told to stop and saved its state (EX_TEMPFAIL)."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Stages of the fewstep workflow; run them through snakemake.",
)


def _spec(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"not valid JSON ({error})", where="--spec") from error
    if not isinstance(value, dict):
        raise UserError("not a mapping", where="--spec")
    return value


Spec = Annotated[dict[str, Any], typer.Option(parser=_spec, help="JSON settings.")]
Out = Annotated[Path, typer.Option(help="File to write.")]
Rows = Annotated[Path, typer.Option(help="Parquet file to write.")]
Model = Annotated[Path, typer.Option(help="model.safetensors.")]
Plan = Annotated[Path, typer.Option(help="strategy.json.")]
Folder = Annotated[Path, typer.Option(help="Folder of a dataset.")]
Source = Annotated[Path, typer.Option(help="The checkpoint to read.")]
Maybe = Annotated[Path | None, typer.Option()]
Threads = Annotated[int, typer.Option(help="CPU threads.")]


@app.callback()
def _start(threads: Threads = 0) -> None:
    logging.basicConfig(level=logging.INFO, format="  %(message)s", stream=sys.stderr)
    # httpx reports every request at this level; the address may hold a signature.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if threads:
        from fewstep.device import set_threads

        set_threads(threads)


@app.command()
def dataset(spec: Spec, folder: Folder) -> None:
    """Build a dataset."""
    from fewstep.stages.dataset import build

    build(spec, folder)


@app.command()
def fetch(spec: Spec, out: Out) -> None:
    """Download, or find, and verify an asset; write what is known of it."""
    from fewstep import files, hub

    files.write_json(out, hub.fetch(spec))


@app.command()
def extractor(spec: Spec, dataset: Folder, out: Out) -> None:
    """Train the classifier that scores a dataset's images."""
    from fewstep.stages.extractor import build

    build(spec, dataset, out)


@app.command()
def reference(
    spec: Spec,
    extractor: Annotated[dict[str, Any], typer.Option(parser=_spec)],
    out: Out,
    weights: Maybe = None,
    dataset: Maybe = None,
    file: Maybe = None,
) -> None:
    """Make or read reference statistics."""
    from fewstep.stages.reference import build

    build(spec, extractor, out, weights=weights, dataset=dataset, file=file)


@app.command()
def train(
    spec: Spec,
    dataset: Folder,
    work: Annotated[Path, typer.Option(help="Folder of the run's checkpoint.")],
    out: Out,
    curve: Rows,
    gpus: Annotated[int, typer.Option(help="Several start under torchrun.")] = 1,
) -> None:
    """Train a model; the same command resumes."""
    if gpus > 1 and "WORLD_SIZE" not in os.environ:
        launch = ["-m", "torch.distributed.run", "--standalone"]
        launch += [f"--nproc-per-node={gpus}", "-m", "fewstep", *sys.argv[1:]]
        os.execv(sys.executable, [sys.executable, *launch])
    from fewstep.stages.train import train_tarflow

    train_tarflow(spec, dataset, work, out, curve)


@app.command()
def prepare(spec: Spec, source: Source, out: Out, record: Maybe = None) -> None:
    """Check a published checkpoint and write it as safetensors."""
    from fewstep.stages.checkpoint import prepare_tarflow

    prepare_tarflow(spec, source, record, out)


@app.command()
def export(
    source: Source,
    out: Out,
    command: Annotated[str, typer.Option(help="What trained it.")] = "",
) -> None:
    """Write a trained model in half precision, as a small asset."""
    from fewstep.stages.checkpoint import export as run

    run(source, out, command)


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
def sample(
    spec: Spec,
    model: Model,
    plan: Plan,
    seed: Annotated[int, typer.Option(help="Seed of the run.")],
    out: Out,
) -> None:
    """Draw samples in shards; the same command resumes."""
    from fewstep.stages.sample import run

    run(spec, model, plan, seed, out)


@app.command()
def timing(
    spec: Spec,
    model: Model,
    plan: Plan,
    baseline_model: Model,
    baseline_plan: Plan,
    out: Out,
    rows: Rows,
) -> None:
    """Time a sampler beside its baseline."""
    from fewstep.stages.timing import run

    run(spec, model, plan, baseline_model, baseline_plan, out, rows)


@app.command()
def score(
    spec: Spec,
    samples: Annotated[list[Path], typer.Option(help="samples.json of a seed.")],
    reference: Annotated[Path, typer.Option(help="Reference .npz.")],
    out: Out,
    weights: Maybe = None,
) -> None:
    """Score samples against the reference."""
    from fewstep.stages.score import run

    run(spec, samples, reference, weights, out)


@app.command()
def evaluate(
    spec: Spec,
    scores: Annotated[Path, typer.Option()],
    timing: Annotated[Path, typer.Option()],
    samples: Annotated[list[Path], typer.Option(help="samples.json of a seed.")],
    plan: Plan,
    out: Out,
    table: Annotated[Path, typer.Option(help="Shared table of evaluations.")],
    dataset: Maybe = None,
) -> None:
    """One evaluation's JSON and its rows in the table."""
    from fewstep.stages.evaluate import run

    run(spec, scores, timing, samples, plan, out, table, dataset)


@app.command()
def grid(
    samples: Annotated[Path, typer.Option(help="samples.json.")],
    out: Out,
    rows: int = 8,
    columns: int = 10,
) -> None:
    """A grid of the first samples."""
    from fewstep.stages.pictures import sample_grid

    sample_grid(samples, out, rows=rows, columns=columns)


@app.command()
def trace(spec: Spec, model: Model, plan: Plan, out: Out) -> None:
    """The filmstrip from noise to image."""
    from fewstep.stages.pictures import trace as run

    run(spec, model, plan, out)


@app.command()
def charts(
    rank: Maybe = None,
    convergence: Maybe = None,
    training: Maybe = None,
    blocks_table: Maybe = None,
    convergence_table: Maybe = None,
    training_table: Maybe = None,
) -> None:
    """Charts of a model's tables; each --NAME is a PNG made of --NAME-table."""
    from fewstep.stages import pictures

    wanted = {"rank": rank, "convergence": convergence, "training": training}
    pictures.charts(
        {name: path for name, path in wanted.items() if path is not None},
        blocks=blocks_table,
        convergence=convergence_table,
        training=training_table,
    )


@app.command()
def unlock() -> None:
    """Release this folder's lock if the Snakemake that took it was killed."""
    from fewstep.locks import release_stale

    if release_stale():
        print("released the lock of a Snakemake that was killed", file=sys.stderr)


@app.command()
def tables(spec: Spec) -> None:
    """Bring results/tables up to date."""
    from fewstep.stages.report import file_rows

    file_rows(spec)


@app.command()
def report(spec: Spec, out: Out) -> None:
    """The report page of what is there."""
    from fewstep.stages.report import build

    build(spec, out)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Folder of a report.")],
) -> None:
    """Print a report's table, its pictures and the path of its page."""
    from rich.console import Console

    from fewstep import files
    from fewstep.report import terminal_table

    index = files.read_json(folder / "report.json")
    console = Console()
    console.print()
    console.print(terminal_table(index["evaluations"]))
    console.print("\npictures")
    for path in index["pictures"]:
        console.print(f"  {path}", highlight=False)
    console.print(f"\nreport\n  {Path(index['page']).resolve()}", highlight=False)


def main() -> None:
    """Run the command line."""
    try:
        app(standalone_mode=True)
    except UserError as error:
        print(f"fewstep: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        # By name, for the classes live in modules that import torch.
        if type(error).__name__ == "PreemptedError":
            print(f"fewstep: {error}; the same command goes on", file=sys.stderr)
            sys.exit(TRY_AGAIN)
        if type(error).__name__ == "OutOfMemoryError":
            what = str(error).splitlines()[0] if str(error) else "out of memory"
            print(f"fewstep: {what}; use a smaller batch", file=sys.stderr)
            sys.exit(1)
        raise
