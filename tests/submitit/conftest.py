"""A fake SLURM for each test that asks for one, and what submitit leaves to others."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from submitit.local import local

from tests.submitit.fake_slurm import FakeSlurm


@pytest.fixture
def slurm(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeSlurm]:
    """A scheduler without jobs, whose programs are the ones on PATH."""
    fake = FakeSlurm.create(tmp_path_factory.mktemp("slurm") / "fake")
    monkeypatch.setenv("PATH", fake.path)
    yield fake
    fake.close()


@pytest.fixture
def tidy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reap submitit's controllers and close its log files, which it leaves open.

    A warning about them would come with whatever test runs at that moment.
    """
    controllers: list[subprocess.Popen[bytes]] = []
    files: list[logging.FileHandler] = []
    start = local.start_controller

    def started(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        controllers.append(start(*arguments, **options))
        return controllers[-1]

    class File(logging.FileHandler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            files.append(self)

    monkeypatch.setattr(local, "start_controller", started)
    monkeypatch.setattr(logging, "FileHandler", File)
    yield
    for controller in controllers:
        try:
            controller.wait(10)
        except subprocess.TimeoutExpired:
            controller.kill()
            controller.wait()
    for file in files:
        file.close()
