"""docs/outputs.md: every file and every column, written from the schemas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewstep.errors import UserError
from fewstep.files import write_bytes
from fewstep.results.columns import Column, Table
from fewstep.results.tables import TABLES
from fewstep.results.verdicts import VERDICTS

OUTPUTS = Path(__file__).resolve().parents[3] / "docs" / "outputs.md"

FILES: tuple[tuple[str, str], ...] = (
    (
        "results/{experiment}_{sampler}_fid.json",
        "one evaluation: mean and spread over seeds, and a full row a seed (below)",
    ),
    (
        "results/{experiment}/report.html",
        "everything on one page that needs no network, no script and no other file",
    ),
    (
        "results/demo/costs_steps.png, costs_seconds*.png, scores_nfe.png, "
        "straightness.png, trajectories.png, scores_steps.png, scores_seconds.png, "
        "timing_tokens.png",
        "the report's charts that compare samplers and models, as files",
    ),
    ("results/tables/{table}.parquet", "the tables below, of all experiments"),
    (
        "results/tables/{table}.parquet.lock",
        "held while a table is written; harmless to remove when nothing runs",
    ),
    (
        "results/{experiment}/model.safetensors, model.json",
        "the model's weights and their manifest",
    ),
    (
        "results/{experiment}/training.parquet, training.png",
        "the table `training` of this model, and its chart",
    ),
    (
        "results/{experiment}/snapshots.json, snapshots/step-{step}.safetensors",
        "list of a flow's weights on the way of its training, and those weights",
    ),
    (
        "results/{experiment}/state.safetensors",
        "raw weights, average and Adam's moments of a published training checkpoint",
    ),
    (
        "results/pairs/{name}/pairs.json",
        "manifest of reflow pairs: teacher, dataset, plan, shards, NFE by segment",
    ),
    (
        "results/pairs/{name}/shard-{number}.arrow, shard-{number}.json",
        "pairs of a shard as an Arrow IPC file (x0, x1, t0, t1, segment, pair, nfe), "
        "and its record",
    ),
    (
        "results/pairs/{name}/edges.json",
        "edges of SeqRF-Ada's segments, from trajectories of the teacher",
    ),
    ("results/{experiment}/rank.json, rank.png", "IGM and CRM of every block"),
    (
        "results/{experiment}/blocks.parquet, convergence.parquet, convergence.png",
        "this model's tables `blocks` and `convergence` (real images), a chart",
    ),
    (
        "results/{experiment}/{sampler}/plan.json",
        "the plan that the sampler reads, with the paper's notation",
    ),
    (
        "results/{experiment}/{sampler}/strategies.parquet, convergence.parquet",
        "the search's part of the tables `strategies` and `convergence`",
    ),
    (
        "results/{experiment}/{sampler}/seed{seed}/samples.json",
        "manifest of one seed's images: shards with their hashes, NaN events",
    ),
    (
        "results/{experiment}/{sampler}/seed{seed}/parts/{i}-of-{n}.json",
        "where n jobs share a seed: that job i has drawn its shards",
    ),
    (
        "results/{experiment}/{sampler}/seed{seed}/*.npy",
        "images in shards, uint8, (n, 3, H, W); image i is sample start + i",
    ),
    (
        "results/{experiment}/{sampler}/seed{seed}/adm.npz",
        "the same images, shuffled, as ADM's evaluator reads them: arr_0, uint8, "
        "(n, H, W, 3); made on request",
    ),
    (
        "results/{experiment}/{sampler}/timing.json, timing.parquet",
        "this sampler's part of the table `timing`",
    ),
    (
        "results/{experiment}/timing.json, timing.parquet",
        "the same of all solvers of a flow, timed in one job",
    ),
    (
        "results/{experiment}/{sampler}/scores.json",
        "the scores of every seed, before they become rows",
    ),
    (
        "results/{experiment}/{sampler}/grid.png, trace.png",
        "samples side by side; the way from noise to image, block by block",
    ),
    (
        "results/{experiment}/side-by-side.png",
        "images of every sampler of a flow that is inverted, from the same noise",
    ),
    (
        "results/{experiment}/{sampler}/order.png, order-moving.png",
        "in which order PAR draws the tokens of an image: a filmstrip; an animation",
    ),
    (
        "results/{experiment}/straightness.parquet, trajectories.parquet",
        "this model's part of those tables, for samplers that integrate an ODE",
    ),
    (
        "results/{experiment}/trajectories.png, solvers.png",
        "single pixels against time; images of every solver from the same noise",
    ),
    (
        "results/{experiment}/export/{name}.safetensors, {name}.json",
        "a trained model as an asset to share, with its manifest",
    ),
    (
        "results/data/{dataset}/images.npy, labels.npy",
        "images, uint8, (N, 3, H, W), and class numbers, int64, (N,)",
    ),
    (
        "results/data/{dataset}/dataset.json",
        "manifest of the dataset, written last: without it the folder is incomplete",
    ),
    (
        "results/references/{name}.npz, {name}.json",
        "statistics of the real images (mu, sigma, n; where asked features, mu_s and "
        "sigma_s) and their manifest",
    ),
    (
        "results/extractors/{name}.safetensors",
        "a feature extractor that the workflow trained",
    ),
    (
        "results/extractors/{name}.json",
        "of one that is fetched: the hash of its weights, which lie in torch's cache",
    ),
    (
        "results/assets/{name}.json",
        "where a downloaded or hand-placed file lies, with its hash and the commit it "
        "came from",
    ),
    (
        "data/assets.lock.json",
        "hashes of files that the asset table does not know, from their first use on; "
        "keep it with your results",
    ),
    (
        "data/assets/.{file}.part, .{file}.part.json, .{file}.lock",
        "beginning of a file that is under way and what it is the beginning of; held "
        "while it is fetched. Harmless to remove when nothing runs",
    ),
)
"""Path and meaning of the files that a run leaves."""

_SUMMARY = (
    ("experiment, system, sampler", "what was evaluated"),
    ("metric", "`fid` with Inception features, else `frechet`"),
    ("mean", "mean of the score over the seeds that gave one; null if none did"),
    ("sd", "sample standard deviation over them; null with fewer than two"),
    (
        "scores",
        "mean and sd over the seeds of `sfid`, `kid`, `isc`, `precision`, `recall` "
        "and `class_agreement`, those that a seed gave",
    ),
    ("seeds", "all seeds, failed ones too"),
    ("n", "images a seed"),
    ("protocol, extractor", "the way of scoring"),
    ("rows", "one row a seed, with the columns of the table `evaluations`"),
    ("timing", "seconds and speed-up at every batch that was timed"),
    (
        "published",
        "rows of the table `published`: what was published, and the verdicts",
    ),
    ("evaluated_utc", "when the evaluation was made, UTC"),
)
_INTRO = """\
# Outputs

