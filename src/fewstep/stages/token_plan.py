"""Stage: the plan of a PAR sampler: its order, its draws, its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep import files
from fewstep.par.schedule import Schedule


def write(spec: dict[str, Any], tokenizer: Path, out: Path) -> None:
    """Write `plan.json`.

    Args:
        spec: `grid`, `group` and the resolved `draw`.
        tokenizer: `….safetensors` of the tokenizer that decodes.
        out: the plan.
    """
    schedule = Schedule(spec["grid"], spec["group"])
    strategy = {
        **spec,
        "steps": schedule.steps,
        "tokenizer_sha256": files.sha256_file(tokenizer),
    }
    files.write_json(
        out, {"source": "config", "notation": notation(spec), "strategy": strategy}
    )


def notation(spec: dict[str, Any]) -> str:
    """A sampler in words, such as `n = 4, 147 steps, cfg 1.5`."""
    draw, steps = spec["draw"], Schedule(spec["grid"], spec["group"]).steps
    parts = [f"n = {spec['group']}", f"{steps} steps"]
    if draw["cfg_scale"] > 1:
        parts.append(_guidance(draw))
    for name, neutral in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0)):
        if draw[name] != neutral:
            parts.append(f"{name} {draw[name]:g}")
    return ", ".join(parts)


def _guidance(draw: dict[str, Any]) -> str:
    """Guidance in words, such as `cfg 2 cosine^1.5 from 0.2 to 0.9`."""
    words = [f"cfg {draw['cfg_scale']:g}"]
    if draw["guidance_shape"] != "constant":
        power = draw["guidance_power"]
        words.append(draw["guidance_shape"] + (f"^{power:g}" if power != 1 else ""))
    if draw["guidance_first"] > 0:
        words.append(f"from {draw['guidance_first']:g}")
    if draw["guidance_last"] < 1:
        words.append(f"to {draw['guidance_last']:g}")
    if draw["cfg_interval"] >= 0:
        words.append(f"interval {draw['cfg_interval']}")
    return " ".join(words)
