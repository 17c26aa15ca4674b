"""Verbs of the spine: data, samples, scores, rows, reports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.cli.options import (
    Folder,
    Maybe,
    Model,
    Out,
    Plan,
    Rows,
    Source,
    Spec,
    app,
    read_spec,
)
from fewstep.errors import UserError


@app.command()
def dataset(spec: Spec, folder: Folder) -> None:
    """Build a dataset."""
    from fewstep.stages.dataset import build

    build(spec, folder)


@app.command()
def fetch(
    spec: Spec,
    out: Out,
    expected_mb: Annotated[int, typer.Option(help="About its size; 0: unknown.")] = 0,
) -> None:
    """Download, or find, and verify an asset; write what is known of it."""
    from fewstep import files, hub

    files.write_json(out, hub.fetch(spec, expected_mb=expected_mb))


@app.command()
def fetch_inception(out: Out) -> None:
    """Put Inception's weights into torch's cache, where they are not there yet."""
    from fewstep import files
    from fewstep.extractors import INCEPTION, load_extractor
    from fewstep.hub.surroundings import inception_file, offline_variable

    name, path = offline_variable(), inception_file()
    if name is not None and not path.is_file():
        raise UserError(
            f"is missing, and {name} forbids to download it",
            where=str(path),
            do=f"place it there, or unset {name} where there is a network",
        )
    found = load_extractor(INCEPTION)
    files.write_json(out, {"kind": INCEPTION, "weights_sha256": found.weights_sha256})


@app.command()
def extractor(spec: Spec, dataset: Folder, out: Out) -> None:
    """Train the classifier that scores a dataset's images."""
    from fewstep.stages.extractor import build

    build(spec, dataset, out)


@app.command()
def reference(
    spec: Spec,
    extractor: Annotated[dict[str, Any], typer.Option(parser=read_spec)],
    out: Out,
    weights: Maybe = None,
    dataset: Maybe = None,
    file: Maybe = None,
    weights_record: Maybe = None,
    record: Maybe = None,
) -> None:
    """Make or read reference statistics."""
    from fewstep.stages.reference import build

    build(
        spec,
        extractor,
        out,
        weights=weights,
        dataset=dataset,
        file=file,
        weights_record=weights_record,
        record=record,
    )


@app.command()
def export(
    source: Source,
    out: Out,
    command: Annotated[str, typer.Option(help="What trained it.")] = "",
) -> None:
    """Write a trained model in half precision, as a small asset."""
    from fewstep.stages.export import export as run

    run(source, out, command)


@app.command()
def sample(
    spec: Spec,
    model: Model,
    plan: Plan,
    seed: Annotated[int, typer.Option(help="Seed of the run.")],
    batch: Annotated[int, typer.Option(help="Samples drawn at once.")],
    out: Out,
) -> None:
    """Draw samples in shards; the same command resumes.

    With `…/parts/3-of-8.json` to write, the shards of one of eight jobs.
    """
    from fewstep.stages.fitting import fit_batch
    from fewstep.stages.sample import run

    run(spec, model, plan, seed, fit_batch(spec, plan, batch), out)


@app.command()
def collect_samples(
    part: Annotated[list[Path], typer.Option(help="Record of one of the jobs.")],
    out: Out,
) -> None:
    """List the shards of all jobs that shared a seed."""
    from fewstep.stages.sample import collect

    collect(part, out)


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
def timing_together(
    spec: Spec,
    model: Model,
    plan: Annotated[list[Path], typer.Option(help="plan.json of a sampler.")],
    baseline_model: Model,
    baseline_plan: Plan,
    out: Out,
    rows: Rows,
) -> None:
    """Time all samplers of an experiment beside their baseline."""
    from fewstep.stages.timing import run_together

    run_together(spec, model, plan, baseline_model, baseline_plan, out, rows)


@app.command()
def score(
    spec: Spec,
    samples: Annotated[list[Path], typer.Option(help="samples.json of a seed.")],
    reference: Annotated[Path, typer.Option(help="Reference .npz.")],
    out: Out,
    batch: Annotated[int, typer.Option(help="Images scored at once.")],
    weights: Maybe = None,
    weights_record: Maybe = None,
) -> None:
    """Score samples against the reference."""
    from fewstep.stages.score import run

    spec["evaluation"]["batch"] = batch
    run(spec, samples, reference, weights, out, weights_record)


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
    asset: Annotated[
        list[Path] | None, typer.Option(help="Record of a published file behind it.")
    ] = None,
) -> None:
    """One evaluation's JSON and its rows in the table."""
    from fewstep.stages.evaluate import run

    run(spec, scores, timing, samples, plan, out, table, dataset, asset or ())


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
def charts(
    rank: Maybe = None,
    convergence: Maybe = None,
    training: Maybe = None,
    blocks_table: Maybe = None,
    convergence_table: Maybe = None,
    training_table: Maybe = None,
    trajectories: Maybe = None,
    trajectories_table: Maybe = None,
) -> None:
    """Charts of a model's tables; each --NAME is a PNG made of --NAME-table."""
    from fewstep.stages import pictures

    wanted = {
        "rank": rank,
        "convergence": convergence,
        "training": training,
        "trajectories": trajectories,
    }
    pictures.charts(
        {name: path for name, path in wanted.items() if path is not None},
        blocks=blocks_table,
        convergence=convergence_table,
        training=training_table,
        trajectories=trajectories_table,
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
    console.print(terminal_table(index["evaluations"], index["straightness"]))
    console.print("\npictures")
    for path in index["pictures"]:
        console.print(f"  {path}", highlight=False)
    console.print(f"\nreport\n  {Path(index['page']).resolve()}", highlight=False)