Every file that a run leaves, and every column of every table. This page is written
from the schemas: `python -m fewstep.results --fix` renews it; a test fails when it
drifts.

## Files

Files appear whole: each is written beside its place and renamed. A name that ends in
`.tmp` is a part that a killed job left; it can be removed.
"""
_READING = """\
## Reading the tables

In the terminal, with no other program:

```sh
fewstep results                      # the headline: ours, published, verdict
fewstep results demo-tarflow --csv - # one line a cell; also --markdown, --json
fewstep results --all                # also what was not made yet
fewstep results --sql "
  select experiment, sampler, n, avg(coalesce(fid, frechet)) as score
  from evaluations where status = 'ok' group by all order by all"
```

`--sql` knows every table by its name, those that are not there yet as empty ones; it
takes one `select` of DuckDB's, and only reads. Its rows too go to `--csv`, `--markdown`
or `--json`; of columns of one name the second is `name_2`.

Rows outlive what they were made of. A cell that `config.yaml` no longer has, or whose
JSON was deleted, is shown as left over until its rows are dropped from all tables:

```sh
fewstep results --forget my-experiment_gsj 'old-*'
```

With pandas:

```python
import pandas as pd

rows = pd.read_parquet("results/tables/evaluations.parquet")
print(rows.groupby(["experiment", "sampler"])["seconds_per_image"].median())
```

