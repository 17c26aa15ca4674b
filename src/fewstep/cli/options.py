"""What all verbs share: the application and the types of their options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.errors import UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Questions to a workflow, and the stages that its rules call.",
)


def read_spec(text: str) -> dict[str, Any]:
    """A JSON option as a mapping."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"not valid JSON ({error})", where="--spec") from error
    if not isinstance(value, dict):
        raise UserError("not a mapping", where="--spec")
    return value


Spec = Annotated[dict[str, Any], typer.Option(parser=read_spec, help="JSON settings.")]
Out = Annotated[Path, typer.Option(help="File to write.")]
Rows = Annotated[Path, typer.Option(help="Parquet file to write.")]
Model = Annotated[Path, typer.Option(help="model.safetensors.")]
Plan = Annotated[Path, typer.Option(help="plan.json.")]
Folder = Annotated[Path, typer.Option(help="Folder of a dataset.")]
Source = Annotated[Path, typer.Option(help="The checkpoint to read.")]
Maybe = Annotated[Path | None, typer.Option()]
Work = Annotated[Path, typer.Option(help="Folder of the run's checkpoint.")]
Gpus = Annotated[int, typer.Option(help="Several start under torchrun.")]
SaveEvery = Annotated[int, typer.Option(help="Steps between two checkpoints.")]
Nodes = Annotated[int, typer.Option(help="Nodes that share the GPUs evenly.")]
Targets = Annotated[
    list[str] | None,
    typer.Argument(
        help="Targets and files as for snakemake, experiments, and cells such as"
        " afhq_gsj; none: every published cell."
    ),
]
ConfigFile = Annotated[Path | None, typer.Option(help="Instead of config.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        help="KEY=VALUE over the configuration, as snakemake's --config, such as"
        " 'hardware={memory_gb: 40}'."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
