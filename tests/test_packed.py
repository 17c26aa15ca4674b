"""Products with weights laid out for a CPU: every layout gives the product."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.device import packed

pytestmark = pytest.mark.skipif(
    not packed.can_pack(torch.empty(1)), reason="torch without oneDNN's layouts"
)

HELD = """
import numpy, torch
from threadpoolctl import threadpool_info
from fewstep.device import packed

def threads():
    return [p["num_threads"] for p in threadpool_info() if "numpy" in p["filepath"]]

torch.set_num_threads(1)
weight = packed.in_columns(torch.randn(64, 48))
for rows in (2, 3):
    packed.packed_linear(torch.randn(rows, 48), weight)
    print(*threads())
"""


@pytest.fixture(params=["onednn", "onednn-narrow", "numpy"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each layout, oneDNN's with a GELU of its own and with one behind it."""
    by_numpy, wide = request.param == "numpy", request.param == "onednn"
    monkeypatch.setattr(packed, "numpy_multiplies", lambda weight: by_numpy)
    monkeypatch.setattr(packed, "_wide", lambda: wide)
    return str(request.param)


def numbers(*shape: int) -> Tensor:
    """Standard normal, from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [None, numbers(64)])
@pytest.mark.parametrize("shape", [(48,), (2, 48), (3, 48), (16, 48), (4, 10, 48)])
def test_every_layout_gives_the_product(
    shape: tuple[int, ...], bias: Tensor | None, gelu: bool
) -> None:
    """With a bias and without, with the exact GELU and without, for any rows."""
    x, weight = numbers(*shape), numbers(64, 48)
    found = packed.packed_linear(x, packed.pack_weight(weight), bias, gelu=gelu)
    expected = F.linear(x, weight, bias)
    expected = F.gelu(expected) if gelu else expected
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_a_layout_is_of_its_kind(layout: str) -> None:
    """Shape, type and device stay; the weight itself is not touched."""
    weight = numbers(64, 48)
    laid = packed.pack_weight(weight)
    assert laid.is_mkldnn == (layout != "numpy")
    assert (laid.shape, laid.dtype, laid.device) == (
        weight.shape,
        weight.dtype,
        weight.device,
    )
    if layout == "numpy":
        assert laid.T.is_contiguous()
    assert torch.equal(weight, numbers(64, 48))


def test_numpy_multiplies_on_one_thread_without_avx512(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float32 alone, and never where torch has several threads or AVX-512."""
    weight = torch.zeros(4, 4)
    for wide, threads, expected in (
        (False, 1, True),
        (False, 2, False),
        (True, 1, False),
    ):
        monkeypatch.setattr(packed, "_wide", lambda wide=wide: wide)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert packed.numpy_multiplies(weight) == expected
        assert not packed.numpy_multiplies(weight.bfloat16())


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core: NumPy has one thread")
def test_numpy_gets_one_thread_with_its_first_product_of_matrices() -> None:
    """Products of vectors leave NumPy's threads as they are."""
    done = subprocess.run(
        [sys.executable, "-c", HELD],
        env={"OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2", "1"]
