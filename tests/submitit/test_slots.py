"""GPUs of one machine: each job has its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_plugin_submitit.slots import Slots, visible_gpus


def test_two_jobs_do_not_share_a_gpu() -> None:
    """submitit alone would show both the first GPU."""
    slots = Slots([0, 1, 2])
    assert slots.take("a", 1) == (0,)
    assert slots.take("b", 2) == (1, 2)
    assert slots.take("c", 1) is None
    slots.free("a")
    assert slots.take("c", 1) == (0,)


def test_a_job_without_gpus_never_waits() -> None:
    """It gets an empty place, also on a machine without GPUs."""
    slots = Slots([])
    assert slots.total == 0
    assert slots.take("a", 0) == ()
    slots.free("a")
    slots.free("nobody")


@pytest.mark.parametrize(
    ("shown", "numbers"),
    [("2,5", [2, 5]), ("", []), ("NoDevFiles", []), ("0", [0]), (" 1, 3", [1, 3])],
)
def test_only_visible_gpus_are_handed_out(
    monkeypatch: pytest.MonkeyPatch, shown: str, numbers: list[int]
) -> None:
    """CUDA_VISIBLE_DEVICES bounds what this process may give away."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert visible_gpus() == numbers


def test_without_a_variable_the_devices_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has, it is a sorted list of numbers."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = visible_gpus()
    assert found == sorted(set(found))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=40))
def test_no_gpu_is_ever_had_twice(steps: list[tuple[int, int]]) -> None:
    """Whatever jobs come and go, GPUs are had once, and all come back."""
    slots = Slots([3, 4, 5, 6])
    held: dict[str, tuple[int, ...]] = {}
    for who, count in steps:
        name = str(who)
        if name in held:
            slots.free(name)
            del held[name]
        elif (mine := slots.take(name, count)) is not None:
            assert len(mine) == count
            held[name] = mine
        taken = [number for mine in held.values() for number in mine]
        assert len(taken) == len(set(taken))
    for name in held:
        slots.free(name)
    assert slots.take("all", 4) == (3, 4, 5, 6)
