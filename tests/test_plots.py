"""Charts: what they show and refuse, their palette, their PNG bytes."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from fewstep.plots import (
    AnyChart,
    Look,
    block_chart,
    convergence_chart,
    png_bytes,
    sampler_style,
    save_png,
    score_time_chart,
    timing_chart,
    training_chart,
)
from fewstep.plots.theme import log_ticks, prose
from tests import results_samples as samples

LOOKS = [Look(dark, narrow) for dark in (False, True) for narrow in (False, True)]
CHARTS: dict[str, tuple[Callable[..., AnyChart], list[dict[str, Any]]]] = {
    "blocks": (block_chart, samples.blocks()),
    "convergence": (convergence_chart, samples.convergence()),
    "timing": (timing_chart, samples.timing()),
    "training": (training_chart, samples.training()),
    "scores": (score_time_chart, samples.evaluations()),
}


def draw(name: str, look: Look | None = None, **more: Any) -> AnyChart:
    """One of the charts from its plausible rows."""
    make, rows = CHARTS[name]
    return make(pd.DataFrame(rows), look=look, **more)


def title(chart: AnyChart) -> str:
    """A chart's title on one line."""
    return " ".join(chart.to_dict()["title"]["text"])


def nodes(spec: Any) -> Iterator[dict[str, Any]]:
    """Every mapping inside a chart's specification."""
    if isinstance(spec, dict):
        yield spec
        for value in spec.values():
            yield from nodes(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from nodes(value)


def shown(chart: AnyChart, field: str) -> list[Any]:
    """The values of a field in a chart's data."""
    spec = chart.to_dict(validate=False)
    inline = [node["values"] for node in nodes(spec) if "values" in node]
    named = list(spec.get("datasets", {}).values())
    rows = [row for part in inline + named if isinstance(part, list) for row in part]
    return [row[field] for row in rows if isinstance(row, dict) and field in row]


def size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG."""
    return Image.open(io.BytesIO(png)).size


def luminance(color: str) -> float:
    """Relative luminance of a colour, 0 to 1 (WCAG 2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_valid_and_says_what_one_sees(name: str) -> None:
    """The specification is valid Vega-Lite in all looks, titled, its axes named."""
    for look in LOOKS:
        spec = draw(name, look).to_dict(validate=True)
        assert spec["title"]["text"][0]
        assert "demo" in spec["title"]["subtitle"][0]
        for node in nodes(spec):
            for axis in ("x", "y"):
                if isinstance(node.get(axis), dict) and "field" in node[axis]:
                    shares_another = node[axis]["field"] in ("low", "error", "ratio")
                    assert node[axis].get("title") or shares_another


@pytest.mark.parametrize("name", CHARTS)
def test_png_is_made_offline_and_always_the_same(name: str) -> None:
    """Two renderings give the same bytes; the picture is small and not empty."""
    one, two = png_bytes(draw(name)), png_bytes(draw(name))
    assert one == two
    assert len(one) < 80_000
    assert 1200 < size(one)[0] < 1560
    assert len(Image.open(io.BytesIO(one)).convert("RGB").getcolors(1 << 20) or ()) > 9


@pytest.mark.parametrize("name", CHARTS)
def test_narrow_pictures_fit_a_phone(name: str) -> None:
    """A narrow picture is at most 360 CSS pixels wide, drawn at twice that."""
    look = Look(narrow=True)
    assert size(png_bytes(draw(name, look), look))[0] <= 720


def test_dark_pictures_are_dark(tmp_path: Path) -> None:
    """The look decides the ground, and save_png writes what png_bytes gives."""
    for look in (Look(), Look(dark=True)):
        save_png(draw("timing", look), tmp_path / "a.png", look)
        corner = Image.open(tmp_path / "a.png").convert("RGB").getpixel((2, 2))
        assert isinstance(corner, tuple)
        assert (sum(corner) < 200) is look.dark


def test_a_sampler_has_one_style_everywhere() -> None:
    """The palette goes by name: a chart without `for` keeps the others' colours."""
    rows = [row for row in samples.timing() if row["sampler"] != "for"]
    for chart in (draw("timing"), timing_chart(pd.DataFrame(rows))):
        scales = [
            dict(zip(scale["domain"], scale["range"], strict=True))
            for node in nodes(chart.to_dict())
            if isinstance(scale := (node.get("color") or {}), dict)
            and (scale := scale.get("scale")) is not None
        ]
        assert scales
        for scale in scales:
            assert scale["gsj"] == sampler_style("gsj").light
            assert scale["auto"] == sampler_style("auto").light
    assert sampler_style("euler-8") == sampler_style("euler-8")


def test_samplers_differ_in_grey_and_stand_out() -> None:
    """The three samplers differ in lightness, dash and shape, on both grounds."""
    styles = [sampler_style(name) for name in ("for", "gsj", "auto")]
    assert len({style.dash for style in styles}) == 3
    assert len({style.shape for style in styles}) == 3
    light = [style.light for style in styles]
    assert contrast(light[0], light[1]) > 1.5
    assert contrast(light[1], light[2]) > 1.5
    for style in styles:
        assert contrast(style.light, Look().paper) > 2.8
        assert contrast(style.dark, Look(dark=True).paper) > 4.5


def test_blocks_point_out_the_tough_ones() -> None:
    """Blocks marked tough are in colour; without marks, the largest CRM is."""
    assert "Block 7 carries 51 %" in title(draw("blocks"))
    frame = pd.DataFrame(samples.blocks())
    frame["tough"] = [block in (0, 6) for block in frame["block"]]
    chart = block_chart(frame)
    assert "Blocks 0 and 6 carry 16 %" in title(chart)
    colors = dict(zip(shown(chart, "block"), shown(chart, "color"), strict=False))
    assert [b for b, c in colors.items() if c == Look().accent] == [0, 6]
    frame["tough"] = None
    assert "Block 7" in title(block_chart(frame))


def test_blocks_without_igm_show_one_panel() -> None:
    """Where IGM was not measured, only CRM is drawn."""
    frame = pd.DataFrame(samples.blocks()).assign(igm_z=None)
    spec = block_chart(frame).to_dict()
    assert "hconcat" not in spec
    assert "hconcat" in draw("blocks").to_dict()


def test_convergence_names_the_slowest_block() -> None:
    """The block that is last within the tolerance from its better start is named."""
    assert "Block 7 is the last" in title(draw("convergence"))
    rows = samples.convergence()
    for row in rows:
        if row["block"] == 2 and row["start"] == "z":
            row["error_max"] = 5.0
    # From zeros block 2 is as quick as before.
    assert "Block 7 is the last" in title(convergence_chart(pd.DataFrame(rows)))


def test_convergence_takes_what_source_there_is() -> None:
    """While sampling is drawn where it was measured, real images otherwise."""
    rows = [{**row, "source": "data"} for row in samples.convergence()]
    spec = convergence_chart(pd.DataFrame(rows)).to_dict()
    assert "on real images" in spec["title"]["subtitle"][0]
    both = pd.DataFrame([*rows, *samples.convergence()])
    spec = convergence_chart(both).to_dict()
    assert "while sampling" in spec["title"]["subtitle"][0]


def test_convergence_draws_neither_zeros_nor_infinities() -> None:
    """A log axis takes no zero: it is drawn on the floor once; infinity is left out."""
    rows = samples.convergence()
    for row in rows:
        row["error_max"] = 0.0 if row["iteration"] > 3 else 0.1
        if row["iteration"] == 0 and row["block"] == 1:
            row["error_max"] = math.inf
    chart = convergence_chart(pd.DataFrame(rows))
    errors = shown(chart, "error")
    assert all(0 < error < math.inf for error in errors)
    points = list(zip(shown(chart, "block"), shown(chart, "iteration"), strict=True))
    assert (0, 4) in points
    assert (0, 5) not in points
    assert (1, 0) not in points


def test_timing_tells_the_unwelcome_part() -> None:
    """The title names the best ratio and the batches where that sampler is slower."""
    assert title(draw("timing")) == (
        "“auto” is 3.4× as fast as “for” at batch 1, slower at batch 64"
    )
    rows = samples.timing()
    for row in rows:
        row["ratio"] = 1.0 if row["sampler"] == "for" else 0.5
    slow = timing_chart(pd.DataFrame(rows))
    assert title(slow) == "No sampler is faster than “for” at any batch measured"


def test_timing_of_one_sampler_at_one_batch() -> None:
    """A single measurement still makes a chart, without a panel of ratios."""
    row = {**samples.timing()[0], "ratio": None, "baseline": None}
    chart = timing_chart(pd.DataFrame([row]))
    assert "hconcat" not in chart.to_dict()
    assert png_bytes(chart)


def test_scores_title_says_whether_the_scores_agree() -> None:
    """The title compares the fastest sampler's score with the slowest's."""
    assert title(draw("scores")) == (
        "“auto” is fastest, and its score agrees with that of “for”"
    )
    frame = pd.DataFrame(samples.evaluations())
    frame.loc[frame["sampler"] == "auto", "frechet"] += 9
    assert "but scores worse than “for”" in title(score_time_chart(frame))
    single = frame[frame["seed"] == 0]
    assert "one seed cannot tell" in title(score_time_chart(single))


def test_a_score_is_called_by_its_proper_name() -> None:
    """FID is written for Inception alone, else the extractor's name."""
    assert "Fréchet distance (digits-classifier)" in str(draw("scores").to_dict())
    frame = pd.DataFrame(samples.evaluations())
    frame = frame.assign(metric="fid", fid=frame["frechet"], frechet=None)
    assert "FID, lower is better" in str(score_time_chart(frame).to_dict())


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("scores", "protocol", "another"),
        ("scores", "n", 499),
        ("scores", "metric", "fid"),
        ("timing", "device", "cuda"),
        ("timing", "threads", 1),
        ("blocks", "norm", "fro"),
        ("convergence", "experiment", "other"),
        ("training", "experiment", "other"),
    ],
)
def test_rows_that_must_not_be_compared_share_no_chart(
    name: str, column: str, value: Any
) -> None:
    """Another protocol, n, device or experiment in the rows is refused."""
    make, rows = CHARTS[name]
    mixed = [*rows[:-1], {**rows[-1], column: value}]
    with pytest.raises(ValueError, match=f"one '{column}'"):
        make(pd.DataFrame(mixed))


