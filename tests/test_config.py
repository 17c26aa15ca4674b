"""Typed experiments: what a valid configuration gives, and what is generated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from fewstep.config import Config, load_config
from fewstep.config.__main__ import main
from fewstep.config.base import Spec
from fewstep.config.documents import drifted
from fewstep.config.par import ParSamplingOverrides, ParSamplingSpec
from fewstep.config.problems import from_pydantic
from fewstep.config.spine import DrawOverrides, DrawSpec
from fewstep.config.tarflow import SamplingOverrides, SamplingSpec
from fewstep.yamlpos import read

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "workflow/assets.yaml"
DIGITS = ROOT / "tests/workflow/config.yaml"


@pytest.fixture(scope="module")
def paper() -> Config:
    """The project's own configuration."""
    return load_config(ROOT / "config.yaml", ASSETS, root=ROOT)


def test_own_configurations_are_valid(paper: Config) -> None:
    """The shipped configurations load, and every evaluation has a target of its own."""
    tests = load_config(DIGITS, ASSETS)
    assert tests.evaluations() == [("digits", s) for s in ("for", "gsj", "auto")]
    for name in ("demo-tarflow", "afhq", "img128", "img64uncond", "img64cond"):
        for sampler in ("for", "gsj", "auto"):
            assert (name, sampler) in paper.evaluations()
    targets = [f"{a}_{b}" for a, b in paper.evaluations()]
    assert len(set(targets)) == len(targets)


def test_specs_know_their_names(paper: Config) -> None:
    """A resolved spec is JSON with its name and every default, as a job needs it."""
    dataset = paper.datasets["colour-mnist-16"].resolved()
    assert dataset["name"] == "colour-mnist-16"
    assert dataset["path"] is None
    assert paper.assets["afhq-model"].name == "afhq-model"
    for experiment in paper.experiments.values():
        resolved = experiment.resolved()
        assert json.loads(json.dumps(resolved)) == resolved
        for sampler in resolved["samplers"].values():
            assert None not in sampler["sampling"].values()
    assert paper.experiments["afhq"].resolved()["search"]["segments"]
    assert "samplers" not in paper.experiments["afhq"].resolved(without=["samplers"])


def test_resolved_configuration_is_a_configuration(paper: Config) -> None:
    """What is resolved is valid again and means the same."""
    value = paper.resolved()
    for group in ("experiments", "datasets", "extractors", "references", "pairs"):
        for spec in value[group].values():
            spec.pop("name", None)
    assert Config.model_validate(value).resolved() == value


def test_sampler_overrides_sampling() -> None:
    """A sampler's `sampling` keys win over the experiment's, the others stay."""
    over = {"samplers": {"for": {"sampling": {"guidance": 0, "labels": "iid"}}}}
    config = load_config(DIGITS, None, {"experiments": {"digits": over}})
    experiment = config.experiments["digits"]
    assert experiment.sampling_of("for").guidance == 0
    assert experiment.sampling_of("for").labels == "iid"
    assert experiment.sampling_of("for").batch == experiment.sampling.batch
    assert experiment.sampling_of("gsj") == experiment.sampling


@pytest.mark.parametrize(
    ("overrides", "sampling"),
    [
        (SamplingOverrides, SamplingSpec),
        (DrawOverrides, DrawSpec),
        (ParSamplingOverrides, ParSamplingSpec),
    ],
)
def test_overrides_have_the_fields_of_sampling(
    overrides: type[Spec], sampling: type[Spec]
) -> None:
    """Every key of `sampling` but the number of jobs can be changed by a sampler."""
    assert set(overrides.model_fields) == set(sampling.model_fields) - {"jobs"}


