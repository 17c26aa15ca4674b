"""Questions that the device answers while it goes on working."""

from __future__ import annotations

import pytest
import torch

from fewstep.device.questions import ask


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(
                not torch.cuda.is_available(), reason="no GPU on this machine"
            ),
        ),
    ],
)
def test_an_answer_is_that_of_the_moment_of_the_question(device: str) -> None:
    """Also where the device has been given more to do since."""
    numbers = torch.arange(4, device=device)
    answers = [ask((numbers > limit).any()) for limit in (2, 3)]
    for _ in range(100):
        numbers = numbers + 1
    assert [answer() for answer in answers] == [True, False]
    assert all(type(answer()) is bool for answer in answers)
