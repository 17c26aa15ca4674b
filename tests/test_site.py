"""The documentation as a site: whole, and without a network."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")
from mkdocs.exceptions import PluginError

from tests.browser import browser, chromium

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
CHROMIUM = chromium()
FETCHED = {"src", "srcset", "poster", "data", "action", "background"}
"""Attributes by which a browser fetches what they name."""

pytestmark = pytest.mark.slow


def load(name: str) -> ModuleType:
    """A program of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build --strict` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", site],
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Fetches(HTMLParser):
    """Collects what a browser would fetch for a page: all but `<a href>`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the addresses of a tag, those in its style too."""
        for name, value in attrs:
            if value and (name in FETCHED or (name == "href" and tag != "a")):
                self.found.append(value)
            if value and name == "style":
                self.found += _in_css(value)


def _in_css(text: str) -> list[str]:
    named = re.findall(r"url\(\s*['\"]?([^'\")]+)", text)
    return named + re.findall(r"@import\s+['\"]([^'\"]+)", text)


def fetches(site: Path) -> Iterator[tuple[str, str]]:
    """(file, address) of everything that the pages and their styles fetch."""
    for path in site.rglob("*.html"):
        parser = Fetches()
        parser.feed(path.read_text())
        for address in parser.found:
            yield path.name, address
    for path in site.rglob("*.css"):
        for address in _in_css(path.read_text()):
            yield path.name, address


def test_every_page_is_built(site: Path) -> None:
    """Each page of docs/ is one of the site, and programs are not copied."""
    assert {p.stem for p in site.glob("*.html")} - {"404"} == {p.stem for p in PAGES}
    assert not list(site.rglob("*.py"))


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """No page and no style asks for an address outside the site."""
    found = list(fetches(site))
    assert any(address.endswith(".css") for _, address in found)
    outside = [
        (name, address)
        for name, address in found
        if re.match(r"([a-z]+:)?//", address) and not address.startswith("data:")
    ]
    assert outside == []


def test_what_pages_fetch_is_there(site: Path) -> None:
    """Each picture, script and style that a page of the site names is a file of it."""
    for path in site.glob("*.html"):
        if path.name != "404.html":  # it names its files from the root of a server
            parser = Fetches()
            parser.feed(path.read_text())
            for address in parser.found:
                if not address.startswith("data:"):
                    file = re.split(r"[?#]", address)[0]
                    assert (site / file).exists(), f"{path.name}: {address}"


def test_equations_are_drawn_without_scripts(site: Path) -> None:
    """Each equation became MathML in which no command of LaTeX is left."""
    for page in PAGES:
        html = (site / f"{page.stem}.html").read_text()
        assert "arithmatex" not in html, page.name
        drawn = re.findall(r"<math .*?</math>", html, re.S)
        assert [one for one in drawn if "\\" in one] == []
        fences = len(re.findall(r"^```math$", page.read_text(), re.M))
        assert len([one for one in drawn if 'display="block"' in one]) == fences


