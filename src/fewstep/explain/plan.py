"""Snakemake's plan for some targets, read in this process: nothing runs.

Snakemake's Python interface ends before the reasons of a job, so this reads the plan
itself; pyproject.toml pins the release that it was written for.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fewstep.doctor.targets import expand
from fewstep.errors import UserError
from fewstep.explain.changes import compare
from fewstep.explain.grouping import Explanation, Planned, Reason, group

_SNAKEFILE = "Snakefile"


def explain(
    targets: Sequence[str] = (),
    *,
    configfile: Path | None = None,
    config: Sequence[str] = (),
    profile: str | None = None,
) -> Explanation:
    """What would run in the working directory, and why.

    Args:
        targets: as for snakemake, or experiments and cells such as afhq_gsj; none:
            every published cell.
        configfile: instead of config.yaml.
        config: KEY=VALUE over the configuration.
        profile: as for snakemake; its rerun-triggers count.

    Raises:
        UserError: for a configuration that is wrong or not there, a target that does
            not exist, or a folder without a Snakefile.
    """
    if not Path(_SNAKEFILE).is_file():
        raise UserError(
            "no Snakefile in this folder", do="change to the folder of the workflow"
        )
    if configfile is not None and (configfile.is_dir() or not configfile.exists()):
        what = "a folder" if configfile.is_dir() else "file not found"
        raise UserError(what, where=str(configfile), expected="a configuration")
    arguments = ["--dry-run", "--quiet", "all"]
    arguments += ["--profile", profile] if profile else []
    arguments += ["--configfile", str(configfile)] if configfile else []
    arguments += ["--config", *config] if config else []
    settings = _read_arguments(arguments)
    with _workflow(settings) as workflow:
        files = _files(workflow, targets)
        dag = _plan(workflow, files, settings)
        return group(targets, list(_planned(workflow, dag, settings.rerun_triggers)))


def _read_arguments(arguments: list[str]) -> Any:
    """Snakemake's own reading of its command line, profile included."""
    from snakemake.cli import parse_args
    from snakemake.exceptions import WorkflowError

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_args(arguments)[1]
    except WorkflowError as error:
        raise UserError(_one_line(error)) from error
    except SystemExit as error:
        last = said.getvalue().strip().splitlines()[-1:]
        raise UserError(*(last or ["the options are none of Snakemake's"])) from error


@contextlib.contextmanager
def _workflow(settings: Any) -> Iterator[Any]:
    """The parsed Snakefile."""
    from snakemake.api import SnakemakeApi
    from snakemake.cli import parse_config
    from snakemake.exceptions import MissingRuleException, WorkflowError
    from snakemake.settings.types import (
        ConfigSettings,
        OutputSettings,
        ResourceSettings,
    )

    try:
        values = parse_config(settings.config)
    except ValueError as error:
        raise UserError(str(error), where="--config") from error
    silent = OutputSettings(
        dryrun=True,
        enable_file_logging=False,
        log_level_override=logging.CRITICAL + 1,
    )
    given = ConfigSettings(
        config=values, configfiles=settings.configfile, config_args=settings.config
    )
    try:
        with SnakemakeApi(silent) as api:
            found = api.workflow(
                resource_settings=ResourceSettings(cores=1),
                config_settings=given,
                snakefile=Path(_SNAKEFILE),
            )
            # What else it would say is for those who run it.
            with contextlib.redirect_stderr(io.StringIO()):
                workflow = found._workflow
            yield workflow
    except MissingRuleException as error:
        path = str(error).removeprefix("No rule to produce ").partition(" (")[0]
        raise UserError(
            f"no rule makes {path}",
            do="docs/outputs.md says which files there are, and of what",
        ) from error
    except WorkflowError as error:
        raise UserError(
            _one_line(error), do="`fewstep doctor TARGET` says what is missing"
        ) from error


def _files(workflow: Any, targets: Sequence[str]) -> list[str]:
    """Targets as Snakemake takes them: rules and files."""
    graph, rules = workflow.globals["GRAPH"], {rule.name for rule in workflow.rules}
    found: list[str] = []
    for target in targets:
        cell = target.endswith("_fid.json")
        if target in rules or (target.startswith("results/") and not cell):
            found.append(target)
        else:
            for files in expand(graph, [target]).values():
                found += files
    return found


