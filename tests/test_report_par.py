"""Parallel tokens in the report: by n, on the page and in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fewstep.errors import UserError
from fewstep.files import write_json
from fewstep.report import Inputs, Picture, load_evaluation, render
from fewstep.report.inputs import TEMPLATES
from fewstep.report.par import TokenLine, TokenTable, model_name, token_tables
from fewstep.report.tokenizers import load_reconstruction
from fewstep.results import TIMING, summarize, write_rows
from tests import par_samples
from tests import results_samples as samples
from tests.test_report import Page
from tests.test_report_flows import summaries
from tests.test_report_terminal import printed

pytestmark = pytest.mark.usefixtures("drawn")


def table(rows: list[dict[str, Any]]) -> TokenTable:
    """The only table of some rows."""
    (found,) = token_tables(summaries(rows))
    return found


def line(found: TokenTable, experiment: str, sampler: str = "cfg") -> TokenLine:
    """One line of a table."""
    (one,) = (one for one in found.lines if one.cell == (experiment, sampler))
    return one


def read(paths: list[Path]) -> TokenTable:
    """The only table of some files."""
    (found,) = token_tables([load_evaluation(path) for path in paths])
    return found


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Three values of n with times, grids and their tokenizer, and a TarFlow."""
    timing = tmp_path / "timing.parquet"
    write_rows(timing, TIMING, [*par_samples.par_timing(), *samples.timing()])
    rows = [*samples.evaluations(), *par_samples.par_evaluations()]
    pictures = {}
    for name in par_samples.CELLS:
        path = tmp_path / f"{name}.png"
        Image.new("RGB", (40, 30)).save(path)
        pictures[name] = [Picture(path, "samples 0, 1, 2 …", "grid", "cfg")]
    scores = tmp_path / "demo-vq-reconstruction.json"
    write_json(scores, par_samples.reconstruction())
    Image.new("RGB", (90, 10)).save(scores.with_suffix(".png"))
    return Inputs(
        jsons=par_samples.par_jsons(tmp_path, rows),
        tables={"timing": timing},
        pictures=pictures,
        tokenizers=[scores],
    )


def page(inputs: Inputs, tmp_path: Path) -> Page:
    """The rendered page."""
    render(inputs, tmp_path / "report.html")
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


# The table


def test_cells_stand_by_n_under_their_single_token() -> None:
    """Lines rise in n whatever the order; n = 1 is LlamaGen and its own head."""
    found = table(par_samples.par_evaluations()[::-1])
    assert [one.group for one in found.lines] == [1, 4, 16]
    assert [one.label for one in found.lines] == [
        "n = 1 (LlamaGen)",
        "n = 4",
        "n = 16",
    ]
    assert found.models == [("demo-par-n1", "cfg")]
    assert found.samples == "500 images, 3 seeds"
    first = found.lines[0]
    assert (first.steps_text, first.agreement_text) == ("256", "95.0 ± 0.5 %")
    assert (first.seconds_text, first.rate_text) == ("262 ms", "48.8")
    assert first.shown_batches == []


def test_speeds_are_the_job_s_at_batch_1_and_at_the_best_batch(tmp_path: Path) -> None:
    """The file's times know every batch; a row alone knows that of its own."""
    rows = par_samples.par_evaluations()
    four = line(read(par_samples.par_jsons(tmp_path, rows)), "demo-par-n4")
    assert [four.speed(batch) for batch in four.shown_batches] == ["3.71×", "1.72×"]
    alone = line(table(rows), "demo-par-n4")
    assert alone.shown_batches == [40]
    assert alone.speed(1) == "–"


def test_other_models_have_heads_of_their_own() -> None:
    """Two models of one token a step stay apart, though a clock compares them."""
    more = [
        par_samples.par_evaluation("big-n1", 0, 3.0, "demo-par-n1", **measured)
        for measured in [{"baseline": par_samples.BASELINE, "speedup": 0.4}]
    ]
    more += [
        par_samples.par_evaluation(
            "big-n4", 0, 3.5, "demo-par-n4", baseline="big-n1/cfg"
        )
    ]
    found = table([*par_samples.par_evaluations(), *more])
    assert found.models == [("demo-par-n1", "cfg"), ("big-n1", "cfg")]
    assert [one.cell[0] for one in found.of_model(("big-n1", "cfg"))] == [
        "big-n1",
        "big-n4",
    ]
    assert found.sentences[-1].startswith(
        "big-n4 (n = 4) takes 67 steps, big-n1 (n = 1) 256. "
    )
    assert model_name(("a", "cfg"), [("a", "cfg"), ("b", "cfg")]) == "a"
    assert model_name(("a", "cfg"), [("a", "cfg"), ("a", "x")]) == "a/cfg"


