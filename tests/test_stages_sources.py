"""Files of assets are held against the record that they were verified with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep import files
from fewstep.cli import par, seqrf, spine
from fewstep.errors import UserError
from fewstep.stages.sources import check, source_facts

GONE = Path("no.npz")
Verb = Callable[[Path, Path], None]


@pytest.fixture
def asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A file and its record, in a new working directory."""
    monkeypatch.chdir(tmp_path)
    path, record = Path("stats.npz"), Path("stats.json")
    path.write_bytes(b"verified")
    files.write_json(record, {"sha256": hashlib.sha256(b"verified").hexdigest()})
    return path, record


def test_the_verified_file_passes(asset: tuple[Path, Path]) -> None:
    """Its hash is known then; without a record nothing is read."""
    path, record = asset
    digest = hashlib.sha256(b"verified").hexdigest()
    assert check(path, record) == digest
    assert source_facts(path, record)["source_sha256"] == digest
    assert source_facts(path, None)["asset"] == {}
    assert check(GONE, None) == check(None, record) == ""


def score(weights: Path, record: Path) -> None:
    """The verb of the samples' scores."""
    spec = {"evaluation": {}}
    spine.score(spec, [], GONE, GONE, 1, weights=weights, weights_record=record)


def reference_weights(weights: Path, record: Path) -> None:
    """The verb of reference statistics, about its network."""
    spine.reference({}, {}, GONE, weights=weights, weights_record=record)


def reference_file(file: Path, record: Path) -> None:
    """The same, about the published statistics."""
    spine.reference({}, {}, GONE, file=file, record=record)


def reconstruct(weights: Path, record: Path) -> None:
    """The verb of a tokenizer's reconstructions."""
    par.reconstruct({}, *5 * (GONE,), weights=weights, weights_record=record)


def train_flow(weights: Path, record: Path) -> None:
    """The verb of a training whose snapshots are scored."""
    seqrf.train_flow(
        {"train": {}},
        *3 * (GONE,),
        save_every=1,
        batch=1,
        gpus=1,
        nodes=1,
        weights=weights,
        weights_record=record,
    )


def facts(source: Path, record: Path) -> None:
    """What every stage that converts a checkpoint begins with."""
    source_facts(source, record)


VERBS = [score, reference_weights, reference_file, reconstruct, train_flow, facts]


@pytest.mark.parametrize("verb", VERBS)
def test_a_replaced_file_is_refused(asset: tuple[Path, Path], verb: Verb) -> None:
    """A file that was changed after its record was written is used by no stage."""
    path, record = asset
    path.write_bytes(b"another")
    with pytest.raises(UserError) as caught:
        verb(path, record)
    assert str(caught.value) == (
        f"stats.npz: the file has changed since it was checked: sha256 "
        f"{hashlib.sha256(b'another').hexdigest()[:12]}…; expected "
        f"{hashlib.sha256(b'verified').hexdigest()[:12]}…; "
        "delete stats.json and run again"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_a_deleted_file_says_how_to_get_it_back(
    asset: tuple[Path, Path], verb: Verb
) -> None:
    """A file that was deleted after its record was written has one line of advice."""
    path, record = asset
    path.unlink()
    with pytest.raises(UserError) as caught:
        verb(path, record)
    assert str(caught.value) == (
        "stats.npz: the file is gone since it was checked; "
        "delete stats.json and run again to fetch it anew, or put it back"
    )
