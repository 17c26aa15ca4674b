"""Downloads that break, stall, race and run out of room, over real HTTP on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fewstep import hub
from fewstep.errors import UserError
from fewstep.progress import bar
from tests.hub_server import (
    CONTENT,
    SHA256,
    HubServer,
    asset,
    fetch_apart,
    prepare,
    unknown,
    wait_for,
)

PLACE = Path("data/model.bin")
PART = Path("data/.model.bin.part")
SIZE = len(CONTENT)
FIRST = 700_000
OTHER = CONTENT[::-1]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub for one test, whose working directory is new."""
    with HubServer(tmp_path / "served") as server:
        prepare(tmp_path, server, monkeypatch)
        yield server


@pytest.fixture
def plain(server: HubServer) -> dict[str, Any]:
    """The same file, at a plain address alone."""
    mirrors = [server.plain("o/n/good.bin")]
    return unknown(repo=None, file=None, mirrors=mirrors)


def refused(spec: dict[str, Any]) -> str:
    """The one line with which an asset is refused."""
    with pytest.raises(UserError) as caught:
        hub.fetch(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ranges(server: HubServer) -> list[str]:
    """What part of the file each GET asked for."""
    return [one.headers.get("range", "all") for one in server.asked("GET")]


def broken_off(server: HubServer, spec: dict[str, Any]) -> None:
    """Leave the first bytes of a download behind, and a server that behaves."""
    server.treat("good.bin", cut=0, method="GET")
    server.treat("good.bin", cut=FIRST, times=1, method="GET")
    assert "broke" in refused(spec)
    assert PART.stat().st_size == FIRST
    server.behave()
    server.seen.clear()


def test_a_broken_connection_is_continued(server: HubServer) -> None:
    """What has arrived is not asked for again."""
    server.treat("good.bin", cut=FIRST, times=2, method="GET")
    assert hub.fetch(asset())["sha256"] == SHA256
    assert ranges(server) == ["all", f"bytes={FIRST}-", f"bytes={2 * FIRST}-"]


def test_a_line_that_breaks_every_time_still_gets_there(server: HubServer) -> None:
    """As long as every try brings something, none is the last."""
    server.treat("good.bin", cut=SIZE // 9, method="GET")
    assert hub.fetch(asset())["sha256"] == SHA256
    assert len(ranges(server)) == 10


def test_tries_that_bring_nothing_end(server: HubServer) -> None:
    """After five tries the home is given up, with what has arrived kept."""
    server.treat("good.bin", cut=FIRST, ignore_range=True, method="GET")
    line = refused(asset())
    assert "the connection to o/n/good.bin at revision " in line
    assert "broke; check the network" in line
    assert len(ranges(server)) == 5
    assert PART.stat().st_size == FIRST


def test_a_killed_process_is_continued_by_the_next(server: HubServer) -> None:
    """After kill -9 in the middle the next process asks for the rest alone."""
    server.treat("good.bin", stall=FIRST, times=1, method="GET")
    child = fetch_apart(unknown())
    wait_for(lambda: PART.exists() and PART.stat().st_size == FIRST)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert not PLACE.exists()
    assert hub.fetch(unknown())["sha256"] == SHA256
    assert ranges(server) == ["all", f"bytes={FIRST}-"]
    assert PLACE.read_bytes() == CONTENT
    assert not list(PLACE.parent.glob("*.part*"))


def test_killed_between_the_last_byte_and_the_name(server: HubServer) -> None:
    """A part that is whole is verified, not downloaded again."""
    broken_off(server, asset())
    PART.write_bytes(CONTENT)
    hub.fetch(asset())
    assert PLACE.read_bytes() == CONTENT
    assert ranges(server) == []


def test_another_version_never_continues_a_part(server: HubServer) -> None:
    """When the file has changed since, all of it is downloaded."""
    broken_off(server, unknown())
    (server.folder / "o/n/good.bin").write_bytes(OTHER)
    assert hub.fetch(unknown())["sha256"] == hashlib.sha256(OTHER).hexdigest()
    assert ranges(server) == ["all"]


def test_another_commit_with_the_same_file_continues_a_part(server: HubServer) -> None:
    """A commit that touches other files does not cost what has arrived."""
    broken_off(server, unknown())
    server.revisions["main"] = "d" * 40
    server.revisions["d" * 40] = "d" * 40
    assert hub.fetch(unknown())["revision"] == "d" * 40
    assert ranges(server) == [f"bytes={FIRST}-"]


def test_a_damaged_part_costs_one_more_download(server: HubServer) -> None:
    """The whole is verified: a part that was damaged is deleted with it."""
    broken_off(server, asset())
    PART.write_bytes(bytes(FIRST))
    assert "is deleted" in refused(asset())
    assert not PART.exists()
    assert hub.fetch(asset())["sha256"] == SHA256


def test_a_part_without_its_facts_is_not_continued(server: HubServer) -> None:
    """Nobody knows what it is the beginning of."""
    for damage in ("", "{", "[]"):
        broken_off(server, asset())
        about = PART.with_name(f"{PART.name}.json")
        about.write_text(damage) if damage else about.unlink()
        assert hub.fetch(asset())["sha256"] == SHA256
        assert ranges(server) == ["all"]
        PLACE.unlink()


def test_a_server_that_ignores_ranges_is_taken_from_the_start(
    server: HubServer,
) -> None:
    """The whole body does not land behind the part."""
    broken_off(server, asset())
    server.treat("good.bin", ignore_range=True, method="GET")
    hub.fetch(asset())
    assert ranges(server) == [f"bytes={FIRST}-"]
    assert PLACE.read_bytes() == CONTENT


def test_a_short_body_is_noticed(server: HubServer) -> None:
    """Fewer bytes than the hub announced are no file, though the length agrees."""
    server.treat("good.bin", short=9, method="GET")
    line = refused(unknown())
    assert f"has {SIZE - 9} bytes, and {SIZE} were announced" in line
    assert not PART.exists()


def test_a_redirect_to_another_host_is_continued(
    server: HubServer, tmp_path: Path
) -> None:
    """Signed addresses are asked for anew at each try, and take a range."""
    with HubServer(server.folder) as storage:
        server.treat("good.bin", redirect=storage.plain("o/n/good.bin"))
        storage.treat("good.bin", cut=FIRST, times=1)
        assert hub.fetch(unknown())["sha256"] == SHA256
        assert ranges(storage) == ["all", f"bytes={FIRST}-"]
        assert len(server.asked("GET")) == 2


def test_a_stall_is_a_broken_connection(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that says nothing for long is left, and asked for the rest."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    server.treat("good.bin", stall=FIRST, times=1, method="GET")
    assert hub.fetch(asset())["sha256"] == SHA256
    assert ranges(server) == ["all", f"bytes={FIRST}-"]
    PLACE.unlink()
    server.treat("good.bin", stall=0, method="GET")
    assert "does not answer in time; check the network" in refused(asset())


def test_a_busy_server_is_asked_again_when_it_says(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 and 503 are tried again after the seconds that the server names, if few."""
    slept: list[float] = []
    monkeypatch.setattr("fewstep.hub.patience.time.sleep", slept.append)
    server.treat("good.bin", status=503, times=1, method="GET")
    server.treat("good.bin", status=429, retry_after="7", times=2, method="HEAD")
    assert hub.fetch(asset())["sha256"] == SHA256
    assert slept == [7.0, 7.0, 0.0]
    PLACE.unlink()
    server.treat("good.bin", status=429, retry_after="900")
    assert "is busy (429); run again later" in refused(asset())
    assert len(slept) == 3


def test_a_plain_address_is_continued(server: HubServer, plain: dict[str, Any]) -> None:
    """There the ETag of the answer says whether it is still the same file."""
    broken_off(server, plain)
    assert hub.fetch(plain)["sha256"] == SHA256
    assert ranges(server) == [f"bytes={FIRST}-"]


def test_a_plain_file_that_changed_is_taken_from_the_start(
    server: HubServer, plain: dict[str, Any]
) -> None:
    """Bytes of two versions never meet."""
    broken_off(server, plain)
    (server.folder / "o/n/good.bin").write_bytes(OTHER)
    assert hub.fetch(plain)["sha256"] == hashlib.sha256(OTHER).hexdigest()
    assert ranges(server) == [f"bytes={FIRST}-", "all"]


def test_a_plain_file_that_shrank_is_taken_from_the_start(
    server: HubServer, plain: dict[str, Any]
) -> None:
    """A range beyond its end is answered by a whole download."""
    broken_off(server, plain)
    (server.folder / "o/n/good.bin").write_bytes(OTHER[:100])
    assert hub.fetch(plain)["bytes"] == 100
    assert ranges(server) == [f"bytes={FIRST}-", "all"]


def test_a_plain_address_without_versions_starts_anew(
    server: HubServer, plain: dict[str, Any]
) -> None:
    """Without ETag and date nothing says that two answers are of one file."""
    server.treat("good.bin", headers={"ETag": ""})
    server.treat("good.bin", cut=FIRST, times=1, headers={"ETag": ""})
    assert hub.fetch(plain)["sha256"] == SHA256
    assert ranges(server) == ["all", "all"]


def test_a_mirror_that_fails_does_not_cost_the_part(
    server: HubServer, plain: dict[str, Any]
) -> None:
    """What came from the hub is still there when the hub is back."""
    spec = asset(mirrors=[server.plain("none.bin")])
    server.treat("good.bin", cut=0, method="GET")
    server.treat("good.bin", cut=FIRST, times=1, method="GET")
    assert "none of its 2 homes gives it" in refused(spec)
    server.behave()
    assert hub.fetch(spec)["sha256"] == SHA256
    assert ranges(server)[-1] == f"bytes={FIRST}-"


def test_two_processes_download_once(server: HubServer) -> None:
    """One downloads; the other says whom it waits for, and takes the file as it is."""
    server.treat("good.bin", stall=FIRST, times=1, method="GET")
    one = fetch_apart(unknown())
    wait_for(lambda: PART.exists() and PART.stat().st_size == FIRST)
    other = fetch_apart(unknown())
    assert other.stderr is not None
    waits = other.stderr.readline()
    assert waits.startswith(f"  model: waiting for process {one.pid} on ")
    server.go.set()
    records = [json.loads(child.communicate()[0]) for child in (one, other)]
    assert records[0] == records[1]
    assert records[0]["sha256"] == SHA256
    assert ranges(server) == ["all"]


def test_a_disk_without_room_is_refused_before_the_first_byte(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size is known beforehand: both numbers are in the line."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 1_000_000))
    line = refused(asset())
    assert line == (
        "data: 2 MB are to come and 1 MB are free; free space and run again"
    )
    assert PART.stat().st_size == 0


@pytest.fixture
def small_disk(server: HubServer) -> Iterator[Path]:
    """A real disk of one megabyte."""
    disk = Path("small").resolve()
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_fills_up_keeps_the_part(
    server: HubServer, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is one line that names the part; with room the rest is fetched."""
    spec = asset(path=str(small_disk / "model.bin"))
    assert "are free; free space and run again" in refused(spec)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as lie:
        # Room that others take while the download is under way.
        lie.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 10**9))
        line = refused(spec)
    assert "the disk is full; free space and run again (1 MB that have arrived" in line
    part = small_disk / ".model.bin.part"
    size = part.stat().st_size
    assert part.read_bytes() == CONTENT[:size]
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    hub.fetch(spec)
    assert (small_disk / "model.bin").read_bytes() == CONTENT
    assert ranges(server)[-1] == f"bytes={size}-"


def test_progress_is_in_plain_lines(
    server: HubServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """Megabytes and rate on standard error, from where a part begins."""
    hub.fetch(asset())
    said = capfd.readouterr()
    assert said.err.startswith(f"  model, MB  {bar(1)}  100 %  2/2")
    assert said.err.count("\n") == 1
    assert said.out == ""
