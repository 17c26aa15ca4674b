"""The asset table: sound, complete, and used as the configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep import hub
from fewstep.config import Config, load_config
from fewstep.config.data import AssetSpec
from fewstep.errors import UserError
from fewstep.graph import Graph
from fewstep.graph.assets import behind, experiment_assets

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests/workflow/config.yaml"


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The repository's own configuration."""
    return Graph(ROOT, [ROOT / "config.yaml"])


@pytest.fixture(scope="module")
def config(graph: Graph) -> Config:
    """Its configuration."""
    return graph.config


def test_every_asset_is_used_or_says_why_not(graph: Graph) -> None:
    """No row is dead, and no reason for not using one is out of date."""
    for name, asset in graph.config.assets.items():
        users = graph.asset_users(name)
        assert bool(users) != bool(asset.unused), (name, users[:2])
        assert len(users) == len(set(users))


def test_every_asset_that_is_named_exists(config: Config) -> None:
    """What the evaluations need is in the table, and was published."""
    for experiment in config.experiments:
        for name in experiment_assets(config, experiment):
            assert config.assets[name].trained_by is None


def test_an_unpublished_row_names_a_training(config: Config) -> None:
    """Its experiment trains, and makes the file at its path."""
    rows = [asset for asset in config.assets.values() if asset.trained_by]
    assert len(rows) >= 18
    for asset in rows:
        assert config.experiments[asset.trained_by or ""].train is not None
        assert asset.note


def test_every_size_is_known_or_estimated(config: Config) -> None:
    """For planning each published file has a size of some kind, and a licence."""
    for name, asset in config.assets.items():
        assert asset.licence
        if not asset.trained_by:
            assert (asset.bytes is None) == (asset.size_mb is not None), name
            assert (asset.bytes is None) == (asset.sha256 is None), name


def test_every_published_file_has_a_home_or_a_note(config: Config) -> None:
    """What is placed by hand says where to get it; the rest can be downloaded."""
    for name, asset in config.assets.items():
        shipped = asset.path.startswith("workflow/assets/")
        home = asset.repo or asset.mirrors
        assert (
            shipped or asset.trained_by or home or "links in the README" in asset.note
        )
        assert not shipped or (ROOT / asset.path).exists(), name
        assert shipped or asset.path.startswith(("data/assets/", "results/"))


def test_shipped_files_are_what_the_table_says(graph: Graph) -> None:
    """Their hashes are verified, as every use of them does."""
    for name, asset in graph.config.assets.items():
        if asset.path.startswith("workflow/assets/"):
            spec = {**graph.asset(name), "path": str(ROOT / asset.path)}
            assert hub.fetch(spec, Path("no-book.json"))["sha256"] == asset.sha256
    assert not Path("no-book.json").exists()


def test_users_follow_from_the_configuration(graph: Graph) -> None:
    """Teachers, starts, baselines in time, tokenizers and statistics all count."""
    assert "results/afhq_gsj_fid.json" in graph.asset_users("afhq-stats")
    assert "results/afhq-scratch_for_fid.json" not in graph.asset_users("afhq-model")
    assert "results/cifar10-4seqrf_rk45_fid.json" in graph.asset_users("rf-cifar10")
    assert "results/par-xl-4x_cfg_fid.json" in graph.asset_users("llamagen-xl")
    codes = "results/codes/imagenet-384/codes.json"
    assert codes in graph.asset_users("vq-16")
    assert codes not in graph.asset_users("par-xl-4x")
    assert "results/demo-par-n4_cfg_fid.json" in graph.asset_users("demo-par-n1")
    trained = graph.asset_users("cifar10-4seqrf-weights")
    assert "results/cifar10-4seqrf_euler-4_fid.json" in trained
    inception = graph.asset_users("inception-weights")
    assert "results/cifar10-1rf_rk45_fid.json" in inception
    assert "results/afhq_gsj_fid.json" not in inception  # its statistics carry them


def test_what_stands_behind_an_experiment(config: Config) -> None:
    """Itself first, then its baseline, start and teacher, each once."""
    found = list(behind(config, "cifar10-4seqrf"))
    assert found == ["cifar10-4seqrf", "cifar10-1rf"]
    assert list(behind(config, "demo-par-n16")) == [
        *("demo-par-n16", "demo-par-n1", "shipped-par-n16", "shipped-par-n1")
    ]


