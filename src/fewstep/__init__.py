"""Few-step image samplers: GS-Jacobi for TarFlow, SeqRF and PAR on one footing.

    import fewstep
    model = fewstep.load("demo-tarflow")
    fewstep.show(model.sample(16, "for"))

The systems are `fewstep.tarflow`, `fewstep.seqrf` and `fewstep.par`. Nothing is loaded
here: an import of one part must not cost the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep.api.model import Model
    from fewstep.api.pictures import save_grid, show
    from fewstep.api.sources import load

_HOMES = {
    "Model": "api.model",
    "load": "api.sources",
    "save_grid": "api.pictures",
    "show": "api.pictures",
}

__all__ = ["Model", "load", "save_grid", "show"]


def __getattr__(name: str) -> Any:
    # Not `_lazy`, which would then stand behind every stage.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
