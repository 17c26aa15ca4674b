"""Mistakes in a configuration: each gives one line, before any job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.config import load_config
from fewstep.errors import UserError
from fewstep.yamlpos import read
from tests.config_mistakes import MISTAKES, STRATEGIES
from tests.config_mistakes_flows import FLOW_MISTAKES
from tests.config_mistakes_par import PAR_MISTAKES, PAR_RESERVED

ROOT = Path(__file__).parents[1]
SOUND = Path(__file__).with_name("config_errors.yaml")
BASE = SOUND.read_text()
FLOWS = Path(__file__).with_name("config_errors_flows.yaml")
PAR = Path(__file__).with_name("config_errors_par.yaml")
ASSETS = ROOT / "workflow/assets.yaml"
Broken = Callable[..., str]


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    """The error line of the digits configuration after replacing (old, new) pairs."""

    def error(*changes: tuple[str, str], base: str = BASE, **options: Any) -> str:
        text = base
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        path = tmp_path / "config.yaml"
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            load_config(path, ASSETS, root=tmp_path, **options)
        line = str(caught.value)
        assert "\n" not in line
        return line.replace(str(path), "config.yaml")

    return error


def line_of(text: str, base: str = BASE) -> int:
    """Line number in the digits configuration."""
    return base[: base.index(text)].count("\n") + 1


DIGITS = "experiments.digits"


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_in_an_experiment(broken: Broken, name: str) -> None:
    """Each mistake gives file, line, key path, what is wrong and what was expected."""
    (old, new), message = MISTAKES[name]
    line = line_of(old)
    assert broken((old, new)).startswith(f"config.yaml:{line} {DIGITS}.{message}")


@pytest.mark.parametrize("name", FLOW_MISTAKES)
def test_mistake_in_a_flow(broken: Broken, tmp_path: Path, name: str) -> None:
    """The same for flows and their pairs; names are answered with the nearest one."""
    (tmp_path / "flow.pth").touch()
    check_mistake(broken, FLOWS.read_text(), *FLOW_MISTAKES[name])


def check_mistake(
    broken: Broken, text: str, change: tuple[str, str], message: str, *other: str
) -> None:
    """The error names the line of the old text, or of another in the changed file."""
    old, new = change
    assert text.count(old) == 1, old
    changed = text.replace(old, new)
    line = line_of(other[0], changed) if other else line_of(old, text)
    error = broken((old, new), base=text)
    assert error.startswith(f"config.yaml:{line} {message}")


@pytest.mark.parametrize("name", PAR_MISTAKES)
def test_mistake_in_par(broken: Broken, tmp_path: Path, name: str) -> None:
    """The same for tokenizers, codes, transformers and their samplers."""
    for file in ("vq.pt", "large.pt"):
        (tmp_path / file).touch()
    check_mistake(broken, PAR.read_text(), *PAR_MISTAKES[name])


def test_par_is_sound(tmp_path: Path) -> None:
    """Unbroken, PAR's configuration loads: what breaks it is the mistake alone."""
    for file in ("vq.pt", "large.pt"):
        (tmp_path / file).touch()
    assert load_config(PAR, None, root=tmp_path).codes["crops"].views == "ten-crop"


def test_flows_are_sound(tmp_path: Path) -> None:
    """Unbroken, the flows load: what breaks them is the mistake alone."""
    (tmp_path / "flow.pth").touch()
    config = load_config(FLOWS, None, root=tmp_path)
    assert "euler-2-at20" in config.experiments["seq2"].samplers


def test_unknown_batch_preset(broken: Broken, tmp_path: Path) -> None:
    """A device that no preset knows, from the file or the command line, is refused."""
    (tmp_path / "flow.pth").touch()
    text = FLOWS.read_text()
    error = broken(base=text, overrides={"batch_preset": "tpu-v3"})
    assert error.startswith(
        "override batch_preset: unknown preset 'tpu-v3'; expected 'tpu-v3-8' (the near"
    )
    error = broken(("batch_presets:", "batch_preset: gpu\nbatch_presets:"), base=text)
    line = line_of("batch_presets:", text)
    assert error.startswith(f"config.yaml:{line} batch_preset: unknown preset 'gpu'")


