"""A real Chromium without a window, spoken to through its debugging pipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-quic", "--disable-sync", "--disable-background-networking"),
    *("--disable-component-update", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)
LOOK = """
(async () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  const images = [...document.images];
  const whole = await Promise.all(images.map(
    (image) => image.decode().then(() => image.naturalWidth > 0, () => false)));
  const ids = new Set([...document.querySelectorAll("[id]")].map((e) => e.id));
  const links = [...document.querySelectorAll("a[href]")];
  const target = (link) => link.getAttribute("href");
  return JSON.stringify({
    width: document.documentElement.scrollWidth,
    window: window.innerWidth,
    images: images.length,
    broken: whole.filter((one) => !one).length,
    silent: images.filter((image) => !image.alt.trim()).length,
    cut: [...document.querySelectorAll(".scroll:has(> .cards)")].filter(
      (box) => box.scrollWidth > box.clientWidth).map(
      (box) => box.closest("section").id),
    links: links.length,
    dead: links.map(target).filter(
      (href) => href.startsWith("#") && !ids.has(href.slice(1))),
    twice: document.querySelectorAll("[id]").length - ids.size,
  });
})()
"""


def chromium() -> str | None:
    """The browser's program, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Seen:
    """A page as the browser has it.

    Attributes:
        facts: what the script `LOOK` says.
        requests: addresses that were asked for, the page and `data:` left out.
        complaints: lines of its console.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Browser:
    """A running browser; messages are JSON, each ended by a zero byte."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._rest, self._number = b"", 0

    def look(self, page: Path, width: int) -> Seen:
        """Load a file in a window of a width, and look at it."""
        made = self.ask("Target.createTarget", url="about:blank")
        target = {"targetId": made["targetId"], "flatten": True}
        session = self.ask("Target.attachToTarget", **target)["sessionId"]
        for name in ("Network", "Log", "Runtime", "Page"):
            self.ask(f"{name}.enable", session)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1}
        self.ask("Emulation.setDeviceMetricsOverride", session, **metrics, mobile=False)
        seen, address = Seen(), page.resolve().as_uri()
        self.ask("Page.navigate", session, seen, url=address)
        while "loaded" not in seen.facts:
            note(self._next(), seen)
        script = {"expression": LOOK, "awaitPromise": True}
        found = self.ask("Runtime.evaluate", session, seen, **script)
        seen.facts = json.loads(found["result"]["value"])
        seen.requests = [r for r in seen.requests if r != address]
        self.ask("Target.closeTarget", targetId=made["targetId"])
        return seen

    def ask(
        self, method: str, session: str = "", seen: Seen | None = None, **more: Any
    ) -> dict[str, Any]:
        """The answer to a command; what happens until then goes into `seen`."""
        self._number += 1
        sent: dict[str, Any] = {"id": self._number, "method": method, "params": more}
        if session:
            sent["sessionId"] = session
        os.write(self._write, json.dumps(sent).encode() + b"\0")
        while (got := self._next()).get("id") != self._number:
            note(got, seen or Seen())
        assert "error" not in got, got
        found: dict[str, Any] = got["result"]
        return found

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._read, 1 << 16)
            assert more, "the browser has gone"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found


def note(event: dict[str, Any], seen: Seen) -> None:
    """Keep what an event says of requests, the console and loading."""
    method, told = event.get("method"), event.get("params", {})
    if method == "Network.requestWillBeSent":
        address = told["request"]["url"]
        seen.requests += [] if address.startswith("data:") else [address]
    elif method == "Log.entryAdded":
        seen.complaints.append(told["entry"]["text"])
    elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
        seen.complaints.append(json.dumps(told))
    elif method == "Page.loadEventFired":
        seen.facts["loaded"] = True


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, gone at the end."""
    program = chromium()
    assert program is not None
    (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
    # Chromium reads from descriptor 3 and writes to 4.
    script = f'exec "$@" 3<&{read_in} 4>&{write_out}'
    folder = f"--user-data-dir={profile}"
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", program, *OPTIONS, folder],
        pass_fds=(read_in, write_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_in)
    os.close(write_out)
    try:
        yield Browser(write_in, read_out)
    finally:
        process.kill()
        process.wait()
        os.close(write_in)
        os.close(read_out)
