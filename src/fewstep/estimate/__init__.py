"""What a model needs, from its architecture alone: parameters, memory, work.

Pure arithmetic on resolved specifications (no torch), so that a workflow knows what to
ask a scheduler for, and a stage which batch its device holds. Numbers of parameters are
exact; all else are estimates.
"""

from __future__ import annotations

from types import ModuleType

from fewstep.estimate import par, seqrf, tarflow
from fewstep.estimate.work import Settings, Work

__all__ = [
    "Work",
    "fitting_batch",
    "parameters",
    "sampling_memory",
    "sampling_work",
]

MARGIN = 1.1
"""Free memory that a batch should have, over what it is estimated to need: the
allocator's gaps, and what libraries take for themselves."""

_SYSTEMS: dict[str, ModuleType] = {"tarflow": tarflow, "seqrf": seqrf, "par": par}


def parameters(system: str, model: Settings, segments: int = 1) -> int:
    """Trained numbers of a model, exactly.

    Args:
        system: "tarflow", "seqrf", "par", or "tokenizer" (PAR's `VQModel`).
        model: its resolved specification; PAR's may name a `size`.
        segments: time heads (SeqRF).
    """
    if system == "tokenizer":
        return par.tokenizer_parameters(model)
    if system == "seqrf":
        return seqrf.parameters(model, segments)
    return int(_SYSTEMS[system].parameters(model))


def sampling_memory(
    system: str, model: Settings, settings: Settings, batch: int, precision: str
) -> int:
    """Device bytes while `batch` samples are drawn: weights, caches, activations.

    What the device's driver and libraries take is not among them.

    Args:
        system: "tarflow", "seqrf" or "par".
        model: resolved specification of the model.
        settings: the specification of stage `sample`. Used are: TarFlow `sampling`
            (guidance, attn_temp, self_denoise) and `strategy`, that of plan.json
            (without it the largest that any plan may need); SeqRF `segments` and
            `solver`; PAR `draw` (cfg_scale) and `tokenizer` (`model`).
        batch: samples drawn at once.
        precision: "fp32" or "bf16".
    """
    return int(_SYSTEMS[system].sampling_memory(model, settings, batch, precision))


def fitting_batch(
    system: str,
    model: Settings,
    settings: Settings,
    batch: int,
    precision: str,
    free: int,
) -> int:
    """The largest of batch, batch/2, batch/4 … that fits; 1 where none does.

    Args:
        system, model, settings, precision: as in `sampling_memory`.
        batch: samples that are wanted at once.
        free: bytes of the device's memory, before the model is on it.
    """
    while batch > 1:
        needed = sampling_memory(system, model, settings, batch, precision)
        if MARGIN * needed <= free:
            break
        batch //= 2
    return batch


def sampling_work(
    system: str, model: Settings, settings: Settings, batch: int, precision: str
) -> list[Work]:
    """What drawing one batch costs; arguments as in `sampling_memory`.

    Further settings: SeqRF `steps` and `tol`; TarFlow without `strategy` draws by For.
    """
    found: list[Work] = _SYSTEMS[system].sampling_work(
        model, settings, batch, precision
    )
    return found
