"""Plausible rows of every table, for the tests of plots and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fewstep.files import write_json
from fewstep.results import (
    BLOCKS,
    CONVERGENCE,
    EVALUATIONS,
    STRATEGIES,
    TIMING,
    TRAINING,
    straightness_rows,
    summarize,
    trajectory_rows,
)

NOW = "2026-11-21T22:42:05Z"
MACHINE = {"device": "cpu", "hardware": "Test CPU", "threads": 2}
CRM = (9.4, 9.3, 9.1, 6.2, 4.2, 4.8, 6.1, 50.9)
IGM_Z = (0.17, 0.15, 0.77, 0.50, 0.38, 0.72, 0.25, 3.90)
IGM_ZEROS = (0.43, 1.83, 2.10, 1.74, 2.59, 2.96, 1.25, 3.65)
SECONDS = {
    "for": (0.31, 0.33, 0.43, 0.80),
    "gsj": (0.12, 0.16, 0.42, 1.30),
    "auto": (0.09, 0.12, 0.29, 0.95),
}
BATCHES = (1, 4, 16, 64)
PLANS = {"for": "For", "gsj": "[7-8-8-6]", "auto": "[7-64-1-4]"}


SAID = {
    "value": 13.73,
    "n": 50_000,
    "sd": None,
    "seconds": 1232.4,
    "source": "GS-Jacobi",
    "table": "AFHQ",
    "hardware": "8 x A800",
    "unit": "",
    "note": "",
}
"""What is published of the cell that `published` makes rows of."""


def blocks(experiment: str = "demo") -> list[dict[str, Any]]:
    """The digits flow's IGM and CRM, block 7 tough."""
    return [
        BLOCKS.new_row(
            experiment=experiment,
            block=block,
            position=7 - block,
            variant="released",
            norm="2",
            num_mc=400,
            seed=0,
            igm_z=IGM_Z[block],
            igm_zeros=IGM_ZEROS[block],
            guess="z" if IGM_Z[block] < IGM_ZEROS[block] else "zeros",
            crm=CRM[block] * 3,
            crm_percent=CRM[block],
            tough=block == 7,
            created_utc=NOW,
        )
        for block in range(8)
    ]


def convergence(experiment: str = "demo") -> list[dict[str, Any]]:
    """Errors that fall faster than geometrically, block 7 after a transient."""
    rows = []
    for start in ("z", "zeros"):
        for block in range(8):
            slow = 22 if block == 7 else 3 + block % 4 + (start == "zeros")
            for iteration in range(25):
                error = 1.7 * 10 ** (-4 * (iteration / slow) ** 1.6)
                values = {"error_max": error, "error_rms": error / 9}
                rows.append(
                    CONVERGENCE.new_row(
                        experiment=experiment,
                        block=block,
                        source="sampling",
                        start=start,
                        segments=1,
                        iteration=iteration,
                        error_median=error / 2,
                        n=32,
                        created_utc=NOW,
                        **values,
                    )
                )
    return rows


def timing(experiment: str = "demo") -> list[dict[str, Any]]:
    """Times of three samplers at four batches."""
    return [
        TIMING.new_row(
            experiment=experiment,
            sampler=sampler,
            batch=batch,
            seconds=seconds,
            seconds_iqr=seconds * 0.08,
            seconds_per_image=seconds / batch,
            images_per_second=batch / seconds,
            repeats=5,
            warmup=1,
            baseline="for",
            ratio=SECONDS["for"][index] / seconds,
            torch="2.13.0",
            created_utc=NOW,
            **MACHINE,
        )
        for sampler, times in SECONDS.items()
        for index, (batch, seconds) in enumerate(zip(BATCHES, times, strict=True))
    ]


def training(experiment: str = "demo") -> list[dict[str, Any]]:
    """A loss that falls, with two validations."""
    return [
        TRAINING.new_row(
            experiment=experiment,
            step=step,
            loss=-1.55 + 1.4 * 0.99 ** (step / 4) + 0.02 * ((step * 7) % 11 - 5) / 5,
            lr=1e-3,
            seconds=0.3 * step,
            validation_loss=-1.5 + 1.4 * 0.99 ** (step / 4)
            if step % 100 == 0
            else None,
            bpd=3.1 + 2 * 0.99 ** (step / 4) if step % 100 == 0 else None,
            images=64 * step,
        )
        for step in range(10, 1001, 10)
    ]


