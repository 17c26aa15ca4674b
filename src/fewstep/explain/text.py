"""The answer of `fewstep explain` on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fewstep.explain.grouping import Explanation, Group, Reason

_SHOWN = 3
_SENTENCES = {
    "missing": "not there yet: {files}",
    "interrupted": "was cut short: {files}",
    "setting": "setting changed: {what}",
    "default": "new setting: {what}",
    "code": "code changed: {what}",
    "input": "{what}: {files}",
    "command": "the rule's command changed",
    "software": "the rule's software environment changed",
    "always": "runs whenever it is asked for",
    "upstream": "because {what} runs: {files}",
}


def show(found: Explanation) -> str:
    """The answer as plain text, one line a fact."""
    lines = [line for own in found.groups for line in (*_group(own), "")]
    return "\n".join([*lines, *_end(found)])


def _group(own: Group) -> Iterator[str]:
    count = f" ({len(own.jobs)} jobs)" if len(own.jobs) > 1 else ""
    labels = [label for label in own.jobs if label != own.rule]
    yield f"{own.rule}{count}{': ' if labels else ''}{_some(labels, '; ')}"
    for reason in own.reasons:
        yield f"  {_sentence(reason)}"


def _sentence(reason: Reason) -> str:
    # Of a new release every function may be another one.
    what = _some(reason.what.split(", ")) if reason.kind == "code" else reason.what
    return _SENTENCES[reason.kind].format(what=what, files=_some(reason.files))


def _end(found: Explanation) -> Iterator[str]:
    named = ", ".join(found.targets) or "all published cells"
    if not found.rules:
        yield f"nothing to do for {named}"
        return
    jobs = sum(found.rules.values())
    rules = ", ".join(f"{name} {count}" for name, count in found.rules.items())
    yield f"in all: {jobs} job{'s' if jobs > 1 else ''} for {named}: {rules}"


def _some(names: Sequence[str], between: str = ", ") -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return between.join(names[:_SHOWN]) + more
