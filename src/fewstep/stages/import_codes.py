"""Stage: published codes as shards of ours.

Apart from the stage of codes, so that an edit here extracts nothing anew.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from fewstep import files
from fewstep.par.code_plan import CodePlan
from fewstep.par.code_sources import read_ahead
from fewstep.par.code_store import write_codes
from fewstep.par.codes import collect
from fewstep.par.released_codes import CODEBOOK_SIZE, open_released
from fewstep.processes import PreemptedError, stop_signal
from fewstep.progress import Progress

_AHEAD = 64
_ANY_CLASS = 2**31


def import_released(
    spec: dict[str, Any], folder: Path, out: Path, tokenizer: Path | None = None
) -> None:
    """Pack a released folder of `.npy` files into shards and a manifest.

    Shards that are there already are kept, so a killed import goes on; one that is told
    to stop finishes the shard in flight first.

    Args:
        spec: resolved codes: name, shard_size, count (None: all that there are),
            tokenizer {name, model}; dataset {num_classes} where it is known, else the
            labels tell.
        folder: holds `<name>_codes` and `<name>_labels`.
        out: `codes.json`; the shards `shard-00000.arrow` … go beside it.
        tokenizer: its weights, whose hash the manifest then names.

    Raises:
        UserError: for files that are missing, damaged, or with codes or labels out of
            range.
        PreemptedError: after SIGTERM or SIGUSR2, where shards are left to pack.
    """
    size = spec["tokenizer"]["model"].get("codebook_size", CODEBOOK_SIZE)
    known = spec.get("dataset", {}).get("num_classes")
    data = open_released(folder, spec.get("count"), size, known or _ANY_CLASS)
    with closing(read_ahead(data.label, range(len(data)), _AHEAD)) as labels:
        classes = known or 1 + max(labels)
    plan = CodePlan(len(data), spec["shard_size"], data.views, data.grid, size, classes)
    origin = {
        **data.manifest["origin"],
        "tokenizer": spec["tokenizer"]["name"],
        "tokenizer_sha256": files.sha256_file(tokenizer) if tokenizer else None,
    }
    paths = [out.parent / f"shard-{n:05d}.arrow" for n in range(plan.shards)]
    progress = Progress(f"import {spec['name']}", len(data))
    with stop_signal() as stop:
        for number, path in enumerate(paths):
            indices = plan.indices(number)
            if not _is_made(path, plan, number, origin):
                if stop["now"]:
                    done = f"stopped after shard {number} of {plan.shards}"
                    raise PreemptedError(done)
                with closing(read_ahead(data.image, indices, _AHEAD)) as images:
                    codes, classed = zip(*images, strict=True)
                write_codes(plan, number, path, np.stack(codes), classed, origin=origin)
            progress.advance(len(indices))
    collect([path.with_suffix(".json") for path in paths], out, len(data))


def _is_made(path: Path, plan: CodePlan, number: int, origin: dict[str, Any]) -> bool:
    """Whether the shard is there as it would be made."""
    record = path.with_suffix(".json")
    if not (record.is_file() and path.is_file()):
        return False
    there, indices = files.read_json(record), plan.indices(number)
    wanted = {
        "plan": plan.identity(),
        "origin": origin,
        "first": indices.start,
        "count": len(indices),
        "bytes": path.stat().st_size,
    }
    return {key: there.get(key) for key in wanted} == wanted