def strategies(experiment: str = "demo") -> list[dict[str, Any]]:
    """Two candidates of one block, one of them chosen, and the whole plan."""
    common: dict[str, Any] = {
        "experiment": experiment,
        "sampler": "auto",
        "window": 0,
        "batch": 16,
        "tolerance": 1e-3,
        "created_utc": NOW,
        **MACHINE,
    }
    return [
        STRATEGIES.new_row(
            block=7,
            mode="for",
            segments=1,
            iterations=0,
            guess="none",
            seconds=0.05,
            error=0.0,
            chosen=True,
            reason="fastest within the tolerance",
            **common,
        ),
        STRATEGIES.new_row(
            block=7,
            mode="jacobi",
            segments=1,
            iterations=10,
            guess="z",
            seconds=0.03,
            error=0.4,
            chosen=False,
            reason="error above the tolerance",
            **common,
        ),
        STRATEGIES.new_row(
            block=-1,
            mode="mixed",
            segments=1,
            iterations=0,
            guess="none",
            seconds=0.17,
            error=5e-4,
            chosen=True,
            reason="the plans of all blocks together",
            strategy=PLANS["auto"],
            **common,
        ),
    ]


def evaluation(sampler: str, seed: int, score: float, **more: Any) -> dict[str, Any]:
    """A complete evaluation with a classifier's features."""
    seconds = SECONDS.get(sampler, SECONDS["for"])[2] / 16
    values: dict[str, Any] = {
        "experiment": "demo",
        "system": "tarflow",
        "sampler": sampler,
        "seed": seed,
        "n": 500,
        "labels": "balanced",
        "protocol": "classifier-1a2b3c4d/truncate/exact/ref-99aa/balanced",
        "extractor": "digits-classifier",
        "extractor_sha256": "1a2b" * 16,
        "reference_sha256": "99aa" * 16,
        "metric": "frechet",
        "frechet": score,
        "kid": 0.012,
        "kid_std": 0.002,
        "class_agreement": 0.91,
        "strategy": PLANS.get(sampler, "For"),
        "steps": 504.0,
        "iterations": 1.0 if sampler == "for" else 5.5,
        "nan_events": 0,
        "redrawn": 0,
        "clipped": 0.01,
        "mode": "exact",
        "dtype": "fp32",
        "guidance": 1.0,
        "temperature": 1.0,
        "self_denoise": 1.0,
        "error_to_exact": 0.0 if sampler == "for" else 5e-4,
        "seconds_per_image": seconds,
        "images_per_second": 1 / seconds,
        "timing_batch": 16,
        "baseline": "for",
        "speedup": SECONDS["for"][2] / 16 / seconds,
        "peak_memory_mb": 412.0,
        "batch": 100,
        "torch": "2.13.0",
        "torch_fidelity": "0.4.0",
        "python": "3.11.7",
        "fewstep": "0.1.0",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "code_digest": "feedbeeffeedbeef",
        "checkpoint_sha256": "cafe" * 16,
        "dataset_sha256": "d00d" * 16,
        "verdict": "no published value",
        "verdict_reason": "nothing was published for this cell",
        "status": "ok",
        "created_utc": NOW,
        **MACHINE,
        **more,
    }
    return EVALUATIONS.new_row(**values)


def evaluations() -> list[dict[str, Any]]:
    """Three samplers with three seeds each."""
    scores = {
        "for": (12.1, 12.9, 12.4),
        "gsj": (12.3, 12.8, 12.0),
        "auto": (12.2, 12.7, 12.6),
    }
    return [
        evaluation(sampler, seed, score)
        for sampler, values in scores.items()
        for seed, score in enumerate(values)
    ]


def published(seed: int, value: float | None, **more: Any) -> dict[str, Any]:
    """An evaluation with Inception features and a published value."""
    values: dict[str, Any] = {
        "experiment": "afhq",
        "metric": "fid",
        "fid": value,
        "frechet": None,
        "extractor": "inception-v3-compat",
        "n": 50_000,
        "published_value": 13.73,
        "published_n": 50_000,
        "published_source": "GS-Jacobi README",
        "difference": None if value is None else value - 13.73,
        "verdict": "matches",
        "verdict_reason": f"seed {seed} alone",
        **more,
    }
    return evaluation("gsj", seed, 0.0, **values)