def test_batch_preset_above_the_pairs(broken: Broken, tmp_path: Path) -> None:
    """A preset's batch is checked like one in the file."""
    (tmp_path / "flow.pth").touch()
    change = ("{train: 24, sample: 12}", "{train: 45, sample: 12}")
    options: Any = {
        "base": FLOWS.read_text(),
        "overrides": {"batch_preset": "tpu-v3-8"},
    }
    assert "a batch of 45 is more than the pairs" in broken(change, **options)


@pytest.mark.parametrize("name", STRATEGIES)
def test_mistake_in_a_strategy(broken: Broken, name: str) -> None:
    """Impossible strategies are refused before any job, at their own line."""
    text, message = STRATEGIES[name]
    error = broken(('"[2-4-4-4]"', text))
    assert error.startswith(f"config.yaml:{line_of('gsj:')} {DIGITS}.samplers.gsj")
    assert message in error


def test_guess_needs_one_number_a_block(broken: Broken) -> None:
    """A guess list beside the notation has one entry for each block."""
    error = broken(('{strategy: "[2-4-4-4]"}', '{strategy: "[2-4-4-4]", guess: [0]}'))
    assert "samplers.gsj.guess: a list of 1 for 3 blocks; expected 3 numbers" in error


@pytest.mark.parametrize("strategy", ["for", "auto"])
def test_guess_without_notation(broken: Broken, strategy: str) -> None:
    """For ignores a guess and the search chooses it, so neither may be given one."""
    old = f"{{strategy: {strategy}}}"
    error = broken((old, f"{{strategy: {strategy}, guess: [0, 0, 0]}}"))
    assert f"samplers.{strategy}.guess: only a strategy in the paper's" in error


def test_search_is_exact(broken: Broken) -> None:
    """A searched plan cannot run in the released mode, which it was not made for."""
    error = broken(("{strategy: auto}", "{strategy: auto, mode: released}"))
    assert "samplers.auto.mode: the search measures against the exact" in error


def test_checkpoint_or_training(broken: Broken) -> None:
    """Weights come from a checkpoint or from training, not both and not neither."""
    both = broken(("    train:", "    checkpoint: afhq-model\n    train:"))
    assert "digits: both of 'checkpoint' and 'train' given; expected exactly" in both
    train = BASE[BASE.index("    train:") : BASE.index("    rank:")]
    assert "neither of 'checkpoint' and 'train' given" in broken((train, ""))


def test_length_of_the_training(broken: Broken) -> None:
    """Training is so many steps or so many epochs; the warm-up has one length too."""
    assert "train: both of 'steps' and 'epochs'" in broken(
        ("steps: 60", "steps: 60\n      epochs: 1")
    )
    assert "train: neither of 'steps' and 'epochs'" in broken(("      steps: 60\n", ""))
    assert "both 'warmup_steps' and 'warmup_epochs' given" in broken(
        ("warmup_steps: 10", "warmup_steps: 10\n      warmup_epochs: 1")
    )
    assert "train.min_lr: 1 is above the peak lr" in broken(
        ("warmup_steps: 10", "min_lr: 1")
    ).replace("1.0 is", "1 is")


def test_checkpoint_of_the_user_must_exist(broken: Broken, tmp_path: Path) -> None:
    """A path (it has a slash) is looked for at once; a name is an asset."""
    train = BASE[BASE.index("    train:") : BASE.index("    rank:")]
    missing = broken((train, "    checkpoint: ./my.pth\n"))
    assert "digits.checkpoint: file ./my.pth not found" in missing
    asset = broken((train, "    checkpoint: afhq-modell\n"))
    assert "unknown asset 'afhq-modell'; expected 'afhq-model'" in asset
    (tmp_path / "my.pth").touch()
    path = tmp_path / "config.yaml"
    path.write_text(BASE.replace(train, "    checkpoint: ./my.pth\n"))
    config = load_config(path, None, root=tmp_path)
    assert config.experiments["digits"].checkpoint == "./my.pth"


def test_guidance_needs_a_condition(broken: Broken) -> None:
    """Without classes and with temperature 1, guidance would only cost time."""
    error = broken(
        ("num_classes: 10\n    noise", "num_classes: 0\n    noise"),
        ("drop_label: 0.1", "drop_label: 0"),
    )
    assert "sampling.guidance: guidance of an unconditional model changes no" in error