def test_the_index_of_the_search_is_a_local_script(site: Path) -> None:
    """The pages' words lie in a script beside them, so that files can be searched."""
    index = (site / "search/search_index.js").read_text()
    for word in ("GS-Jacobi", "straightness", "partition", "evaluations"):
        assert word in index
    assert "iframe-worker.js" in (site / "index.html").read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_search_answers_on_files(site: Path, tmp_path: Path) -> None:
    """In a browser, opened as a file, a search finds pages."""
    assert CHROMIUM
    done = subprocess.run(
        [
            *(
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ),
            *("--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", f"--user-data-dir={tmp_path}"),
            *("--virtual-time-budget=30000", "--dump-dom"),
            f"{(site / 'index.html').as_uri()}?q=straightness",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'href="seqrf.html' in done.stdout
    assert 'class="md-search-result__item"' in done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["index", "tarflow", "outputs"])
def test_pages_fit_on_a_phone_and_a_desk(
    site: Path, name: str, width: int, tmp_path: Path
) -> None:
    """In a browser nothing is asked for outside the site, or broken, or too wide."""
    with browser(tmp_path) as chrome:
        seen = chrome.look(site / f"{name}.html", width)
    assert [r for r in seen.requests if not r.startswith(site.as_uri())] == []
    assert seen.complaints == []
    assert seen.facts["broken"] == 0
    assert seen.facts["width"] <= width


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[x](nowhere.md)", "nowhere.md"),
        ("[x](index.md#nowhere)", "nowhere"),
        ("[x](../nowhere.py)", "no file ../nowhere.py"),
        ("![x](pictures/nowhere.png)", "nowhere.png"),
        ("$\\nothing{x}$", "not an equation"),
    ],
)
def test_what_leads_nowhere_stops_the_build(
    text: str, message: str, tmp_path: Path
) -> None:
    """A page that does not exist, an anchor, a file, a picture and an equation."""
    (tmp_path / "docs").mkdir()
    settings = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(settings)
    for name in ("hooks.py", "style.css", "iframe-worker.js"):
        shutil.copy(ROOT / "docs" / name, tmp_path / "docs")
    (tmp_path / "docs/index.md").write_text(f"# A page\n\n{text}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert message in done.stdout + done.stderr


def test_links_to_files_of_the_repository_become_their_names() -> None:
    """What GitHub can show and the site cannot is named; code is left alone."""
    hooks = load("hooks")
    page = SimpleNamespace(
        file=SimpleNamespace(abs_src_path=str(ROOT / "docs/x.md"), src_path="x.md")
    )
    config = SimpleNamespace(docs_dir=str(ROOT / "docs"))
    text = (
        "[the licence](../LICENSE), [LICENSE](../LICENSE), [log](log.md), `[a](../b)`"
    )
    assert hooks.on_page_markdown(text, page=page, config=config) == (
        "the licence (`LICENSE`), LICENSE, [log](log.md), `[a](../b)`"
    )
    with pytest.raises(PluginError, match=r"no file \.\./b"):
        hooks.on_page_markdown("[a](../b)", page=page, config=config)


def test_pictures_are_small_and_all_are_used() -> None:
    """The pages' pictures are those that docs/pictures.py renews, 700 kB in all."""
    files = {path.stem: path for path in (ROOT / "docs/pictures").iterdir()}
    assert set(files) == set(load("pictures").PICTURES)
    assert sum(path.stat().st_size for path in files.values()) < 700e3
    text = "".join(page.read_text() for page in PAGES)
    for name in files:
        assert f"pictures/{name}.png" in text


def test_pictures_are_renewed_from_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command reads a run's pictures, and says which are missing."""
    from PIL import Image

    pictures = load("pictures")
    monkeypatch.setattr(pictures, "PICTURES", {"wide": "demo/wide.png"})
    monkeypatch.setattr(pictures, "__file__", str(tmp_path / "pictures.py"))
    assert pictures.main([str(tmp_path)]) == 1
    assert "no demo/wide.png" in capsys.readouterr().err
    (tmp_path / "demo").mkdir()
    Image.new("RGB", (2000, 400), "red").save(tmp_path / "demo/wide.png")
    assert pictures.main([str(tmp_path)]) == 0
    with Image.open(tmp_path / "pictures/wide.png") as picture:
        assert picture.size == (1000, 200)


def test_pictures_of_images_keep_their_colours(tmp_path: Path) -> None:
    """Where images are shown every pixel stays; charts have at most 128 colours."""
    from PIL import Image

    pictures = load("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    for source in pictures.PICTURES.values():
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / source)
    pictures.renew(tmp_path, tmp_path / "docs")
    assert set(pictures.PICTURES) > pictures.IMAGES
    for name in pictures.PICTURES:
        with Image.open(tmp_path / f"docs/{name}.png") as picture:
            found = np.asarray(picture.convert("RGB"))
        assert np.array_equal(found, pixels) == (name in pictures.IMAGES)
        few = len(np.unique(found.reshape(-1, 3), axis=0)) <= 128
        assert few or name in pictures.IMAGES
