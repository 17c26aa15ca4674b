"""The watch: one question for all jobs, seldom, and patience with SLURM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_plugin_submitit.scheduler import Scheduler, SchedulerAwayError
from snakemake_executor_plugin_submitit.states import JobState
from snakemake_executor_plugin_submitit.watch import Watch
from tests.submitit.fake_slurm import FakeSlurm


@dataclass
class World(Scheduler):
    """A scheduler and a clock in memory; `pass_time` moves it."""

    known: dict[str, JobState] = field(default_factory=dict)
    accounted: dict[str, JobState] = field(default_factory=dict)
    away: bool = False
    database_away: bool = False
    now: float = 1000.0
    said: list[str] = field(default_factory=list)
    asked: list[set[str]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def queue(self) -> dict[str, JobState]:
        self.calls["squeue"] += 1
        if self.away:
            raise SchedulerAwayError("Unable to contact slurm controller")
        return dict(self.known)

    def past(self, ids: Iterable[str]) -> dict[str, JobState]:
        self.calls["sacct"] += 1
        self.asked.append(set(ids))
        if self.database_away:
            raise SchedulerAwayError("Connection refused")
        return {i: self.accounted[i] for i in self.asked[-1] if i in self.accounted}

    def watch(self, **values: float) -> Watch:
        """A watch on it."""
        return Watch(self, self.said.append, clock=lambda: self.now, **values)

    def pass_time(self, watch: Watch, seconds: float, *ids: str) -> None:
        """Look once a second for as long."""
        for _ in range(int(seconds)):
            self.now += 1
            watch.look(ids)


def test_all_jobs_are_one_question() -> None:
    """A thousand jobs are asked about in one call."""
    ids = [f"12_{k}" for k in range(1000)]
    world = World(known=dict.fromkeys(ids, JobState("RUNNING")))
    assert len(world.watch().look(ids)) == 1000
    assert world.calls == {"squeue": 1}


def test_nothing_is_asked_without_jobs() -> None:
    """An idle Snakemake leaves the controller alone."""
    world = World()
    watch = world.watch()
    assert watch.look([]) == {}
    world.pass_time(watch, 100)
    assert not world.calls


def test_the_pause_grows_while_nothing_changes() -> None:
    """An hour of a running job costs about one question a minute."""
    world = World(known={"1": JobState("RUNNING")})
    watch = world.watch(fastest=1, slowest=60)
    world.pass_time(watch, 3600, "1")
    assert 55 <= world.calls["squeue"] <= 75


def test_a_change_or_a_new_job_shortens_the_pause() -> None:
    """After a change SLURM is asked again soon, then more and more seldom."""
    world = World(known={"1": JobState("RUNNING")})
    watch = world.watch(fastest=1, slowest=60)
    world.pass_time(watch, 1000, "1")
    before = world.calls["squeue"]
    world.known["2"] = JobState("PENDING", "Priority")
    assert watch.look(["1", "2"])["2"].state == "PENDING"
    assert world.calls["squeue"] == before + 1
    world.pass_time(watch, 10, "1", "2")
    assert world.calls["squeue"] >= before + 3


def test_an_absent_controller_is_waited_for_and_fails_nobody() -> None:
    """For an hour without an answer: one message, few questions, no job ended."""
    world = World(known={"1": JobState("RUNNING"), "2": JobState("PENDING")})
    watch = world.watch(lost_after=60)
    watch.look(["1", "2"])
    world.away, world.known = True, {}
    world.pass_time(watch, 3600, "1", "2")
    assert not watch.for_good("1")
    assert not watch.for_good("2")
    assert watch.look(["1", "2"])["1"].state == "RUNNING"
    assert world.said == [
        "SLURM does not answer (Unable to contact slurm controller); waiting"
    ]
    assert world.calls["squeue"] < 80


def test_an_ended_job_is_not_judged_while_the_controller_is_away() -> None:
    """What was seen before the silence may have been a moment of a requeue."""
    world = World(known={"1": JobState("NODE_FAIL")})
    watch = world.watch()
    watch.look(["1"])
    world.away = True
    world.pass_time(watch, 3600, "1")
    assert not watch.for_good("1")
    world.away, world.known = False, {"1": JobState("PENDING", "BeginTime")}
    world.pass_time(watch, 120, "1")
    assert watch.states["1"].phase == "waiting"
    assert len(world.said) == 2
    assert world.said[1].startswith("SLURM answers again after ")


def test_a_controller_that_starts_without_jobs_is_given_time() -> None:
    """The time of its absence does not count for a job that it does not know yet."""
    world = World(known={"1": JobState("RUNNING")})
    watch = world.watch(lost_after=120)
    watch.look(["1"])
    world.known = {}
    world.pass_time(watch, 60, "1")
    world.away = True
    world.pass_time(watch, 600, "1")
    world.away = False
    world.pass_time(watch, 100, "1")
    assert not watch.for_good("1")
    world.pass_time(watch, 200, "1")
    assert watch.for_good("1")
    assert watch.states["1"].phase == "lost"


def test_a_vanished_job_is_lost_after_a_while_and_not_before() -> None:
    """Neither the controller nor the accounting knows it, for `lost_after` seconds."""
    world = World(known={"1": JobState("RUNNING"), "2": JobState("RUNNING")})
    watch = world.watch(lost_after=120)
    watch.look(["1", "2"])
    del world.known["1"]
    world.pass_time(watch, 115, "1", "2")
    assert not watch.for_good("1")
    world.pass_time(watch, 80, "1", "2")
    assert watch.for_good("1")
    assert not watch.for_good("2")


def test_a_job_that_comes_back_is_not_lost() -> None:
    """Time without a trace counts from the last trace."""
    world = World(known={"1": JobState("RUNNING")})
    watch = world.watch(lost_after=120)
    for _ in range(3):
        world.known = {"1": JobState("RUNNING")}
        world.pass_time(watch, 130, "1")
        world.known = {}
        world.pass_time(watch, 100, "1")
        assert not watch.for_good("1")


def test_a_job_that_was_never_seen_is_lost_as_well() -> None:
    """sbatch said yes, and then nobody has heard of it."""
    world = World()
    watch = world.watch(lost_after=120)
    assert watch.look(["1"]) == {}
    world.pass_time(watch, 60, "1")
    assert not watch.for_good("1")
    world.pass_time(watch, 130, "1")
    assert watch.for_good("1")


def test_accounting_is_asked_only_for_the_forgotten() -> None:
    """What squeue knows is not asked twice."""
    world = World(
        known={"1": JobState("RUNNING"), "2": JobState("PENDING")},
        accounted={"3": JobState("FAILED")},
    )
    watch = world.watch()
    assert watch.look(["1", "2"]).keys() == {"1", "2"}
    assert world.calls["sacct"] == 0
    assert watch.look(["1", "2", "3"])["3"].state == "FAILED"
    assert world.asked == [{"3"}]


def test_the_controllers_word_wins_over_the_accountings() -> None:
    """After a node failure the accounting shows NODE_FAIL for a requeued job."""
    world = World(
        known={"1": JobState("PENDING", "BeginTime")},
        accounted={"1": JobState("NODE_FAIL")},
    )
    watch = world.watch()
    world.pass_time(watch, 300, "1")
    assert watch.states["1"].phase == "waiting"
    assert not watch.for_good("1")


def test_preempted_then_pending_counts_as_pending() -> None:
    """SLURM shows the end of a preempted or failed start before the job waits again."""
    for moment in ("PREEMPTED", "NODE_FAIL"):
        world = World(known={"1": JobState("RUNNING")})
        watch = world.watch()
        watch.look(["1"])
        world.known["1"] = JobState(moment)
        world.pass_time(watch, 30, "1")
        assert not watch.for_good("1")
        world.known["1"] = JobState("PENDING", "BeginTime")
        world.pass_time(watch, 300, "1")
        assert watch.look(["1"])["1"].phase == "waiting"
        assert not watch.for_good("1")


def test_an_end_without_a_result_counts_after_some_patience() -> None:
    """A slow file system may still bring the result of a job that has ended."""
    world = World(known={"1": JobState("FAILED", "NonZeroExitCode")})
    watch = world.watch(patience=60)
    watch.look(["1"])
    world.pass_time(watch, 10, "1")
    assert not watch.for_good("1")
    world.pass_time(watch, 60, "1")
    assert watch.for_good("1")


def test_a_node_failure_that_slurm_does_not_undo_counts_in_the_end() -> None:
    """A cluster that does not requeue leaves the job failed."""
    world = World(known={"1": JobState("NODE_FAIL")})
    watch = world.watch(patience=60)
    watch.look(["1"])
    world.pass_time(watch, 50, "1")
    assert not watch.for_good("1")
    world.pass_time(watch, 30, "1")
    assert watch.for_good("1")


def test_a_reason_of_a_moment_does_not_fail_a_job_that_has_waited_long() -> None:
    """While a node restarts SLURM may say BadConstraints; patience starts then."""
    world = World(known={"1": JobState("PENDING", "Priority")})
    watch = world.watch(slowest=5)
    world.pass_time(watch, 1000, "1")
    world.known["1"] = JobState("PENDING", "BadConstraints")
    world.pass_time(watch, 10, "1")
    assert not watch.for_good("1")
    world.known["1"] = JobState("PENDING", "Priority")
    world.pass_time(watch, 100, "1")
    assert not watch.for_good("1")


def test_a_job_that_can_never_start_fails_with_the_reason() -> None:
    """It is not waited for until the end of time."""
    world = World(known={"1": JobState("PENDING", "BadConstraints")})
    watch = world.watch()
    watch.look(["1"])
    world.pass_time(watch, 120, "1")
    assert watch.for_good("1")
    assert "BadConstraints" in watch.states["1"].why()


def test_a_job_that_only_the_accounting_believes_in_is_lost() -> None:
    """A controller that lost its state leaves "running" jobs in the accounts."""
    for state in ("RUNNING", "PENDING"):
        world = World(accounted={"1": JobState(state)})
        watch = world.watch(lost_after=120)
        world.pass_time(watch, 600, "1")
        assert watch.for_good("1"), state


def test_an_absent_database_does_not_hide_what_the_controller_says() -> None:
    """Jobs that squeue knows are followed while sacct cannot answer."""
    world = World(known={"1": JobState("RUNNING")}, database_away=True)
    watch = world.watch()
    watch.look(["1", "2"])
    world.known["1"] = JobState("FAILED")
    world.pass_time(watch, 300, "1", "2")
    assert watch.states["1"].state == "FAILED"
    assert watch.for_good("1")
    assert not watch.for_good("2")
    assert world.said == ["sacct does not answer (Connection refused); waiting"]


def test_a_job_that_is_over_leaves_nothing_behind() -> None:
    """A workflow of a million jobs does not grow the watch."""
    world = World(known={"1": JobState("RUNNING")})
    watch = world.watch(lost_after=1000)
    watch.look(["1"])
    world.known = {}
    world.pass_time(watch, 60, "1")
    watch.forget("1")
    assert not watch.states
    assert not watch._since


@given(
    st.lists(
        st.sampled_from(["RUNNING", "PENDING", "PREEMPTED", "NODE_FAIL", "away"]),
        max_size=30,
    )
)
def test_no_sequence_of_moments_fails_a_job_that_runs_on(moments: list[str]) -> None:
    """Seconds of preemption, node failure and silence in any order are survived."""
    world = World(known={"1": JobState("RUNNING")})
    watch = world.watch()
    watch.look(["1"])
    for moment in moments:
        world.away = moment == "away"
        world.known["1"] = JobState(moment if moment != "away" else "RUNNING")
        world.pass_time(watch, 2, "1")
        if moment in {"RUNNING", "PENDING"}:
            world.pass_time(watch, 60, "1")
        assert not watch.for_good("1") or moment in {"PREEMPTED", "NODE_FAIL"}
    world.away, world.known["1"] = False, JobState("RUNNING")
    world.pass_time(watch, 70, "1")
    assert watch.look(["1"])["1"].phase == "running"


def test_the_watch_follows_a_scheduler(slurm: FakeSlurm) -> None:
    """With SLURM's programs: pending, running, gone, back, in a handful of calls."""
    slurm.add("1", state="PENDING", reason="Priority")
    said: list[str] = []
    watch = Watch(Scheduler(), said.append, fastest=0.0, slowest=0.0)
    assert watch.look(["1"])["1"].phase == "waiting"
    slurm.set_state("1", "RUNNING", node="n1")
    assert watch.look(["1"])["1"].phase == "running"
    slurm.go_away()
    assert watch.look(["1"])["1"].phase == "running"
    slurm.come_back()
    slurm.forget("1")
    assert watch.look(["1"])["1"].phase == "running"
    assert len(said) == 2
    assert slurm.count()["squeue"] == 4
