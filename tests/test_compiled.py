"""torch's compiler, where it is asked for."""

from __future__ import annotations

import pytest
import torch

from fewstep.device.compiled import check_compiler
from fewstep.errors import UserError


def test_a_cpu_without_a_compiler_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names the compiler and the setting; a GPU needs none."""
    monkeypatch.setenv("CXX", "nowhere-to-be-found")
    with pytest.raises(UserError) as caught:
        check_compiler(torch.device("cpu"))
    assert str(caught.value) == (
        "compile: no C++ compiler 'nowhere-to-be-found', which compiling for a CPU "
        "needs; install one, name it in CXX, or set compile to false"
    )
    check_compiler(torch.device("cuda"))


def test_a_device_that_compiles_by_itself_is_not_asked_to() -> None:
    """A TPU has a compiler of its own, and torch's knows no TPU."""
    with pytest.raises(UserError) as caught:
        check_compiler(torch.device("xla"))
    assert str(caught.value) == (
        "compile: the xla device compiles everything by itself; expected false"
    )