def test_unconditional_model_on_labelled_data(tmp_path: Path) -> None:
    """A model without classes may use any dataset."""
    text = BASE.replace("num_classes: 10\n    noise", "num_classes: 0\n    noise")
    text = text.replace("drop_label: 0.1", "drop_label: 0")
    (tmp_path / "c.yaml").write_text(text.replace("guidance: 0.5", "guidance: 0"))
    config = load_config(tmp_path / "c.yaml", None)
    assert config.experiments["digits"].model.num_classes == 0


@pytest.mark.parametrize("name", ["Digits", "a_b", "-a", "a b", "ä"])
def test_names_split_targets(broken: Broken, name: str) -> None:
    """No name may make `{experiment}_{sampler}` ambiguous or odd as a file name."""
    error = broken(("  digits:\n    description", f"  {name}:\n    description"))
    assert f"experiments.{name}: found the text '{name}'; expected a name of" in error
    sampler = broken(("for: {strategy: for}", f"{name}: {{strategy: for}}"))
    assert f"samplers.{name}: found the text '{name}'; expected a name of" in sampler


@pytest.mark.parametrize(
    "name", ["all", "tables", "data", "demo", "smoke", *PAR_RESERVED]
)
def test_reserved_names(broken: Broken, name: str) -> None:
    """An experiment cannot take the name of a target or of a folder in results/."""
    error = broken(("  digits:\n    description", f"  {name}:\n    description"))
    assert f"experiments.{name}: '{name}' is a target or folder" in error


def test_references_and_extractors(broken: Broken) -> None:
    """Statistics and extractors point at things that exist and fit."""
    assert "references.digits.extractor: unknown extractor" in broken(
        ("extractor: classifier", "extractor: clasifier")
    )
    assert "references.digits: neither source given" in broken(
        ("extractor: classifier\n    dataset: digits", "extractor: classifier")
    )
    assert "references.digits.flips: random flips cannot be computed" in broken(
        ("keep_features: 500", "flips: random\n    keep_features: 500")
    )
    assert "extractors.classifier.weights: unknown key 'weights'" in broken(
        ("kind: classifier", "kind: classifier\n    weights: a")
    )
    assert "extractors.classifier.kind: unknown choice 'clasifier'; expected 'cl" in (
        broken(("kind: classifier", "kind: clasifier"))
    )


def test_kid_needs_real_features(broken: Broken) -> None:
    """KID, precision and recall are refused where the reference keeps no features."""
    few = broken(("keep_features: 500", "keep_features: 20"))
    assert "kid: reference 'digits' keeps too few real features; set references" in few
    assert "keep_features to 50 or more" in few
    none = broken(("    keep_features: 500\n", ""))
    assert "evaluation.kid:" in none
    assert "(and 1 more)" in none


def test_classifier_does_not_resize(broken: Broken) -> None:
    """A classifier scores only the size that it was trained on."""
    big = "  big: {source: digits, size: 16, num_classes: 10}\n"
    error = broken(
        ("datasets:\n", f"datasets:\n{big}"),
        (
            "dataset: digits\n    model:\n      img_size: 8",
            "dataset: big\n    model:\n      img_size: 16",
        ),
        ('"[2-4-4-4]"', "for"),
    )
    assert "reference 'digits' is of 8 px images (dataset 'digits'), the model" in error


def test_folder_needs_path_and_licence(broken: Broken) -> None:
    """A folder of images has a path, and somebody must say whose it is."""
    error = broken(("source: digits", "source: folder"))
    assert "datasets.digits: key 'path' is missing" in error
    assert "(and 2 more)" in error
    path = broken(("source: digits", "source: digits\n    path: data/x"))
    assert "datasets.digits.path: source digits reads no folder" in path


def test_first_problem_in_file_order_and_count(broken: Broken) -> None:
    """The first problem of the file is shown, with the number of the others."""
    error = broken(
        ("seeds: [0, 1]", "seeds: [0, 0]"),
        ("channels: 64", "channels: 65"),
        ("img_size: 8", "img_size: 16"),
    )
    assert error.startswith(f"config.yaml:{line_of('img_size: 8')} {DIGITS}.model.img")
    assert error.endswith("(and 3 more)")


