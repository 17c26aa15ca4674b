"""The report: an HTML page of everything, and a table for the terminal."""

from __future__ import annotations

from pathlib import Path

from fewstep.errors import UserError
from fewstep.report.inputs import Inputs, Picture, load_evaluation
from fewstep.report.terminal import terminal_table

__all__ = ["Inputs", "Picture", "load_evaluation", "render", "terminal_table"]


def render(inputs: Inputs, out: str | Path) -> list[Path]:
    """Write the report of `inputs` to the HTML file `out`, whole or not at all.

    One page that needs no network, no script and no other file. Files that are not
    there are listed on it with the reason. The same inputs give the same bytes.

    Returns:
        the charts that compare samplers, which are saved as PNG beside the page too.

    Raises:
        UserError: for an evaluation, table or picture that is broken, a template that
            is missing, or when the packages of the extra `report` are.
    """
    # Here, so that the terminal's table does without the packages that draw.
    try:
        from fewstep.report.page import render_page
    except ModuleNotFoundError as error:
        raise UserError(
            f"the report needs {error.name}, which is not installed",
            do="run pip install 'fewstep[report]'",
        ) from error
    return render_page(inputs, out)