PUBLISHED = {
    # experiment: (num_gs, max_jacobi, guess) of the released commands, last block first
    "afhq": ([8, 1, 1, 1, 1, 1, 1, 1], [32] + [10] * 7, [0, 0, 0, 0, 0, 1, 1, 0]),
    "img128": (
        [1, 8, 1, 1, 1, 1, 1, 1],
        [10, 32, 10, 10, 10, 10, 10, 10],
        [0, 1, 0, 0, 0, 0, 1, 0],
    ),
    "img64uncond": (
        [1, 8, 1, 1, 1, 1, 1, 8],
        [20, 32, 20, 20, 20, 20, 20, 32],
        [0, 1, 0, 0, 1, 0, 1, 1],
    ),
    "img64cond": (
        [8, 1, 1, 1, 1, 1, 1, 0],
        [13, 6, 6, 6, 6, 6, 6, 1],
        [1, 0, 0, 0, 0, 1, 1, 0],  # the last one is For, where a guess means nothing
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_strategies(paper: Config, name: str) -> None:
    """The presets' notation and guess give the lists of the released commands."""
    from fewstep.tarflow.strategy import Strategy

    experiment = paper.experiments[name]
    sampler = experiment.samplers["gsj"]
    assert isinstance(sampler.strategy, str)
    strategy = Strategy.parse(
        sampler.strategy,
        num_blocks=experiment.model.num_blocks,
        tokens=experiment.model.tokens,
        guess=sampler.guess,
    )
    assert strategy.to_lists() == PUBLISHED[name]


def test_segments_of_the_search(paper: Config) -> None:
    """Without a list, the search tries the powers of two that divide T."""
    assert paper.experiments["img64cond"].model.tokens == 256
    assert paper.experiments["img64cond"].search_segments() == (
        *(2, 4, 8, 16, 32, 64, 128),
    )


def test_specs_cannot_change(paper: Config) -> None:
    """A checked configuration stays as it was checked."""
    with pytest.raises(ValidationError, match="frozen"):
        paper.experiments["afhq"].model.patch_size = 4  # type: ignore[misc]


def test_a_second_system_fits() -> None:
    """Errors inside a union of systems name real keys, without the union's tag."""

    class One(Spec):
        system: Literal["one"]
        size: int

    class Two(Spec):
        system: Literal["two"]
        steps: int

    adapter: TypeAdapter[Any] = TypeAdapter(
        dict[str, Annotated[One | Two, Field(discriminator="system")]]
    )
    for value, path, expected in (
        ({"system": "two", "stepz": 1}, ("a", "stepz"), "'steps' (the nearest key)"),
        ({"system": "two", "steps": "x"}, ("a", "steps"), "a whole number"),
        ({"system": "too", "steps": 1}, ("a", "system"), "'two' (the nearest choice)"),
        ({"steps": 1}, ("a",), ""),
    ):
        with pytest.raises(ValidationError) as caught:
            adapter.validate_python({"a": value})
        [problem] = from_pydantic(caught.value, {"a": value}, adapter.json_schema())
        assert (problem.path, problem.expected) == (path, expected)


def test_generated_files_are_up_to_date() -> None:
    """The schemas and the docs page are what the types say."""
    assert drifted(ROOT) == [], "run python -m fewstep.config --fix"


def test_json_schema_accepts_the_configurations() -> None:
    """An editor that uses the schema shows no error in the shipped files."""
    jsonschema = pytest.importorskip("jsonschema")
    for schema, files in (
        ("config", ["config.yaml", "tests/workflow/config.yaml"]),
        ("assets", ["workflow/assets.yaml"]),
    ):
        text = (ROOT / f"workflow/schemas/{schema}.schema.json").read_text()
        validator = jsonschema.Draft202012Validator(json.loads(text))
        for file in files:
            assert not list(validator.iter_errors(read(ROOT / file).value))


def test_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--check` prints one line and gives the status; `--fix` writes what is stale."""
    monkeypatch.chdir(ROOT)
    assert main(["--check"]) == 0
    assert "no problem" in capsys.readouterr().out
    (tmp_path / "c.yaml").write_text("experiments: {}")
    assert main(["--check", str(tmp_path / "c.yaml")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.chdir(tmp_path)
    assert main(["--fix"]) == 0
    assert drifted(tmp_path) == []
    assert main(["--fix"]) == 0
    assert capsys.readouterr().out.count("rewritten") == 3


def test_nothing_heavy_is_imported() -> None:
    """Reading a configuration and a code digest costs no torch, numpy or pandas."""
    code = (
        "import sys; from fewstep.config import load_config; load_config();"
        "from fewstep.codedigest import digest; digest('fewstep.config.load');"
        "print([m for m in ('torch', 'numpy', 'pandas', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr
