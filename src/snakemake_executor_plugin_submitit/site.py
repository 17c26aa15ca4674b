"""The values of one cluster, in one small file that its user edits."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

REQUIRED = ("partition", "account")
OPTIONAL = (
    *("qos", "constraint", "exclude", "nodelist", "gpu_model", "slurm_extra"),
    "max_runtime",
)


@dataclass(frozen=True)
class Site:
    """Values for jobs that say nothing themselves.

    Attributes:
        path: where they come from.
        sections: "cpu" and the accelerators' names; key to value, None: the cluster's
            own default.
        setup: shell lines before every job.
    """

    path: Path | None = None
    sections: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    setup: tuple[str, ...] = ()

    def values(self, kind: str) -> Mapping[str, str | None]:
        """The section of a kind of job, complete.

        Raises:
            WorkflowError: where the section or one of its keys is missing.
        """
        if self.path is None:
            return {}
        if kind not in self.sections:
            asks = "no accelerator" if kind == "cpu" else f"a {kind}"
            raise WorkflowError(
                f"{self.path}: section `{kind}` is missing, and there are jobs that "
                f"ask for {asks}; add `{kind}:` with partition and account"
            )
        section = self.sections[kind]
        for key in REQUIRED:
            if key not in section:
                raise WorkflowError(
                    f"{self.path}: {kind}.{key} is missing; expected a name, or null "
                    f"for the cluster's default ({_LISTS[key]})"
                )
        return section


_LISTS = {
    "partition": "`sinfo -s` lists the partitions",
    "account": "`sacctmgr show assoc user=$USER` lists the accounts",
}


def read_site(path: Path | None) -> Site:
    """The file's values; None: no file is used.

    Raises:
        WorkflowError: one line with file, key and what to do.
    """
    if path is None:
        return Site()
    import yaml

    try:
        value = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise WorkflowError(_missing(path)) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise WorkflowError(f"{path}: cannot be read as YAML: {text}") from None
    if not isinstance(value, dict):
        raise WorkflowError(f"{path}: expected sections such as `cpu:` and `gpu:`")
    sections = {k: v for k, v in value.items() if k != "setup"}
    for name, section in sections.items():
        _check_section(path, str(name), section)
    clean = {
        str(name): {
            k: str(v) if v not in {None, ""} else None for k, v in section.items()
        }
        for name, section in sections.items()
    }
    return Site(path, clean, _setup(path, value.get("setup")))


def _missing(path: Path) -> str:
    example = path.with_name(f"{path.stem}.example{path.suffix}")
    do = "write it: partition and account under `cpu:` and `gpu:`"
    if example.exists():
        do = f"run `cp {example} {path}` and set partition and account there"
    return f"{path} is missing: it names this cluster's partition and account; {do}"


def _check_section(path: Path, name: str, section: Any) -> None:
    if not isinstance(section, dict):
        raise WorkflowError(f"{path}: {name}: expected keys such as partition")
    known = (*REQUIRED, *OPTIONAL)
    for key, value in section.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise WorkflowError(f"{path}: {name}.{key} is not known; {hint}")
        if isinstance(value, dict | list):
            raise WorkflowError(f"{path}: {name}.{key}: expected text or null")
        if value is None or key != "max_runtime":
            continue
        if not str(value).isdigit() or int(value) < 1:
            raise WorkflowError(
                f"{path}: {name}.max_runtime: expected whole minutes, not {value!r}"
            )


def _setup(path: Path, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise WorkflowError(f"{path}: setup: expected a list of shell lines")
    return tuple(value)
