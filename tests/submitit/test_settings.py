"""Settings that mean nothing are refused with one line."""

from __future__ import annotations

from typing import Any

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.settings import (
    CHOICES,
    LEAST,
    ExecutorSettings,
    check,
)


def test_the_defaults_are_sound() -> None:
    """Whoever sets nothing gets SLURM, arrays and take-over."""
    settings = ExecutorSettings()
    check(settings)
    assert (settings.cluster, settings.array, settings.on_restart) == (
        "slurm",
        100,
        "take-over",
    )


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_a_word_that_is_no_choice_is_refused(name: str) -> None:
    """The line has the option as it is typed, the choices and what was given."""
    with pytest.raises(WorkflowError) as caught:
        check(ExecutorSettings(**{name: "nonsense"}))
    text = str(caught.value)
    assert f"--submitit-{name.replace('_', '-')}:" in text
    assert "'nonsense'" in text
    assert all(choice in text for choice in CHOICES[name])


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_every_choice_is_taken(name: str) -> None:
    """What the help names is allowed."""
    for choice in CHOICES[name]:
        check(ExecutorSettings(**{name: choice}))


@pytest.mark.parametrize("name", sorted(LEAST))
@pytest.mark.parametrize("value", [-1, None])
def test_a_number_below_the_least_is_refused(name: str, value: Any) -> None:
    """The line names the option and the least value."""
    with pytest.raises(WorkflowError, match=f"at least {LEAST[name]}, not {value}"):
        check(ExecutorSettings(**{name: value}))
    check(ExecutorSettings(**{name: LEAST[name]}))


@pytest.mark.parametrize("value", ["", "gpu:2", "a b"])
def test_an_accelerator_is_a_name(value: str) -> None:
    """The line shows what was given."""
    with pytest.raises(WorkflowError, match="--submitit-accelerator") as caught:
        check(ExecutorSettings(accelerator=value))
    assert repr(value) in str(caught.value)
