"""Stage: a solver as the plan file that the sampler reads; without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import files


def write(spec: dict[str, Any], out: Path) -> None:
    """Write `plan.json` of a solver.

    Args:
        spec: `solver`, `steps`, `tol`, `error_norm`, `mode`, `segments`.
        out: the plan.
    """
    files.write_json(
        out, {"source": "config", "notation": notation(spec), "strategy": spec}
    )


def notation(spec: dict[str, Any]) -> str:
    """A solver in words, such as `Euler 8, k = 4` or `RK45 0.001, k = 1`.

    Error control of a whole batch is said, as the images then depend on the batch:
    `RK45 0.001 (batch norm), k = 4`.
    """
    name = {
        "euler": "Euler",
        "heun": "Heun",
        "heun_released": "Heun (released)",
        "rk45": "RK45",
    }[spec["solver"]]
    number = spec["steps"] if spec["steps"] is not None else f"{spec['tol']:g}"
    shared = spec["solver"] == "rk45" and spec["error_norm"] == "batch"
    norm = " (batch norm)" if shared else ""
    return f"{name} {number}{norm}, k = {spec['segments']}"
