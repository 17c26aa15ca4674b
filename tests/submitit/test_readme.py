"""The plugin's README and package keep their promises."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import snakemake_executor_plugin_submitit as plugin
from snakemake_executor_plugin_submitit.settings import table

FOLDER = Path(plugin.__file__).parent


def test_the_readme_lists_the_settings_as_they_are() -> None:
    """The table between the marks is the one that the settings make."""
    text = (FOLDER / "README.md").read_text()
    shown = text.partition("<!-- settings -->\n")[2].partition("\n<!-- /settings")[0]
    assert shown == table()


def test_the_plugin_needs_nothing_of_fewstep() -> None:
    """No module imports it: any workflow can use the executor."""
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [n for n in names if n.partition(".")[0] == "fewstep"], path


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    """Every Snakemake imports every plugin: neither submitit nor NumPy comes along."""
    code = (
        "import sys, snakemake_executor_plugin_submitit as p; p.Executor; "
        "print([m for m in ('submitit', 'numpy', 'pandas', 'torch', 'yaml') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