@pytest.mark.parametrize("name", CHARTS)
def test_no_rows_make_no_chart(name: str) -> None:
    """An empty table is an error, not an empty picture."""
    make, rows = CHARTS[name]
    with pytest.raises(ValueError, match="a chart shows one"):
        make(pd.DataFrame(rows).iloc[:0])


def test_long_training_is_thinned_and_keeps_its_end() -> None:
    """Curves of many points are thinned to what a chart can show; NaN is left out."""
    first = samples.training()[0]
    rows = [{**first, "step": step} for step in range(1, 5002)]
    rows[7]["loss"] = math.nan
    steps = shown(training_chart(pd.DataFrame(rows)), "step")
    assert len(steps) <= 800
    assert steps[-1] == 5001
    assert 8 not in steps


def test_ticks_and_numbers() -> None:
    """Log ticks are round and inside; numbers in titles have a true minus."""
    assert log_ticks(0.012, 0.35) == [0.02, 0.05, 0.1, 0.2]
    assert log_ticks(1e-8, 1)[:2] == [1e-8, 1e-7]
    assert log_ticks(0.017, 0.031) == pytest.approx([0.02, 0.025, 0.03])
    assert prose(1e-8) == "1e−8"
    assert prose(-1.4412, ".2f") == "−1.44"


def test_charts_without_their_packages_say_what_to_install() -> None:
    """Without the extra `report` the import gives one line, and the table works."""
    code = (
        "import sys; sys.modules['altair'] = None\n"
        "from fewstep.errors import UserError\n"
        "from fewstep.report import Inputs, render, terminal_table\n"
        "terminal_table([])\n"
        "for act in (lambda: __import__('fewstep.plots'),"
        " lambda: render(Inputs([]), '/dev/null')):\n"
        "    try: act()\n"
        "    except UserError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    wanted = "charts need altair, which is not installed; run pip install"
    assert done.stdout.count(wanted) == 2
