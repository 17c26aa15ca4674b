"""Assets: verified, recorded and downloaded from a real HTTP server on loopback."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fewstep import hub
from fewstep.errors import UserError
from tests.hub_server import (
    COMMIT,
    CONTENT,
    SHA256,
    HubServer,
    asset,
    prepare,
    unknown,
)

PLACE = Path("data/model.bin")
OTHER = CONTENT[::-1]
TOKEN = "hf_verySecretToken"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub for one test, whose working directory is new."""
    with HubServer(tmp_path / "served") as server:
        prepare(tmp_path, server, monkeypatch)
        yield server


@pytest.fixture
def second(tmp_path: Path, server: HubServer) -> Iterator[HubServer]:
    """Another host with the same files."""
    with HubServer(server.folder) as other:
        yield other


def refused(spec: dict[str, Any]) -> str:
    """The one line with which an asset is refused."""
    with pytest.raises(UserError) as caught:
        hub.fetch(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left() -> list[str]:
    """Files of the place, locks left out."""
    names = [path.name for path in PLACE.parent.glob("*")]
    hidden = [path.name for path in PLACE.parent.glob(".*")]
    return sorted(n for n in {*names, *hidden} if not n.endswith(".lock"))


def test_a_download_is_verified_and_recorded(server: HubServer) -> None:
    """The file appears whole under its name, with the record of its hash."""
    record = hub.fetch(asset())
    assert PLACE.read_bytes() == CONTENT
    assert record == {
        "name": "model",
        "path": "data/model.bin",
        "repo": "o/n",
        "revision": None,
        "licence": "MIT",
        "sha256": SHA256,
        "bytes": len(CONTENT),
    }
    assert [one.method for one in server.seen] == ["HEAD", "GET"]
    assert server.seen[1].path == f"/o/n/resolve/{COMMIT}/good.bin"
    assert left() == ["model.bin"]


def test_an_unknown_hash_is_recorded_and_enforced(server: HubServer) -> None:
    """What came first goes into the lock file; another content is refused then."""
    record = hub.fetch(unknown())
    assert (record["sha256"], record["revision"]) == (SHA256, COMMIT)
    assert record["from"] == f"o/n/good.bin at revision {COMMIT}"
    assert json.loads(hub.LEDGER.read_text()) == {
        "model": {
            "sha256": SHA256,
            "bytes": len(CONTENT),
            "repo": "o/n",
            "file": "good.bin",
            "revision": COMMIT,
            "from": f"o/n/good.bin at revision {COMMIT}",
        }
    }
    assert hub.fetch(unknown()) == record
    PLACE.write_bytes(OTHER)
    line = refused(unknown())
    assert line.startswith("asset model: data/model.bin has sha256 ")
    assert f"expected {SHA256[:12]}…, as recorded in data/assets.lock.json" in line
    assert "delete the entry 'model' of data/assets.lock.json if the publisher" in line


def test_a_replaced_publication_is_refused_until_the_entry_goes(
    server: HubServer,
) -> None:
    """A later download of another content is deleted; without the entry it is taken."""
    hub.fetch(unknown())
    PLACE.unlink()
    (server.folder / "o/n/good.bin").write_bytes(OTHER)
    assert "as recorded in data/assets.lock.json" in refused(unknown())
    assert left() == [hub.LEDGER.name]
    hub.LEDGER.unlink()
    assert hub.fetch(unknown())["sha256"] != SHA256


def test_the_recorded_commit_is_asked_for_again(server: HubServer) -> None:
    """A branch that has moved on does not move an asset that was recorded."""
    hub.fetch(unknown())
    PLACE.unlink()
    server.revisions["main"] = "f" * 40
    server.revisions["f" * 40] = "f" * 40
    assert hub.fetch(unknown())["revision"] == COMMIT
    assert {one.path for one in server.seen[2:]} == {f"/o/n/resolve/{COMMIT}/good.bin"}


def test_a_pinned_revision_is_asked_for(server: HubServer) -> None:
    """The table's revision goes before everything else."""
    server.revisions["v1"] = "e" * 40
    server.revisions["e" * 40] = "e" * 40
    assert hub.fetch(unknown(revision="v1"))["revision"] == "v1"
    assert "/v1/" in server.seen[0].path
    assert "e" * 40 in server.seen[1].path


def test_an_entry_of_another_file_does_not_bind(server: HubServer) -> None:
    """When the table names another file, its hash is recorded anew."""
    hub.fetch(unknown())
    PLACE.unlink()
    (server.folder / "o/n/new.bin").write_bytes(OTHER)
    assert hub.fetch(unknown(file="new.bin"))["sha256"] != SHA256


def test_parallel_fetches_lose_no_entry(server: HubServer) -> None:
    """Hashes that are recorded at the same time all stand in the lock file."""
    specs = [unknown(name=f"a{i}", path=f"data/{i}.bin") for i in range(6)]
    threads = [threading.Thread(target=hub.fetch, args=(spec,)) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(json.loads(hub.LEDGER.read_text())) == [spec["name"] for spec in specs]


def test_a_broken_lock_file_is_named(server: HubServer) -> None:
    """A lock file that is none is refused, not overwritten."""
    hub.LEDGER.parent.mkdir()
    for text in ("[]", '{"model": {"sha256": 1}}', "{"):
        hub.LEDGER.write_text(text)
        assert "data/assets.lock.json" in refused(unknown())
        assert hub.LEDGER.read_text() == text


def test_a_wrong_file_never_gets_the_name(server: HubServer) -> None:
    """Another content of the right length is deleted; the line has both hashes."""
    server.treat("good.bin", lie=True, method="GET")
    line = refused(asset())
    assert "it is not the file that was published, and is deleted" in line
    assert f"expected {SHA256[:12]}…" in line
    assert left() == []


def test_a_hub_that_contradicts_itself_is_not_believed(server: HubServer) -> None:
    """Without an expected hash the one that the hub announces is held against it."""
    server.treat("good.bin", lie=True, method="GET")
    assert f"expected {SHA256[:12]}…, as it announced: deleted" in refused(unknown())
    assert left() == []


def test_a_wrong_size_is_refused(server: HubServer) -> None:
    """A file that the table knows to be longer is deleted and named."""
    line = refused(unknown(bytes=len(CONTENT) + 1))
    assert f"sends {len(CONTENT)} bytes, expected {len(CONTENT) + 1}: deleted" in line
    assert left() == []


@pytest.mark.parametrize(
    ("changes", "treatment", "message"),
    [
        ({"file": "none.bin"}, {}, "none.bin at revision main does not exist (404)"),
        ({"revision": "v9"}, {}, "revision v9: this revision does not exist (404)"),
        ({"repo": "o/gone"}, {}, "does not exist or needs a token (401); set HF_TOKEN"),
        ({}, {"status": 403, "error": "GatedRepo"}, "gated (403); accept its terms"),
        ({}, {"status": 403}, "may not be read (403)"),
        ({}, {"status": 429}, "is busy (429); run again later"),
        ({}, {"status": 503}, "is busy (503)"),
        ({}, {"status": 418}, "answers with status 418"),
        ({}, {"headers": {"X-Repo-Commit": ""}}, "is not that of a hub"),
        ({}, {"headers": {"Content-Type": "text/html"}}, "sends a web page"),
    ],
)
def test_refusals_are_one_line(
    server: HubServer,
    changes: dict[str, Any],
    treatment: dict[str, Any],
    message: str,
) -> None:
    """Each refusal says in one line what happened and where to place the file."""
    if treatment:
        server.treat("good.bin", **treatment)
    line = refused(unknown(**changes))
    assert message in line
    assert line.endswith("place the file at data/model.bin by hand")
    assert left() == []


def test_a_token_that_is_refused(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a token in the environment the line says that it is the token's fault."""
    server.token = "another"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "may not be read with this token (401)" in refused(asset())
    server.treat("good.bin", status=401)
    assert TOKEN not in refused(asset())


def test_the_token_goes_to_the_hub_alone(
    server: HubServer,
    second: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither a redirect to a signed address nor a mirror sees it, nor does a log."""
    caplog.set_level(logging.INFO)
    server.token = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN + "\n")
    signed = second.plain("o/n/good.bin") + "?X-Amz-Signature=verySigned"
    server.treat("good.bin", redirect=signed)
    hub.fetch(asset())
    assert [one.headers["authorization"] for one in server.seen] == 2 * [
        f"Bearer {TOKEN}"
    ]
    assert [one.path for one in second.seen] == ["/files/o/n/good.bin?" + signed[-26:]]
    assert "authorization" not in second.seen[0].headers
    PLACE.unlink()
    server.treat("good.bin", status=503)
    hub.fetch(asset(mirrors=[signed]))
    assert "authorization" not in second.seen[1].headers
    PLACE.unlink()
    second.treat("good.bin", cut=10)
    second.treat("good.bin", status=403)
    said = refused(asset(mirrors=[signed])) + capfd.readouterr().err + caplog.text
    assert "verySigned" not in said
    assert TOKEN not in said


def test_a_token_with_a_line_break_inside_is_not_shown(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot stand in a header is refused before it gets near one."""
    monkeypatch.setenv("HF_TOKEN", "hf_a\nb")
    line = refused(asset())
    assert line == "HF_TOKEN: holds characters that no token has; copy it anew"
    assert server.seen == []


def test_a_token_on_disk_is_not_looked_for(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the environment's is sent."""
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token")
    )
    hub.fetch(asset())
    assert all("authorization" not in one.headers for one in server.seen)


def test_mirrors_are_tried_in_order(
    server: HubServer, second: HubServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """When the first home fails the next one gives the file, and the log says why."""
    server.treat("good.bin", status=404)
    mirrors = [second.plain("none.bin"), second.plain("o/n/good.bin")]
    record = hub.fetch(unknown(mirrors=mirrors))
    assert (record["sha256"], record["revision"]) == (SHA256, None)
    assert json.loads(hub.LEDGER.read_text())["model"]["from"] == mirrors[1]
    told = capfd.readouterr().err
    assert told.count("trying the next home") == 2
    assert "/files/none.bin does not exist (404)" in told


def test_a_mirror_alone_is_a_home(second: HubServer) -> None:
    """A file without a repository is downloaded from its plain address."""
    spec = asset(repo=None, file=None, mirrors=[second.plain("o/n/good.bin")])
    assert hub.fetch(spec)["sha256"] == SHA256


def test_a_mirror_with_another_file_is_refused(
    server: HubServer, second: HubServer
) -> None:
    """A mirror does not slip in other weights under a recorded name; all are named."""
    hub.fetch(unknown())
    PLACE.unlink()
    server.treat("good.bin", status=404)
    second.treat("good.bin", lie=True)
    line = refused(unknown(mirrors=[second.plain("o/n/good.bin")]))
    assert "none of its 2 homes gives it: o/n/good.bin at revision" in line
    assert f"{second.plain('o/n/good.bin')} sends sha256" in line
    assert left() == [hub.LEDGER.name]


def test_no_network_is_one_line(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline mode, a refused connection and an unknown address each say so."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot be reached: HF_HUB_OFFLINE is set; unset " in refused(asset())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    line = refused(asset())
    assert "cannot be reached (Connection refused); check the network and HF_EN" in line
    plain = asset(repo=None, file=None, mirrors=["ftp://u:p@host/x?y"])
    assert "ftp://host/x is no address; expected http" in refused(plain)


def test_offline_with_the_file_there(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is there needs no network."""
    hub.fetch(unknown())
    asked = len(server.seen)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.fetch(unknown())["sha256"] == SHA256
    assert len(server.seen) == asked


def test_a_file_placed_by_hand_is_verified(server: HubServer) -> None:
    """A file that lies there is checked, not downloaded; a wrong one is refused."""
    PLACE.parent.mkdir()
    PLACE.write_bytes(CONTENT)
    assert hub.fetch(asset())["sha256"] == SHA256
    assert not hub.LEDGER.exists()
    PLACE.write_bytes(CONTENT[:-1])
    assert f"has {len(CONTENT) - 1} bytes; expected {len(CONTENT)}" in refused(asset())
    PLACE.write_bytes(OTHER)
    assert "it is not the file that was published" in refused(asset())
    assert server.seen == []


def test_the_first_use_of_a_file_placed_by_hand_is_recorded(tmp_path: Path) -> None:
    """Its hash is enforced as a download's is."""
    spec = unknown(repo=None, file=None, path=str(tmp_path / "by-hand.bin"))
    book = tmp_path / "assets.lock.json"
    Path(spec["path"]).write_bytes(CONTENT)
    assert hub.fetch(spec, book)["sha256"] == SHA256
    assert json.loads(book.read_text())["model"]["from"] == "a file that was there"
    Path(spec["path"]).write_bytes(OTHER)
    with pytest.raises(UserError, match="as recorded in"):
        hub.fetch(spec, book)


def test_a_missing_file_without_a_home_says_what_to_do() -> None:
    """What cannot be downloaded names its place, or the training that makes it."""
    homeless = asset(repo=None, file=None, path="no/model.bin", note="on a drive")
    assert "no/model.bin is missing; place it there by hand (on a drive)" in refused(
        homeless
    )
    line = refused({**homeless, "trained_by": "seq4"})
    assert "missing, for it was never published; train it: snakemake " in line


def test_a_folder_that_is_not_ours_is_one_line(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No permission is a line, not a traceback."""

    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "data")

    monkeypatch.setattr("fewstep.locks.hold", deny)
    assert refused(asset()).startswith("data: may not be read or written by you")
