"""Flows side by side: models by sampler, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fewstep.report.headline import (
    NONE,
    known,
    median,
    metric_name,
    nfe_text,
    number,
    plus_minus,
)
from fewstep.report.inputs import Summary
from fewstep.results import sampler_order
from fewstep.results.flows import WHOLE

_SAME = ("metric", "protocol", "extractor", "n")


@dataclass(frozen=True)
class Cell:
    """A model's score by one sampler; empty where it was not evaluated.

    Args:
        mean, sd: of the score over seeds.
        nfe: network evaluations an image, where models differ in it.
        best: whether no other model scores lower by this sampler.
        failed: whether no seed gave a score.
    """

    mean: float | None = None
    sd: float | None = None
    nfe: str = ""
    best: bool = False
    failed: bool = False

    @property
    def score(self) -> str:
        """The score as the page prints it."""
        return "failed" if self.failed else plus_minus(self.mean, self.sd)


@dataclass(frozen=True)
class Model:
    """A line of the table; its cells stand in the order of the table's samplers."""

    name: str
    straightness: str
    seq_straightness: str
    straight_by: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class FlowTable:
    """Models of one protocol and one n, by sampler.

    Args:
        metric: the score's proper name.
        samples: number of images and of seeds.
        samplers: names by rising number of evaluations.
        nfe: evaluations of each sampler; empty where models differ in it.
        straight_by: the sampler along whose paths straightness was measured.
        models: the lines.
        protocol, n: the way of scoring and the number of images.
    """

    metric: str
    samples: str
    samplers: tuple[str, ...]
    nfe: tuple[str, ...]
    straight_by: str
    models: tuple[Model, ...]
    protocol: str
    n: int


def flow_models(summaries: Sequence[Summary]) -> list[str]:
    """Experiments of which any row counts network evaluations, in the given order."""
    return list(
        dict.fromkeys(s["experiment"] for s in summaries if known(s["rows"], "nfe"))
    )


def flow_tables(
    summaries: Sequence[Summary], measured: pd.DataFrame | None = None
) -> list[FlowTable]:
    """One table for each set of flows that may be compared.

    Scores of snapshots (rows with a `train_step`) are in none.

    Args:
        summaries: the evaluations, in the order of the lines.
        measured: rows of the table `straightness`; else it is the evaluations' own.
    """
    flows = set(flow_models(summaries))
    groups: dict[tuple[Any, ...], list[Summary]] = {}
    for summary in summaries:
        if summary["experiment"] in flows and not known(summary["rows"], "train_step"):
            key = tuple(summary[name] for name in _SAME)
            groups.setdefault(key, []).append(summary)
    return [_table(own, measured) for own in groups.values()]


def _table(own: Sequence[Summary], measured: pd.DataFrame | None) -> FlowTable:
    cells = {(s["experiment"], s["sampler"]): s for s in own}
    models = list(dict.fromkeys(name for name, _ in cells))
    samplers = _order(own)
    nfe = {name: _shared_nfe(name, own) for name in samplers}
    bends = _bends(measured, models) or _own_bends(own)
    by = _straight_by(bends, len(models))
    seeds = sorted({len(s["seeds"]) for s in own})
    counted = f"{seeds[0]} seed{'' if seeds[0] == 1 else 's'}"
    if len(seeds) > 1:
        counted = f"{seeds[0]} to {seeds[-1]} seeds"
    first = own[0]
    return FlowTable(
        metric=metric_name(first),
        samples=f"n = {first['n']:,}, {counted}",
        samplers=tuple(samplers),
        nfe=tuple(nfe[name] for name in samplers),
        straight_by=by,
        models=tuple(_model(name, samplers, cells, nfe, bends, by) for name in models),
        protocol=first["protocol"],
        n=first["n"],
    )


def _nfe(summary: Summary | None) -> float | None:
    return None if summary is None else median(summary["rows"], "nfe")


def _order(own: Sequence[Summary]) -> list[str]:
    """Samplers by their evaluations, the mean over models; without any come last."""
    place = {name: i for i, name in enumerate(sampler_order(s["sampler"] for s in own))}

    def effort(name: str) -> tuple[float, int]:
        found = [x for s in own if s["sampler"] == name and (x := _nfe(s)) is not None]
        return (sum(found) / len(found) if found else float("inf"), place[name])

    return sorted(place, key=effort)


def _shared_nfe(sampler: str, own: Sequence[Summary]) -> str:
    """The evaluations of a sampler where all models agree in them."""
    found = {nfe_text(_nfe(s)) for s in own if s["sampler"] == sampler}
    found.discard(NONE)
    return found.pop() if len(found) == 1 else ""


@dataclass(frozen=True)
class _Bend:
    """Straightness along one sampler's paths, and how finely it was measured."""

    straightness: float | None
    seq_straightness: float
    fineness: float


_Bends = Mapping[str, Mapping[str, _Bend]]
"""By sampler, then by model."""


def _bends(measured: pd.DataFrame | None, models: Sequence[str]) -> _Bends:
    """What the table `straightness` says of these models."""
    found: dict[str, dict[str, _Bend]] = {}
    if measured is None:
        return found
    own = measured[measured["experiment"].isin(models)]
    for (sampler, model), rows in own.groupby(["sampler", "experiment"], sort=False):
        for row in rows[rows["point"] == WHOLE].to_dict("records"):
            found.setdefault(str(sampler), {})[str(model)] = _Bend(
                row["straightness"], row["seq_straightness"], float(len(rows))
            )
    return found


def _own_bends(own: Sequence[Summary]) -> _Bends:
    """What the evaluations' rows say."""
    found: dict[str, dict[str, _Bend]] = {}
    for summary in own:
        rows = summary["rows"]
        parts = median(rows, "seq_straightness")
        if parts is not None:
            found.setdefault(summary["sampler"], {})[summary["experiment"]] = _Bend(
                median(rows, "straightness"), parts, _nfe(summary) or 0.0
            )
    return found


def _straight_by(bends: _Bends, models: int) -> str:
    """The finest of those samplers by which half of the models were measured."""
    common = [name for name in bends if 2 * len(bends[name]) >= models]

    def fineness(name: str) -> tuple[float, str]:
        return max(bend.fineness for bend in bends[name].values()), name

    return max(common or bends, key=fineness, default="")


def _model(
    name: str,
    samplers: Sequence[str],
    cells: Mapping[tuple[str, str], Summary],
    nfe: Mapping[str, str],
    bends: _Bends,
    by: str,
) -> Model:
    measured = {s: bends[s][name] for s in bends if name in bends[s]}
    used = by
    if by not in measured:
        used = max(measured, key=lambda s: (measured[s].fineness, s), default="")
    bend = measured.get(used)
    return Model(
        name=name,
        straightness=number(bend.straightness if bend else None),
        seq_straightness=number(bend.seq_straightness if bend else None),
        straight_by="" if used == by else used,
        cells=tuple(_cell(name, sampler, cells, nfe[sampler]) for sampler in samplers),
    )


def _cell(
    name: str, sampler: str, cells: Mapping[tuple[str, str], Summary], shared: str
) -> Cell:
    summary = cells.get((name, sampler))
    if summary is None:
        return Cell()
    means = [s["mean"] for (_, other), s in cells.items() if other == sampler]
    scores = [mean for mean in means if mean is not None]
    mean = summary["mean"]
    count = _nfe(summary)
    return Cell(
        mean=mean,
        sd=summary["sd"],
        nfe="" if shared or count is None else nfe_text(count),
        best=len(scores) > 1 and mean == min(scores),
        failed=mean is None,
    )