def _plan(workflow: Any, targets: Sequence[str], settings: Any) -> Any:
    """The graph of jobs, with a reason at each that would run."""
    from snakemake.settings.types import DAGSettings

    workflow.dag_settings = DAGSettings(
        targets=list(targets),
        # As all profiles have it: a file that was cut short is made anew.
        force_incomplete=True,
        rerun_triggers=settings.rerun_triggers,
        max_checksum_file_size=settings.max_checksum_file_size,
    )
    workflow._prepare_dag(
        forceall=False, ignore_incomplete=False, lock_warn_only=True, nolock=True
    )
    workflow._build_dag()
    return workflow.dag


def _planned(workflow: Any, dag: Any, triggers: Any) -> Iterator[Planned]:
    """The jobs that would run, what runs first first."""
    wanted = set(dag.needrun_jobs())
    for level in dag.toposorted():
        jobs = [job for job in level if job in wanted and not job.rule.norun]
        for job in sorted(jobs, key=lambda job: (job.rule.name, _label(job))):
            yield Planned(
                job.rule.name,
                _label(job),
                tuple(map(str, job.output)),
                tuple(_reasons(workflow, dag, job, triggers)),
            )


def _label(job: Any) -> str:
    return str(job.message or next(iter(job.output), job.rule.name))


def _reasons(workflow: Any, dag: Any, job: Any, triggers: Any) -> list[Reason]:
    """All reasons of a job's own; those of others only where it has none."""
    reason = dag.reason(job)
    own: list[Reason] = []
    if reason.forced:
        cut = workflow.async_run(workflow.persistence.incomplete(job))
        own.append(Reason("interrupted", files=tuple(map(str, cut))))
    if reason.nooutput or reason.noio:
        own.append(Reason("always"))
    missing = tuple(sorted(path for path in map(str, job.output) if not _there(path)))
    if missing:
        own.append(Reason("missing", files=missing))
    else:
        own += _newer(dag, job, reason.updated_input)
        on = {one.name.lower() for one in triggers}
        own += _changed(workflow.persistence, job, on)
    return own or list(_upstream(dag, job))


def _there(path: str) -> bool:
    return Path(path).exists()


def _newer(dag: Any, job: Any, files: Any) -> Iterator[Reason]:
    """Inputs that are newer, and other, than when the outputs were made."""
    makers = {
        str(path): made.rule.name
        for made, paths in dag.dependencies[job].items()
        for path in paths
    }
    by: dict[str, list[str]] = {}
    for path in sorted(map(str, files)):
        by.setdefault(makers.get(path, ""), []).append(path)
    for rule, paths in by.items():
        what = f"newer input, made by {rule}" if rule else "newer input"
        yield Reason("input", what, tuple(paths))


def _changed(persistence: Any, job: Any, triggers: set[str]) -> Iterator[Reason]:
    """What differs from Snakemake's record of the job that made the outputs."""
    if not persistence.has_metadata(job) or persistence.has_outdated_metadata(job):
        return
    if "params" in triggers:
        yield from _params(persistence, job)
    if "input" in triggers:
        for path in job.output:
            before = set(map(str, persistence.input(path) or ()))
            after = set(map(str, persistence._input(job)))
            if persistence.input_changed(job, file=path):
                yield from _inputs(before, after)
                break
    if "code" in triggers and any(persistence.code_changed(job)):
        yield Reason("command")
    if "software_env" in triggers and any(persistence.software_stack_changed(job)):
        yield Reason("software")


def _inputs(before: set[str], after: set[str]) -> Iterator[Reason]:
    if after - before:
        yield Reason("input", "new input", tuple(sorted(after - before)))
    if before - after:
        yield Reason("input", "input no longer used", tuple(sorted(before - after)))


def _params(persistence: Any, job: Any) -> Iterator[Reason]:
    """Settings one by one; changed functions in one reason."""
    for path in job.output:
        change = persistence.params_changed(job, file=path)
        if change:
            named = {repr(value): name for name, value in job.params.items()}
            facts = compare(sorted(change.only_old), sorted(change.only_new), named)
            found = list(dict.fromkeys(facts))
            yield from (Reason(kind, text) for kind, text in found if kind != "code")
            code = [text for kind, text in found if kind == "code"]
            if code:
                yield Reason("code", ", ".join(code))
            return


def _upstream(dag: Any, job: Any) -> Iterator[Reason]:
    """The jobs that run before and make this one's inputs anew."""
    by: dict[str, set[str]] = {}
    for other, files in dag.dependencies[job].items():
        if dag.needrun(other):
            by.setdefault(other.rule.name, set()).update(map(str, files))
    for rule, paths in sorted(by.items()):
        yield Reason("upstream", rule, tuple(sorted(paths)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
