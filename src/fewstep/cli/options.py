"""What all verbs share: the application, the types of their options, torchrun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.errors import UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Stages of the fewstep workflow; run them through snakemake.",
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


def torchrun(gpus: int) -> None:
    """With several GPUs, start the same command under torchrun.

    With FEWSTEP_DEVICE=cpu its processes train on the CPU.

    Raises:
        UserError: for more GPUs than there are.
    """
    if gpus > 1 and "WORLD_SIZE" not in os.environ:
        _check_gpus(gpus)
        launch = ["-m", "torch.distributed.run", "--standalone"]
        launch += [f"--nproc-per-node={gpus}", "-m", "fewstep", *sys.argv[1:]]
        os.execv(sys.executable, [sys.executable, *launch])


def _check_gpus(wanted: int) -> None:
    if os.environ.get("FEWSTEP_DEVICE") == "cpu":
        return
    import torch

    found = torch.cuda.device_count()
    if found < wanted:
        raise UserError(
            f"{wanted} GPUs for the training, and {found or 'none'} here",
            where="train.gpus",
            expected=f"at most {max(found, 1)}",
            do="set it to that, which changes the weights by rounding alone",
        )