# Flows that an ODE solver follows: k of the model, its bend, and its scores by sampler.
FLOWS: dict[str, tuple[int, float, dict[str, float]]] = {
    "mnist-base": (
        1,
        1.0,
        {"euler-1": 148, "euler-2": 83, "euler-4": 41, "euler-8": 22, "rk45": 14.1},
    ),
    "mnist-2seqrf": (
        2,
        0.3,
        {"euler-2": 31, "euler-4": 22.3, "euler-8": 18.1, "rk45": 15.2},
    ),
    "mnist-4seqrf": (4, 0.1, {"euler-4": 18.4, "euler-8": 16.9, "rk45": 15.9}),
    "mnist-4seqrf-distill": (4, 0.1, {"euler-4": 17.2}),
}


def flow_nfe(experiment: str, sampler: str) -> float:
    """Evaluations of one image; RK45's go by the model."""
    k, bend, _ = FLOWS[experiment]
    return 14.0 * k + 30 * bend if sampler == "rk45" else float(sampler[6:])


def flow_edges(experiment: str) -> list[float]:
    """Edges of equal segments."""
    k = FLOWS[experiment][0]
    return [1 - i / k for i in range(k + 1)]


def flow_evaluations() -> list[dict[str, Any]]:
    """Four models by Euler and RK45, three seeds each."""
    rows = []
    for name, (k, bend, scores) in FLOWS.items():
        for sampler, score in scores.items():
            more: dict[str, Any] = {
                "experiment": name,
                "system": "seqrf",
                "strategy": None,
                "iterations": None,
                "error_to_exact": None,
                "labels": "none",
                "class_agreement": None,
                "guidance": None,
                "nfe": flow_nfe(name, sampler),
                "steps": flow_nfe(name, sampler),
                "solver": sampler.partition("-")[0],
                "segments": k,
                "straightness": 21.0 * bend + 2,
                "seq_straightness": 21.0 * bend,
                "baseline": "rk45" if name != "mnist-4seqrf-distill" else None,
            }
            if more["baseline"] is None:
                more["speedup"] = None
            rows += [
                evaluation(sampler, seed, score * (1 + 0.02 * (seed - 1)), **more)
                for seed in range(3)
            ]
    return rows


def straightness() -> list[dict[str, Any]]:
    """Straightness of the flows along RK45's path and, for one, along Euler's."""
    times = np.linspace(1, 0, 17)
    rows = []
    for name, (_, bend, scores) in FLOWS.items():
        sampler = "rk45" if "rk45" in scores else "euler-4"
        by_time = bend * (8 + 60 * (times[:-1] - 0.4) ** 2)
        rows += straightness_rows(
            times,
            by_time + 2,
            by_time,
            edges=flow_edges(name),
            experiment=name,
            sampler=sampler,
            solver=sampler.partition("-")[0],
            nfe=flow_nfe(name, sampler),
            n=128,
            seed=0,
            created_utc=NOW,
        )
    return rows


def trajectories() -> list[dict[str, Any]]:
    """Paths that bend within the segments, by a fine and by a coarse solver."""
    rows: list[dict[str, Any]] = []
    ends = np.random.default_rng(0).normal(size=(2, 4, 3, 8, 8))
    for name, (k, bend, _) in FLOWS.items():
        edges = flow_edges(name)
        knots = [
            ends[0] * t + ends[1] * (1 - t) + 0.4 * np.sin(3 * ends[0]) * t * (1 - t)
            for t in edges
        ]
        for sampler, steps in (("rk45", 24), ("euler-4", 4)):
            times = np.linspace(1, 0, steps + 1)
            states = []
            for t in times:
                i = min(int((1 - t) * k), k - 1)
                u = (edges[i] - t) * k
                straight = (1 - u) * knots[i] + u * knots[i + 1]
                states.append(straight + 3 * bend * u * (1 - u) * ends[1].clip(-1, 1))
            rows += trajectory_rows(
                times,
                np.array(states),
                edges=edges,
                samples=1,
                experiment=name,
                sampler=sampler,
                created_utc=NOW,
            )
    return rows


def write_jsons(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """The evaluations' JSON files of some rows."""
    cells = dict.fromkeys((row["experiment"], row["sampler"]) for row in rows)
    paths = []
    for cell in cells:
        own = [row for row in rows if (row["experiment"], row["sampler"]) == cell]
        path = folder / f"{cell[0]}_{cell[1]}_fid.json"
        write_json(path, summarize(own))
        paths.append(path)
    return paths