def test_missing_key(broken: Broken) -> None:
    """A missing key is told at the mapping that lacks it, with its meaning."""
    error = broken(("      num_blocks: 3\n", ""))
    line = line_of("    model:")
    assert error.startswith(f"config.yaml:{line} {DIGITS}.model: key 'num_blocks' is")
    assert "expected num_blocks: Autoregressive blocks" in error


def test_key_given_twice(broken: Broken) -> None:
    """The second of two equal keys is refused, naming the line of the first."""
    error = broken(("steps: 60", "steps: 60\n      steps: 70"))
    first = line_of("steps: 60")
    assert error.startswith(f"config.yaml:{first + 1}:7 {DIGITS}.train.steps: key")
    assert f"'steps' is given twice (first in line {first})" in error


def test_invalid_yaml(broken: Broken) -> None:
    """Tabs and syntax errors are told with line and column."""
    line = line_of("source: digits")
    tab = broken(("    source: digits", "\tsource: digits"))
    assert tab == f"config.yaml:{line}:1: a tab in the indentation; expected spaces"
    error = broken(("source: digits", "source: [digits"))
    assert error.startswith(f"config.yaml:{line + 1}:9: not valid YAML: did not find")
    assert error.endswith(f"(while parsing a flow sequence from line {line})")


@pytest.mark.parametrize("text", ["", "# nothing\n", "3\n", "- a\n"])
def test_not_a_mapping(tmp_path: Path, text: str) -> None:
    """A file that holds no mapping is refused by its name."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"c\.yaml: .*expected a mapping"):
        load_config(path, None)


def test_missing_and_unreadable_file(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text give one line."""
    for path, message in (
        (tmp_path / "no.yaml", "file not found"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            load_config(path, None)
    (tmp_path / "b.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path / "b.yaml", None)


def test_problems_of_the_asset_table(tmp_path: Path) -> None:
    """The asset table is checked like the configuration, under its own name."""
    table = tmp_path / "assets.yaml"
    for text, message in (
        ("a: {path: x}", r"assets.yaml:1 a: key 'licence' is missing"),
        ("a: {path: x, licence: y, repo: o/n}", "key 'file' is missing"),
        ("a: {path: x, licence: y, revision: main}", "'revision' without 'repo'"),
        ("a: {path: x, licence: y, sha256: 12}", "found the number 12"),
        ("a: {path: x, licence: y, sha256: '12'}", "64 hexadecimal digits"),
        ("a: {path: x, licence: y}\nb: {path: x, licence: y}", "of asset 'a' too"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=message):
            load_config(SOUND, table)


def test_overrides(tmp_path: Path, broken: Broken) -> None:
    """Overrides are merged key by key, and blamed by name when they are wrong."""
    over = {"experiments": {"digits": {"sampling": {"guidance": 2}}}}
    config = load_config(SOUND, None, over)
    assert config.experiments["digits"].sampling.guidance == 2
    assert config.experiments["digits"].sampling.batch == 16
    over["experiments"]["digits"]["sampling"] = {"guidance": -1}
    assert broken(overrides=over).startswith(
        f"override {DIGITS}.sampling.guidance: the number -1 is out of range"
    )
    line = line_of("channels: 64")
    error = broken(("channels: 64", "channels: 65"), overrides={"experiments": {}})
    assert error.startswith(f"config.yaml:{line} ")


LEAVES = st.none() | st.booleans() | st.integers() | st.text("a:-[ 0", max_size=4)
DAMAGE = st.recursive(
    LEAVES | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_never_gives_a_traceback(data: st.DataObject) -> None:
    """A configuration with any value replaced loads, or gives one line."""
    file = data.draw(st.sampled_from([SOUND, FLOWS, PAR]))
    value: Any = read(file).value
    path: list[str] = []
    inner = value
    while isinstance(inner, dict) and inner:
        if path and not data.draw(st.integers(0, 5)):
            break
        path.append(data.draw(st.sampled_from(sorted(inner))))
        inner = inner[path[-1]]
    damage: Any = data.draw(DAMAGE)
    for key in reversed(path):
        damage = {key: damage}
    message = ""
    try:
        load_config(file, None, damage, ROOT)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
