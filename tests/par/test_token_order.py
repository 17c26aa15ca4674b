"""Pictures of the order of drawing: the real plan, and the real sampler's images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewstep.images import to_uint8
from fewstep.par.sampler import load_sampler
from fewstep.par.schedule import Schedule
from fewstep.stages.token_order import (
    Course,
    chosen,
    columns,
    draw_order,
    follow,
    save_moving,
    step_map,
    token_map,
)
from tests.par.test_sampler import written

LEFT, DONE, NOW = (226, 229, 235), (143, 166, 198), (181, 69, 44)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")


def cells(picture: Image.Image, grid: int) -> list[tuple[int, ...]]:
    """The colour of every token, in raster order."""
    side = picture.width // grid
    points = [(side * c + 1, side * r + 1) for r in range(grid) for c in range(grid)]
    return [picture.getpixel(point) for point in points]


def spec_of(folder: Path, **more: Any) -> tuple[dict[str, Any], Path, Path]:
    """A tiny sampler of n = 4 on 4 x 4 tokens, and what the stage is told."""
    spec, checkpoint, plan = written(folder)
    about = {"labels": "balanced", "num_classes": 3, "seed": 5, "count": 2, **more}
    return {**spec, **about}, checkpoint, plan


# ---- the tokens ----


@pytest.mark.parametrize(("grid", "group"), [(4, 1), (4, 4), (8, 16)])
def test_every_token_is_new_in_the_step_that_draws_it(grid: int, group: int) -> None:
    """Red at the step of its pass, blue after it, pale before."""
    schedule = Schedule(grid, group)
    order = schedule.order()
    for step, one in enumerate(schedule.passes(), 1):
        found = cells(token_map(schedule, step, 8 * grid), grid)
        for place, cell in enumerate(order):
            before, now = place < one.start, one.start <= place < one.stop
            assert found[cell] == (DONE if before else NOW if now else LEFT)


def test_what_came_since_the_picture_before_is_new() -> None:
    """Where steps are left out, all tokens of them are red."""
    found = cells(token_map(Schedule(4, 1), 10, 40, fresh=3), 4)
    assert [found.count(colour) for colour in (DONE, NOW, LEFT)] == [7, 3, 6]


def test_later_tokens_are_darker_on_the_map_of_steps() -> None:
    """Tokens of one step are alike."""
    schedule = Schedule(4, 4)
    found = cells(step_map(schedule, 96), 4)
    shades = [
        {found[cell] for cell in schedule.order()[one.start : one.stop]}
        for one in schedule.passes()
    ]
    assert [len(shade) for shade in shades] == [1] * schedule.steps
    reds = [shade.pop()[0] for shade in shades]
    assert reds == sorted(reds, reverse=True)


def test_steps_are_shown_evenly_with_both_ends() -> None:
    """The first and the last step are always there, and none twice."""
    assert chosen(64, 8) == [1, 10, 19, 28, 37, 46, 55, 64]
    assert chosen(3, 8) == [1, 2, 3]
    assert columns(Schedule(8, 1))[0] == 1
    shown = columns(Schedule(8, 16))
    assert shown == [1, 8, 16, 17, 18, 19]
    assert len(columns(Schedule(24, 4))) == 8


# ---- the images ----


def test_the_last_images_are_the_samples(tmp_path: Path) -> None:
    """After all steps the pictures show what the sampler draws for the same seed."""
    spec, checkpoint, plan = spec_of(tmp_path)
    sampler = load_sampler(spec, checkpoint, plan)
    course = follow(sampler, spec, [1, 7])
    assert course.labels is not None
    inputs = sampler.inputs(5, [0, 1], course.labels)
    wanted = to_uint8(sampler.draw(inputs).images, "round").numpy()
    assert np.array_equal(course.images[-1], wanted)


def test_pixels_of_tokens_to_come_are_grey(tmp_path: Path) -> None:
    """After the first step only the pixels of the first token are seen."""
    spec, checkpoint, plan = spec_of(tmp_path)
    sampler = load_sampler(spec, checkpoint, plan)
    course = follow(sampler, spec, [1, 7])
    side = course.images.shape[-1] // 4
    grey = (course.images[0] == 200).all(1)
    assert grey[:, side:].all()
    assert grey[:, :, side:].all()
    assert not grey[:, :side, :side].all()


def test_the_stage_writes_a_film_and_an_animation(tmp_path: Path) -> None:
    """A frame a step, n = 4 in 7 steps; the same files every time."""
    spec, checkpoint, plan = spec_of(tmp_path, num_classes=0)
    paths = [tmp_path / f"{name}.png" for name in ("strip", "moving")]
    for path in paths:
        path.write_bytes(b"old")
    draw_order(spec, checkpoint, plan, *paths)
    first = [path.read_bytes() for path in paths]
    draw_order(spec, checkpoint, plan, *paths)
    assert [path.read_bytes() for path in paths] == first
    with Image.open(paths[0]) as strip:
        # Rows of tokens and two images, columns of six steps and the order.
        assert strip.width > 7 * 96
        assert strip.height > 3 * 96
    with Image.open(paths[1]) as moving:
        assert moving.n_frames == 7


@pytest.mark.parametrize(("grid", "group"), [(8, 1), (8, 16), (24, 1), (24, 16)])
def test_animations_of_one_grid_take_the_same_time(
    tmp_path: Path, grid: int, group: int
) -> None:
    """A step of each n takes the same time, and all begin anew together."""
    schedule = Schedule(grid, group)
    steps = chosen(schedule.steps, 96)
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(len(steps), 1, 3, 8, 8), dtype=np.uint8)
    path = tmp_path / "moving.png"
    save_moving(Course(schedule, steps, images, None), steps, path)
    with Image.open(path) as moving:
        times = []
        for number in range(moving.n_frames):
            moving.seek(number)
            times.append(moving.info["duration"])
    assert len(times) == len(steps) <= 96
    # Milliseconds are whole numbers.
    assert sum(times) == pytest.approx(8400, abs=len(steps))
    assert times[0] == pytest.approx(6400 / grid**2 * (steps[1] - steps[0]), abs=1)