`fewstep.results.read(path)` does the same, keeps integers with gaps as integers, and
reads tables of earlier versions: columns that they lack are null.

With DuckDB:

```sql
select experiment, sampler, protocol, n, avg(coalesce(fid, frechet)) as score
from 'results/tables/evaluations.parquet'
where status = 'ok'
group by all
order by all
```

With polars, which fewstep does not install:

```py
import polars as pl

rows = pl.scan_parquet("results/tables/evaluations.parquet")
print(rows.filter(pl.col("status") == "ok").select("experiment", "frechet").collect())
```

Group by `protocol` and `n`: scores that differ in them are never compared. A cell that
failed has rows with the status `failed`, which say why and have no score.

Every file carries its table's name, its `fewstep.schema_version` and the description of
each column in the Parquet metadata.
"""
_VERDICTS = {
    "matches": "differs by at most 2 % of the published value or two standard "
    "deviations, whichever is more",
    "better": "lies further on the good side",
    "worse": "lies further on the bad side",
    "not comparable": "another number of images, protocol, metric or, of a time, "
    "hardware; or no score",
    "no published value": "nothing was published for this cell, or its number is not "
    "verified (the reason says which)",
}
_KINDS = {
    "text": "text",
    "integer": "integer",
    "number": "number",
    "flag": "true/false",
    "time": "UTC time",
}


def outputs_markdown() -> str:
    """The whole page."""
    parts = [
        _INTRO,
        _grid(
            ("file", "what it holds"), [(_paths(path), words) for path, words in FILES]
        ),
        "### The evaluation's JSON\n",
        _grid(("key", "what it holds"), [(f"`{k}`", words) for k, words in _SUMMARY]),
        _READING,
        "## Verdicts\n",
        _grid(("verdict", "our score"), [(name, _VERDICTS[name]) for name in VERDICTS]),
        *(_table(table) for table in TABLES.values()),
    ]
    return "\n".join(parts)


def check(path: Path = OUTPUTS) -> None:
    """Complain when the page is not what the schemas say.

    Raises:
        UserError: when it differs or is missing.
    """
    if not path.exists() or path.read_text(encoding="utf-8") != outputs_markdown():
        raise UserError(
            "the page is not what the schemas say",
            where=str(path),
            do="run python -m fewstep.results --fix",
        )


def fix(path: Path = OUTPUTS) -> bool:
    """Write the page where it differs; whether it did."""
    text = outputs_markdown()
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_bytes(path, text.encode())
    return True


def _table(table: Table) -> str:
    key = ", ".join(f"`{name}`" for name in table.key)
    head = (
        f"## Table `{table.name}`\n\n{table.description} One row for each: {key}. "
        f"Schema version {table.version}.\n"
    )
    rows = [
        (f"`{c.name}`", _KINDS[c.kind], "" if c.required else "yes", _words(c))
        for c in table.columns
    ]
    return f"{head}\n{_grid(('column', 'type', 'may be null', 'what it holds'), rows)}"


def _words(column: Column) -> str:
    words = column.description
    # Where the description does not name them itself.
    if column.choices and not all(choice in words for choice in column.choices):
        words += f"; one of: {', '.join(column.choices)}"
    if not column.finite:
        words += "; may be infinite or NaN"
    return words


def _grid(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return (
        "\n".join(f"| {' | '.join(_cell(c) for c in line)} |" for line in lines) + "\n"
    )


def _paths(given: str) -> str:
    """Several files of one folder, each as code."""
    return ", ".join(f"`{path}`" for path in given.split(", "))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
