"""What all tests share: one thread, golden numbers, tiny models."""

from __future__ import annotations

import io
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

GOLDEN = Path(__file__).parent / "golden"


# Started with `&` from a script, everything below would ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors gain nothing from threads, and bits stay the same."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _bf16_everywhere() -> Iterator[None]:
    """What is said of bfloat16 holds on every processor, slow as it is on some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewstep.device.backends.cpu_has_bf16", lambda: True)
        yield


@pytest.fixture(scope="session")
def golden() -> Any:
    """Reader of golden files by name, such as `tarflow/cond_cfg`."""
    return lambda name: torch.load(GOLDEN / f"{name}.pt", weights_only=True)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the charts that a page drew, a dot standing for each."""
    from fewstep.plots import AnyChart, Look
    from fewstep.report import figures

    titles: list[str] = []
    dot = io.BytesIO()
    Image.new("RGB", (2, 2)).save(dot, "PNG")

    def draw(chart: AnyChart, look: Look) -> bytes:
        if look == Look():
            titles.append(" ".join(chart.to_dict(validate=False)["title"]["text"]))
        return dot.getvalue()

    monkeypatch.setattr(figures, "png_bytes", draw)
    return titles


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks compute as on a GPU: without the faster forms that a CPU has."""
    from fewstep.seqrf import layers
    from fewstep.tarflow import frozen

    monkeypatch.setattr(frozen, "_by_numpy", lambda x: False)
    monkeypatch.setattr(frozen, "_packs", lambda weight: False)
    monkeypatch.setattr(layers, "lean", lambda x: False)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """`run` in the test's folder, private, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="fs-") as short:
        (tmp_path / "run").symlink_to(short)
        yield tmp_path / "run"
