"""What a user can set, on the command line as `--submitit-NAME` or in a profile."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Optional

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import ExecutorSettingsBase

CHOICES = {
    "cluster": ("slurm", "local", "debug"),
    "on_restart": ("take-over", "cancel"),
    "states": ("auto", "sacct", "squeue"),
}
LEAST = {"requeues": 0, "warning": 15, "array": 1, "lost_after": 1, "keep_logs": 0}


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


# Snakemake reads the types of the fields: no strings, and Optional[X], not X | None.
@dataclass
class ExecutorSettings(ExecutorSettingsBase):  # type: ignore[misc]
    """Settings of the executor; all have defaults."""

    cluster: str = _setting("slurm", "Where jobs run: slurm, local or debug.")
    site: Optional[Path] = _setting(  # noqa: UP045
        None, "YAML file with this cluster's values: partition, account, setup lines."
    )
    folder: Path = _setting(
        Path("logs/submitit"), "Folder of logs, one a rule and job."
    )
    requeues: int = _setting(
        20,
        "Times that a job goes back into the queue after preemption, time limit or "
        "node failure; then it fails.",
    )
    warning: int = _setting(
        120, "Seconds before the time limit at which a job is told to save."
    )
    array: int = _setting(
        100, "Most jobs in one SLURM array; 1 submits every job by itself."
    )
    on_restart: str = _setting(
        "take-over",
        "What a restarted Snakemake does with jobs of the killed one that it wants "
        "and that are still there: take-over, or cancel and submit anew.",
    )
    states: str = _setting(
        "auto",
        "Who is asked about jobs that the controller has forgotten: sacct, nobody "
        "(squeue), or sacct where accounting is there (auto).",
    )
    lost_after: int = _setting(
        120, "Seconds after which a job that SLURM no longer knows has failed."
    )
    keep_logs: int = _setting(30, "Days that logs are kept; 0 keeps them for ever.")
    accelerator: str = _setting(
        "gpu",
        "What a rule's `gpu: N` asks for: gpu, or the name of another generic "
        "resource, such as tpu.",
    )


def check(settings: ExecutorSettings) -> None:
    """Refuse values that mean nothing.

    Raises:
        WorkflowError: one line with the setting, what is allowed and what was given.
    """
    for name, choices in CHOICES.items():
        value = getattr(settings, name)
        if value not in choices:
            _refuse(name, f"one of {', '.join(choices)}", value)
    for name, least in LEAST.items():
        value = getattr(settings, name)
        if value is None or value < least:
            _refuse(name, f"a number of at least {least}", value)
    if not settings.accelerator or not settings.accelerator.replace("_", "").isalnum():
        expected = "gpu or the name of a generic resource"
        _refuse("accelerator", expected, settings.accelerator)


def _refuse(name: str, expected: str, value: object) -> None:
    option = "--submitit-" + name.replace("_", "-")
    raise WorkflowError(f"{option}: expected {expected}, not {value!r}")


def table() -> str:
    """The settings as lines of a Markdown table, for the plugin's README."""
    lines = ["| setting | default | what |", "| --- | --- | --- |"]
    for one in fields(ExecutorSettings):
        name = one.name.replace("_", "-")
        default = "none" if one.default is None else f"`{one.default}`"
        lines.append(f"| `{name}` | {default} | {one.metadata['help']} |")
    return "\n".join(lines)
