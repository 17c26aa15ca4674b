"""SLURM's commands: one call for all jobs, counted, and what their answers mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_plugin_submitit.scheduler import (
    Scheduler,
    SchedulerAwayError,
    SchedulerError,
    expand,
    is_away,
    minutes,
    parse_accounting,
    parse_queue,
)
from snakemake_executor_plugin_submitit.states import JobState
from tests.submitit.fake_slurm import FakeSlurm


def test_all_jobs_are_one_call(slurm: FakeSlurm) -> None:
    """Two or two hundred jobs cost squeue the same."""
    slurm.add(*(f"30_{k}" for k in range(200)), state="RUNNING", node="n1")
    slurm.add("31", state="PENDING", reason="Priority")
    slurm.add("32", state="COMPLETED", options={"comment": "mark|with bars"})
    scheduler = Scheduler()
    queue = scheduler.queue()
    assert len(queue) == 202
    assert queue["30_7"] == JobState("RUNNING", "None", "n1", "")
    assert queue["31"] == JobState("PENDING", "Priority", "", "")
    assert queue["32"].comment == "mark|with bars"
    assert slurm.count() == scheduler.calls == {"squeue": 1}


def test_an_empty_queue_is_an_answer(slurm: FakeSlurm) -> None:
    """No job at all is not the same as no answer."""
    assert Scheduler().queue() == {}


@pytest.mark.parametrize(
    "text",
    [
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        "slurm_load_jobs error: Connection refused",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or "
        "received",
        "slurm_load_jobs error: Slurm backup controller in standby mode",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
        "slurm_persist_conn_open: failed to open persistent connection to "
        "host:x:6819: Connection refused",
    ],
)
def test_a_controller_that_does_not_answer_is_away(text: str) -> None:
    """These texts of SLURM's programs say nothing about any job."""
    assert is_away(text)


@pytest.mark.parametrize(
    "text",
    [
        "sbatch: error: Batch job submission failed: Invalid partition name specified",
        "sbatch: error: Batch job submission failed: Requested node configuration is "
        "not available",
        "sbatch: error: Unable to open file",
        "slurm_load_jobs error: Invalid job id specified",
        "Slurm accounting storage is disabled",
        "",
    ],
)
def test_a_refusal_is_an_answer(text: str) -> None:
    """What waiting will not change is no absence."""
    assert not is_away(text)


def test_absence_is_an_error_of_its_own(slurm: FakeSlurm) -> None:
    """Nobody may take it for an empty queue; a slow controller is away, too."""
    slurm.go_away()
    scheduler = Scheduler(timeout=0.5)
    with pytest.raises(SchedulerAwayError, match="Unable to contact"):
        scheduler.queue()
    with pytest.raises(SchedulerAwayError, match="Unable to contact"):
        scheduler.partitions()
    with pytest.raises(SchedulerAwayError, match="Unable to contact"):
        scheduler.cancel(["1"])
    slurm.come_back()
    slurm.configure(slow={"squeue": 5})
    with pytest.raises(SchedulerAwayError, match="squeue: no answer in"):
        scheduler.queue()


def test_a_cluster_without_slurm_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SLURM's programs the line names the one that is missing."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SchedulerError, match="sinfo: No such file"):
        Scheduler().partitions()


def test_accounting_knows_what_the_controller_forgot(slurm: FakeSlurm) -> None:
    """sacct is asked for the ids that are given, in one call."""
    slurm.configure(accounting=True)
    slurm.add("40_1", state="FAILED", node="n2")
    slurm.add("41", state="CANCELLED")
    slurm.add("42", state="RUNNING")
    scheduler = Scheduler()
    past = scheduler.past(["40_1", "41", "99"])
    assert past["40_1"].state == "FAILED"
    assert past["40_1"].node == "n2"
    assert past["41"].state == "CANCELLED"
    assert "99" not in past
    assert scheduler.calls == {"sacct": 1}


def test_without_accounting_it_is_asked_once(slurm: FakeSlurm) -> None:
    """ "Accounting storage is disabled" is remembered; it will not change."""
    slurm.add("41", state="CANCELLED")
    scheduler = Scheduler()
    scheduler.use_accounting("auto")
    assert scheduler.past(["41"]) == {}
    assert scheduler.past(["41"]) == {}
    assert slurm.count()["sacct"] == 1


def test_squeue_alone_never_asks_accounting(slurm: FakeSlurm) -> None:
    """The setting `states: squeue` spares a slow database."""
    slurm.configure(accounting=True)
    slurm.add("41", state="CANCELLED")
    scheduler = Scheduler()
    scheduler.use_accounting("squeue")
    assert scheduler.past(["41"]) == {}
    assert slurm.count()["sacct"] == 0