def test_samplers_of_one_n_are_told_apart() -> None:
    """Guidance of another shape is a line of its own beside the plain one."""
    linear = {**par_samples.par_evaluation("demo-par-n4", 0, 4.1), "sampler": "linear"}
    found = table([*par_samples.par_evaluations(), linear])
    labels = [one.label for one in found.lines]
    assert labels == ["n = 1 (LlamaGen)", "n = 4, cfg", "n = 4, linear", "n = 16"]


def test_other_protocols_and_systems_are_not_in_one_table() -> None:
    """Scores that may not be compared stand apart; other systems are in none."""
    other = par_samples.par_evaluation("demo-par-n4", 0, 4.0, protocol="another")
    rows = [
        *(r for r in par_samples.par_evaluations() if r["experiment"] != "demo-par-n4"),
        other,
    ]
    assert len(token_tables(summaries(rows))) == 2
    assert token_tables(summaries(samples.flow_evaluations())) == []


# The sentences


def test_sentences_are_honest(tmp_path: Path) -> None:
    """Steps, both speeds and the verdict on the score; slower is called slower."""
    found = read(par_samples.par_jsons(tmp_path, par_samples.par_evaluations()))
    assert found.sentences == (
        "n = 4 takes 67 steps, n = 1 (LlamaGen) 256. Timed in one job, it is 3.71 "
        "times as fast at batch 1 and 1.72 times as fast at batch 40. Its score, "
        "4.40 ± 0.13, is worse than 3.90 ± 0.12.",
        "n = 16 takes 31 steps, n = 1 (LlamaGen) 256. Timed in one job, it is 6.72 "
        "times as fast at batch 1 and 0.93 times as fast, so slower, at batch 40. Its "
        "score, 7.80 ± 0.23, is worse than 3.90 ± 0.12.",
    )


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ((3.8, 3.9, 4.0), "agrees with 3.90 ± 0.12."),
        ((2.0, 2.1, 2.2), "is better than 3.90 ± 0.12."),
        ((9.0,), "is not 3.90 ± 0.12, but one seed cannot tell which is better."),
    ],
)
def test_a_score_is_judged_within_its_spread(
    scores: tuple[float, ...], says: str
) -> None:
    """The sentence takes the verdict that the tables take."""
    rows = [
        r for r in par_samples.par_evaluations() if r["experiment"] == "demo-par-n1"
    ]
    rows += [
        par_samples.par_evaluation("demo-par-n4", seed, score)
        for seed, score in enumerate(scores)
    ]
    assert table(rows).sentences[0].endswith(says)


def test_a_failed_cell_says_so(tmp_path: Path) -> None:
    """Without a score there is no verdict, and the reason stands on page and screen."""
    lost = {"status": "failed", "error": "4 NaN images", "frechet": None}
    rows = [
        {**row, **lost} if row["experiment"] == "demo-par-n4" else row
        for row in par_samples.par_evaluations()
    ]
    paths = par_samples.par_jsons(tmp_path, rows)
    assert "One of the two has no score." in read(paths).sentences[0]
    assert "failed: seed 0: 4 NaN images" in page(Inputs(paths), tmp_path).text
    assert "demo-par-n4_cfg failed: seed 0: 4 NaN images" in printed(paths, width=120)


# The page


def test_the_page_compares_the_values_of_n(
    inputs: Inputs, tmp_path: Path, drawn: list[str]
) -> None:
    """Table, charts, grids titled by n and steps, tokenizer; TarFlow's table stays."""
    found = page(inputs, tmp_path)
    for words in (
        "TarFlow: scores and speed",
        "PAR: tokens in parallel",
        "Its score, 7.80 ± 0.23, is worse than",
        "demo-par-n1 cfg 1 LlamaGen 256 3.90 ± 0.12 95.0 ± 0.5 % 262 ms the baseline "
        "48.8 at batch 40",
        "demo-par-n16 cfg 16 31 7.80 ± 0.23 89.0 ± 0.5 % 39.1 ms 6.72× at batch 1 "
        "0.93× at batch 40 45.2 at batch 40",
        "n = 16, 31 steps demo-par-n16, cfg: samples 0, 1, 2 …",
        "demo-vq 500 26.3 dB 1.20 Fréchet distance (classifier-32) 0.412 78.1 % 214",
    ):
        assert words in found.text
    assert drawn[0].startswith("n = 16 takes 31 steps instead of 256, but scores worse")
    assert drawn[1].startswith("n = 16 takes 39.1 ms an image at batch 1, not 262 ms")
    assert drawn[2].startswith("“n = 16” is 6.7× as fast as “n = 1 (LlamaGen)” at")
    # TarFlow's own three, and none of an n alone; a grid once.
    assert len(drawn) == 6
    assert found.tags.count("img") == 6 + 3 + 1
    assert "Nothing: every file asked for is here" in found.text


