"""Files placed by hand are recorded when they are whole; records can be mended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fewstep import hub
from fewstep.errors import UserError
from tests.hub_server import CONTENT, SHA256, HubServer, asset, prepare, unknown

PLACE = Path("data/model.bin")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub for one test, whose working directory is new."""
    with HubServer(tmp_path / "served") as server:
        prepare(tmp_path, server, monkeypatch)
        PLACE.parent.mkdir()
        yield server


def refused(spec: dict[str, Any], expected_mb: int = 0) -> str:
    """The one line with which an asset is refused."""
    with pytest.raises(UserError) as caught:
        hub.fetch(spec, expected_mb=expected_mb)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_half_a_file_is_not_recorded(server: HubServer) -> None:
    """One that is much smaller than planned is refused; the whole one is taken."""
    PLACE.write_bytes(CONTENT[: len(CONTENT) // 2])
    line = refused(unknown(), expected_mb=2)
    assert line == (
        "asset model: data/model.bin has 1 MB; expected about 2 MB; copy it again; "
        "if it is whole, correct size_mb in the asset table"
    )
    assert not hub.LEDGER.exists()
    PLACE.write_bytes(CONTENT)
    assert hub.fetch(unknown(), expected_mb=2)["sha256"] == SHA256


def test_a_growing_file_is_not_recorded(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is just being copied is refused, whatever its size should be."""
    PLACE.write_bytes(CONTENT[:1000])

    def copy_on(_: float) -> None:
        with open(PLACE, "ab") as file:
            file.write(CONTENT[1000:2000])

    monkeypatch.setattr("fewstep.hub.placed.time.sleep", copy_on)
    line = refused(unknown())
    assert line == (
        "asset model: data/model.bin is still being written; run again when it is whole"
    )
    assert not hub.LEDGER.exists()


def test_an_old_or_known_file_is_not_waited_for(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look is for young files whose hash nobody knows."""
    monkeypatch.setattr("fewstep.hub.placed.time.sleep", None)
    PLACE.write_bytes(CONTENT)
    assert hub.fetch(asset(), expected_mb=900)["sha256"] == SHA256
    os.utime(PLACE, (time.time() - 60,) * 2)
    assert hub.fetch(unknown())["sha256"] == SHA256
    os.utime(PLACE)
    assert hub.fetch(unknown(), expected_mb=900)["sha256"] == SHA256


def test_a_mismatch_says_that_the_record_may_be_wrong(server: HubServer) -> None:
    """Half a file that was recorded once does not bind for ever without a word."""
    PLACE.write_bytes(CONTENT[:1000])
    hub.fetch(unknown())
    PLACE.write_bytes(CONTENT)
    assert "replaced it or the recorded file was not whole" in refused(unknown())


@pytest.mark.parametrize("lacking", ["revision", "file"])
def test_a_recorded_revision_that_is_gone(server: HubServer, lacking: str) -> None:
    """Who never wrote a revision into the table is not sent there to correct it."""
    hub.fetch(unknown())
    PLACE.unlink()
    if lacking == "revision":
        server.revisions = {"main": "f" * 40, "f" * 40: "f" * 40}
    else:
        (server.folder / "o/n/good.bin").unlink()
    line = refused(unknown())
    assert "(404); delete the entry 'model' of data/assets.lock.json, which nam" in line
    assert "asset table" not in line


def test_a_revision_of_the_table_that_is_gone(server: HubServer) -> None:
    """One that stands in the table is to be corrected there."""
    line = refused(unknown(revision="v9"))
    assert "(404); check file and revision in the asset table" in line
