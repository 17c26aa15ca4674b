"""What the environment says about downloads: obeyed, or refused by name in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from fewstep import hub
from fewstep.cli import spine
from fewstep.doctor import environment as doctor
from fewstep.errors import UserError
from fewstep.hub.surroundings import inception_file, offline_variable
from tests.hub_server import HubServer, asset, prepare


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub for one test, whose working directory is new; so is the client."""
    with HubServer(tmp_path / "served") as server:
        prepare(tmp_path, server, monkeypatch)
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        huggingface_hub.close_session()
        yield server
    huggingface_hub.close_session()


def refused(spec: dict[str, Any]) -> str:
    """The one line with which an asset is refused."""
    with pytest.raises(UserError) as caught:
        hub.fetch(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({"HF_HUB_OFFLINE": "true"}, "HF_HUB_OFFLINE"),
        ({"TRANSFORMERS_OFFLINE": "1"}, "TRANSFORMERS_OFFLINE"),
        ({"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "ON"}, "TRANSFORMERS_OFFLINE"),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, None),
    ],
)
def test_offline_as_the_library_reads_it(
    environ: dict[str, str], name: str | None
) -> None:
    """The variable that forbids downloads is the one that huggingface_hub obeys."""
    assert offline_variable(environ) == name
    assert doctor.environment(environ)["offline"] == name
    program = "from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(name is not None)


def test_the_variable_that_forbids_is_named(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told to unset a variable is told the one that is set."""
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refused(asset())
    assert "cannot be reached: TRANSFORMERS_OFFLINE is set; unset TRANSFORM" in line
    assert "HF_HUB_OFFLINE" not in line


def test_inception_is_not_asked_for_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where downloads are forbidden nothing is tried, and the place is named."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("torch.hub.download_url_to_file", None)
    with pytest.raises(UserError) as caught:
        spine.fetch_inception(tmp_path / "inception.json")
    place = tmp_path / "hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"
    assert inception_file() == place
    assert str(caught.value) == (
        f"{place}: is missing, and HF_HUB_OFFLINE forbids to download it; "
        "place it there, or unset HF_HUB_OFFLINE where there is a network"
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HTTP_PROXY", "ftp://u:secret@h/", "HTTP_PROXY: cannot be used as a proxy"),
        ("https_proxy", "http://h:x1", "https_proxy: cannot be used as a proxy"),
        ("SSL_CERT_FILE", "none.pem", "SSL_CERT_FILE: holds no certificates that can"),
        ("SSL_CERT_FILE", "served/o/n/good.bin", "SSL_CERT_FILE: holds no certif"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "30s", "HF_HUB_DOWNLOAD_TIMEOUT: is '30s'; expec"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "-1", "HF_HUB_DOWNLOAD_TIMEOUT: is '-1'; expect"),
        ("HF_HUB_ETAG_TIMEOUT", "", "HF_HUB_ETAG_TIMEOUT: is ''; expected a whole nu"),
    ],
)
def test_a_variable_that_cannot_be_right_is_named(
    server: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    message: str,
) -> None:
    """One line with the variable, no traceback, and no password."""
    monkeypatch.setenv(name, value.replace("served", str(server.folder)))
    line = refused(asset())
    assert line.startswith(message)
    assert "secret" not in line
    assert server.seen == []


@pytest.mark.parametrize("place", ["data/model.bin", "data/more/model.bin"])
def test_a_file_in_the_place_of_a_folder_is_named(
    server: HubServer, place: str
) -> None:
    """A file where a folder of the path should be is said in one line."""
    Path("data").write_text("I am a file")
    line = refused(asset(path=place))
    assert line == (
        "data: is a file, and should be a folder; "
        "move it away, or change the path of asset model"
    )