def test_charts_that_compare_lie_beside_the_page(
    inputs: Inputs, tmp_path: Path
) -> None:
    """Their files are named after them; a second of a kind is numbered."""
    names = ["scores_steps", "scores_seconds", "timing_tokens"]
    paths = render(inputs, tmp_path / "report.html")
    assert [path.stem for path in paths] == ["costs_steps", *names]
    other = par_samples.par_evaluation("alone", 0, 4.0, "demo-par-n4", protocol="other")
    jsons = [*inputs.jsons, *samples.write_jsons(tmp_path, [other])]
    paths = render(Inputs(jsons), tmp_path / "report.html")
    assert [path.stem for path in paths] == [
        "costs_steps",
        *names[:2],
        *(f"{name}-1" for name in names[:2]),
    ]


def test_published_values_have_a_column_where_there_are_any(tmp_path: Path) -> None:
    """A cell's published score stands with its verdict."""
    row = par_samples.par_evaluation(
        *("par-xl-4x", 0, 0.0, "demo-par-n4"),
        metric="fid",
        fid=2.6,
        frechet=None,
        extractor="inception-v3-compat",
        published_value=2.61,
        published_n=500,
        published_source="PAR, Table 2",
        difference=2.6 - 2.61,
        verdict="matches",
        verdict_reason="differs by −0.01",
    )
    paths = samples.write_jsons(tmp_path, [row])
    assert "2.61 PAR, Table 2 matches: differs by" in page(Inputs(paths), tmp_path).text
    assert "2.61: matches" in printed(paths, width=120)
    paths = par_samples.par_jsons(tmp_path, par_samples.par_evaluations())
    text = page(Inputs(paths), tmp_path).text.partition("n tokens of an image")[2]
    assert "published" not in text.partition("What is missing, and why")[0]


# The tokenizer


def test_a_tokenizer_s_scores_have_their_proper_name(tmp_path: Path) -> None:
    """rFID with Inception's features alone; held-out images are called so."""
    path = tmp_path / "vq-reconstruction.json"
    more = {"metric": "rfid", "extractor": "inception-v3-compat", "held_out": True}
    write_json(path, par_samples.reconstruction(**more))
    found = load_reconstruction(path)
    assert (found.metric, found.images) == ("rFID", "500, held out")
    assert found.picture == tmp_path / "vq-reconstruction.png"


def test_a_tokenizer_s_files_may_be_missing_but_not_broken(tmp_path: Path) -> None:
    """What is not there is listed; a file of another kind is named in one line."""
    gone, scores = tmp_path / "no-reconstruction.json", tmp_path / "vq.json"
    write_json(scores, par_samples.reconstruction())
    text = page(Inputs([], tokenizers=[gone, scores]), tmp_path).text
    assert f"{gone} not made yet" in text
    assert f"{tmp_path / 'vq.png'} not made yet" in text
    for content in ({"psnr": 3}, [], par_samples.reconstruction(score="low")):
        write_json(scores, content)
        with pytest.raises(UserError, match=r"vq\.json: not the scores"):
            load_reconstruction(scores)


def test_every_caption_has_its_file() -> None:
    """Captions of this part are there, one paragraph each."""
    for name in (
        *("tokens", "scores_steps", "scores_seconds", "timing_tokens"),
        *("grid_tokens", "tokenizer", "tokenizer_picture"),
    ):
        words = (TEMPLATES / f"{name}.rst").read_text(encoding="utf-8")
        assert words.strip()
        assert "\n\n" not in words


# The terminal


def test_the_terminal_shows_a_line_a_cell_in_80_columns(tmp_path: Path) -> None:
    """n, steps, score, time, rate and both speeds; TarFlow's table is as before."""
    rows = [*samples.evaluations(), *par_samples.par_evaluations()]
    text = printed(par_samples.par_jsons(tmp_path, rows))
    last = next(x for x in text.splitlines() if "demo-par-n16" in x)
    assert " ".join(last.split()) == (
        "demo-par-n16 16 31 7.80 ± 0.23 89.0 % 39.1 ms 6.72× 45.2 @40 0.93×"
    )
    assert "published" not in text
    assert "500 images, 3 seeds" in text
    assert "12.50 ± 0.26" in next(x for x in text.splitlines() if " auto " in x)


def test_an_older_row_without_n_still_has_its_line() -> None:
    """Rows from before the column say nothing of n, and nothing is guessed."""
    row = par_samples.par_evaluation("demo-par-n4", 0, 4.4, group=None)
    (found,) = token_tables([summarize([row])])
    assert (found.lines[0].group, found.lines[0].label) == (None, "demo-par-n4")
    assert found.sentences == ()