def test_a_baseline_in_time_changes_no_score(config: Config) -> None:
    """What only the clock needs is left out where the images and scores count."""
    timed = experiment_assets(config, "par-xl-4x")
    scored = experiment_assets(config, "par-xl-4x", timed=False)
    files = {"vq-16", "imagenet-256-virtual", "inception-weights"}
    assert set(scored) == {"par-xl-4x", *files}
    assert set(timed) - set(scored) == {"llamagen-xl"}


def test_what_is_for_planning_reruns_no_download(graph: Graph) -> None:
    """A better estimate of a size, or a word about a use, is no reason to fetch."""
    spec = graph.asset("inception-weights")
    assert {"size_mb", "unused"}.isdisjoint(spec)
    assert {"repo", "file", "mirrors", "sha256", "note"} <= spec.keys()


def test_what_opens_an_asset_is_told_its_record(graph: Graph) -> None:
    """Checkpoints, statistics and Inception's weights: path and record go together."""
    records = "results/assets"
    path = graph.asset_path("imagenet-256-virtual")
    assert graph.reference_option("imagenet-256") == (
        f"--file {path} --record {records}/imagenet-256-virtual.json"
    )
    for reference, own in graph.config.references.items():
        weights = getattr(graph.config.extractors[own.extractor], "weights", None)
        if weights is not None:
            option = graph.extractor_option(reference)
            assert option.endswith(f" --weights-record {records}/{weights}.json")
    assert graph.source_option("x/y.pth") == "--source x/y.pth"


def test_the_planned_size_goes_past_the_params(graph: Graph) -> None:
    """It is told to the download as a resource, which reruns nothing."""
    assert graph.asset_mb("rf-cifar10") == graph.config.assets["rf-cifar10"].size_mb
    assert graph.asset_mb("demo-model") == 0


TRAINED = "a: {licence: y, trained_by: digits, path: results/digits/model.safetensors"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {path: x, licence: y, repo: o//n, file: f}", "assets.yaml:1 a.repo"),
        ("a: {path: x, licence: y, mirrors: [ftp://h/x]}", "a.mirrors"),
        ("a: {path: x, licence: y, mirrors: ['https://u:p@h/x']}", "a.mirrors"),
        ("a: {path: x, licence: y, mirrors: ['https://h/x?sig=s3']}", "a.mirrors"),
        ("a: {path: x, licence: y, mirrors: ['https://h/x#s3']}", "a.mirrors"),
        (
            f"{TRAINED}2}}",
            "not what that training makes; expected results/digits/model",
        ),
        (f"{TRAINED}, mirrors: ['https://h/x']}}", "weights that nobody published"),
        (f"{TRAINED}, repo: o/n, file: f}}", "weights that nobody published"),
    ],
)
def test_problems_of_the_table(tmp_path: Path, text: str, message: str) -> None:
    """Rows that cannot be right are refused with file and line."""
    table = tmp_path / "assets.yaml"
    table.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(TINY, table)


@pytest.mark.parametrize("address", ["https://h/x?sig=s3cret", "https://s3cret@h/x"])
def test_a_secret_in_an_address_is_not_repeated(tmp_path: Path, address: str) -> None:
    """A signature or a password may not stand in the table, and not in the error."""
    table = tmp_path / "assets.yaml"
    table.write_text(f"a: {{path: x, licence: y, mirrors: ['{address}']}}")
    with pytest.raises(UserError, match="no password and no signature") as caught:
        load_config(TINY, table)
    assert "s3cret" not in str(caught.value)


def test_an_unpublished_asset_is_no_checkpoint(tmp_path: Path) -> None:
    """Who names it is told what trains it."""
    table = tmp_path / "assets.yaml"
    table.write_text(f"{TRAINED}}}")
    over = {"experiments": {"digits": {"checkpoint": "a", "train": None}}}
    with pytest.raises(UserError, match="'a' was never published") as caught:
        load_config(TINY, table, over)
    assert "expected weights trained by digits" in str(caught.value)


def test_a_row_is_frozen() -> None:
    """A checked row cannot change under the graph that reads it."""
    asset = AssetSpec(path="x", licence="y", mirrors=["https://h/x"])
    assert asset.mirrors == ("https://h/x",)
    assert asset.resolved()["mirrors"] == ["https://h/x"]