def test_cancelling_is_one_call_and_ids_that_are_gone_are_no_error(
    slurm: FakeSlurm,
) -> None:
    """Only what is named is cancelled, also when one of it is gone."""
    slurm.add("50", "51", "52", "60_1", "60_2", state="RUNNING")
    scheduler = Scheduler()
    scheduler.cancel(["50", "99", "52", "60_2"])
    with slurm.jobs() as known:
        states = {name: job["state"] for name, job in known.items()}
    ended = {name for name, state in states.items() if state == "CANCELLED"}
    assert ended == {"50", "52", "60_2"}
    assert slurm.count() == {"scancel": 1}
    scheduler.cancel([])
    assert slurm.count() == {"scancel": 1}


def test_a_thousand_ids_fit_into_command_lines(slurm: FakeSlurm) -> None:
    """Many ids are few calls, none of which is too long."""
    slurm.configure(accounting=True)
    names = [f"70_{number}" for number in range(1000)]
    slurm.add(*names[:3], state="FAILED")
    scheduler = Scheduler()
    assert set(scheduler.past(names)) == set(names[:3])
    scheduler.cancel(names)
    assert max(scheduler.calls.values()) <= 5


def test_partitions_have_limits_and_a_default(slurm: FakeSlurm) -> None:
    """Limits are minutes, None without one; the default partition is ""."""
    limits = {"low": None, "high": 24 * 60, "short": 30, "": None}
    assert Scheduler().partitions() == limits


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("infinite", None),
        ("UNLIMITED", None),
        ("n/a", None),
        ("30:00", 30),
        ("1:00:00", 60),
        ("10:30:00", 630),
        ("1-00:00:00", 1440),
        ("2-12:30:00", 3630),
        ("0:30", 0),
        ("5", 5),
        ("1-06", 1800),
        ("1-06:15", 1815),
    ],
)
def test_time_limits_are_read(text: str, value: int | None) -> None:
    """Every form that sinfo prints, and those that slurm.conf allows."""
    assert minutes(text) == value


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("12", ["12"]),
        ("12_7", ["12_7"]),
        ("12_[3-5]", ["12_3", "12_4", "12_5"]),
        ("12_[3-5,9%2]", ["12_3", "12_4", "12_5", "12_9"]),
        ("12_[0-6:3]", ["12_0", "12_3", "12_6"]),
        ("12_[1,4]", ["12_1", "12_4"]),
        ("12_[1,3,...]", ["12_1", "12_3"]),
    ],
)
def test_ids_of_arrays_are_expanded(text: str, ids: list[str]) -> None:
    """Tasks that wait stand on one line with a range."""
    assert expand(text) == ids


@given(st.sets(st.integers(0, 400), min_size=1, max_size=40))
def test_any_tasks_are_found_in_their_range(tasks: set[int]) -> None:
    """Whatever ranges squeue makes of them, all ids come out and no other."""
    spans: list[list[int]] = []
    for task in sorted(tasks):
        if spans and spans[-1][-1] == task - 1:
            spans[-1][1:] = [task]
        else:
            spans.append([task])
    text = ",".join("-".join(map(str, span)) for span in spans)
    assert expand(f"7_[{text}%5]") == [f"7_{task}" for task in sorted(tasks)]


def test_collapsed_lines_of_squeue_are_read(slurm: FakeSlurm) -> None:
    """A squeue that keeps waiting tasks on one line says the same."""
    queue = parse_queue("12_[3-4]|PENDING|Priority||(null)\n12_2|RUNNING|None|n1|m\n")
    assert queue["12_3"] == queue["12_4"] == JobState("PENDING", "Priority")
    assert queue["12_2"] == JobState("RUNNING", "None", "n1", "m")


def test_lines_that_are_no_jobs_are_passed_over() -> None:
    """Warnings of plugins in between do not end the watch."""
    assert parse_queue("\nsome remark\n12|RUNNING|None|n1|\n").keys() == {"12"}
    steps = "12.batch|FAILED|1:0|n1\n12|CANCELLED by 0|0:0|n1\n12.extern|COMPLETED\n"
    assert parse_accounting(steps) == {"12": JobState("CANCELLED", "", "n1")}


def test_accounting_has_the_exit_status() -> None:
    """A job that failed shows with what."""
    assert "3:0" in parse_accounting("12|FAILED|3:0|n1\n")["12"].why()
