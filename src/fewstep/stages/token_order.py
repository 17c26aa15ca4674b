"""Stage: which tokens a PAR sampler draws at which step, and what is seen by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fewstep import files
from fewstep.images import GAP, INK, PAPER, filmstrip, save_png, to_uint8
from fewstep.par.order import to_raster
from fewstep.par.sampler import ParSampler, load_sampler
from fewstep.par.schedule import Schedule
from fewstep.sampling import labels_for

_STRIP, _MOVING = 96, 120  # about the pixels a side of one picture
_COLUMNS, _SINGLE = 8, 3
_FRAMES = 96
_RUN_MS, _REST_MS = 6400, 2000
"""One token a step takes the first on the whole; then the last frame stands."""
_LEFT, _DONE, _NOW = (226, 229, 235), (143, 166, 198), (181, 69, 44)
_UNSEEN = 200  # grey of pixels whose token is not drawn yet


@dataclass(frozen=True)
class Course:
    """What a sampler drew, step by step.

    Attributes:
        schedule: the order.
        steps: numbers of the steps that are shown, the first step being 1.
        images: (steps, B, 3, H, W) uint8, after each of them.
        labels: the classes; None: a model without classes.
    """

    schedule: Schedule
    steps: list[int]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None

    def title(self, index: int) -> str:
        """Name of an image."""
        return (
            f"sample {index}" if self.labels is None else f"class {self.labels[index]}"
        )


def draw_order(
    spec: dict[str, Any], checkpoint: Path, plan: Path, strip: Path, moving: Path
) -> None:
    """Draw a filmstrip and an animation of the first samples of a seed.

    Args:
        spec: what loads the sampler, `labels`, `num_classes`, `seed`, `count`.
        checkpoint: `model.safetensors`.
        plan: `plan.json`.
        strip: PNG: tokens and images after some of the steps.
        moving: animated PNG: the same after each step. A step takes the same time
            for every n on the same grid, so animations side by side are a race.
    """
    sampler = load_sampler(spec, checkpoint, plan)
    schedule = sampler.gpt.schedule
    few, many = columns(schedule), chosen(schedule.steps, _FRAMES)
    course = follow(sampler, spec, sorted({*few, *many}))
    save_png(film(course, few), strip)
    save_moving(course, many, moving)


def follow(sampler: ParSampler, spec: dict[str, Any], steps: list[int]) -> Course:
    """The images after each of these steps; what is not drawn yet is grey."""
    seed, indices = spec["seed"], list(range(spec["count"]))
    labels = labels_for(spec["labels"], spec["num_classes"], indices, seed)
    drawn = sampler.tokens(*sampler.inputs(seed, indices, labels))
    schedule = sampler.gpt.schedule
    shown = [_seen(sampler, drawn.tokens, step) for step in steps]
    return Course(schedule, steps, np.stack(shown), labels)


@torch.inference_mode()
def _seen(sampler: ParSampler, tokens: Tensor, step: int) -> NDArray[np.uint8]:
    """Images (B, 3, H, W) of the tokens of the first steps.

    The decoder looks beyond a token's own pixels: where it looks at one that is not
    drawn yet it sees the mean of the codebook.
    """
    schedule, vq = sampler.gpt.schedule, sampler.vq
    known = torch.zeros_like(tokens, dtype=torch.bool)
    known[:, : schedule.passes()[step - 1].stop] = True
    codes, there = to_raster(tokens, schedule), to_raster(known, schedule)
    entries = vq.quantize.lookup(codes)
    blank = vq.quantize.rows().mean(0).expand_as(entries)
    latent = torch.where(there[..., None], entries, blank)
    images = to_uint8(vq.decode_latent(latent.movedim(-1, 1)).nan_to_num(), "round")
    pixels = there.repeat_interleave(vq.downsample, 1)
    pixels = pixels.repeat_interleave(vq.downsample, 2)
    seen: NDArray[np.uint8] = (
        images.masked_fill(~pixels[:, None], _UNSEEN).cpu().numpy()
    )
    return seen


def chosen(steps: int, most: int) -> list[int]:
    """Numbers of at most `most` steps, evenly, the first and the last among them."""
    count = min(steps, most)
    places = np.linspace(1, steps, count).round().astype(int)
    return sorted({int(place) for place in places})


def columns(schedule: Schedule) -> list[int]:
    """Steps of a filmstrip: three of the tokens one by one, then those of n tokens."""
    single = chosen(schedule.group, _SINGLE)
    joint = chosen(schedule.steps - schedule.group, _COLUMNS - len(single))
    return [*single, *(schedule.group + step for step in joint)]


# ---- pictures ----


def token_map(
    schedule: Schedule, step: int, size: int, *, fresh: int = 1
) -> Image.Image:
    """The grid of tokens after a step, those of the last `fresh` steps in red.

    Args:
        schedule: the order.
        step: from 1.
        size: about the pixels a side; a token is a whole number of pixels.
        fresh: steps since the picture before.
    """
    passes, order = schedule.passes(), schedule.order()
    stop, before = passes[step - 1].stop, passes[max(step - fresh, 0)].start
    side = max(2, size // schedule.grid)
    picture = Image.new("RGB", (side * schedule.grid,) * 2, PAPER)
    draw = ImageDraw.Draw(picture)
    for place, cell in enumerate(order):
        colour = _LEFT if place >= stop else _NOW if place >= before else _DONE
        row, column = divmod(cell, schedule.grid)
        left, top = column * side, row * side
        # A line of paper between tokens where they are large enough for one.
        rim = 2 if side > 4 else 1
        draw.rectangle((left, top, left + side - rim, top + side - rim), fill=colour)
    return picture


def step_map(schedule: Schedule, size: int) -> Image.Image:
    """The grid with the number of the step that draws each token."""
    numbers = {
        schedule.order()[place]: number
        for number, one in enumerate(schedule.passes(), 1)
        for place in range(one.start, one.stop)
    }
    side = max(2, size // schedule.grid)
    picture = Image.new("RGB", (side * schedule.grid,) * 2, PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(side - 3, 1))
    fits = font.getlength(str(schedule.steps)) <= side
    for cell, number in numbers.items():
        row, column = divmod(cell, schedule.grid)
        left, top = column * side, row * side
        shade = 235 - 110 * number // schedule.steps
        box = (left, top, left + side - 1, top + side - 1)
        draw.rectangle(box, fill=(shade, shade + 8, 245))
        if fits:
            middle = (left + side / 2, top + side / 2)
            draw.text(middle, str(number), fill=INK, font=font, anchor="mm")
    return picture


def film(course: Course, steps: Sequence[int]) -> Image.Image:
    """Rows: the tokens, then an image each; columns: steps, and at last the order."""
    schedule = course.schedule
    # Red is what was drawn since the picture before.
    gaps = np.diff([0, *steps])
    tokens = [
        _bytes(token_map(schedule, step, _STRIP, fresh=int(gap)))
        for step, gap in zip(steps, gaps, strict=True)
    ]
    side = tokens[0].shape[-1]
    rows = [("tokens", [*tokens, _bytes(step_map(schedule, _STRIP))])]
    places = [course.steps.index(step) for step in steps]
    for index in range(course.images.shape[1]):
        images = [_bytes(_sized(course.images[p, index], side)) for p in places]
        rows.append((course.title(index), images))
    titles = [f"step {step} of {schedule.steps}" for step in steps]
    return filmstrip(rows, [*titles, "step of each"])


def save_moving(course: Course, steps: Sequence[int], path: Path) -> None:
    """Write the animation, whole or not at all."""
    schedule = course.schedule
    frames = [_frame(course, step, steps) for step in steps]
    # Every step takes its share of the time of one token a step.
    shown = [
        b - a for a, b in zip(steps, [*steps[1:], schedule.steps + 1], strict=True)
    ]
    times = [_RUN_MS * count / schedule.tokens for count in shown]
    times[-1] += _RUN_MS + _REST_MS - sum(times)
    with files.atomic_path(path) as part:
        frames[0].save(
            part,
            format="PNG",
            save_all=True,
            append_images=frames[1:],
            duration=[round(time) for time in times],
            loop=0,
        )


def _frame(course: Course, step: int, steps: Sequence[int]) -> Image.Image:
    """Tokens and images after a step, under their title."""
    place = steps.index(step)
    fresh = step - (steps[place - 1] if place else 0)
    tokens = token_map(course.schedule, step, _MOVING, fresh=fresh)
    side, number = tokens.width, course.steps.index(step)
    panels = [tokens, *(_sized(image, side) for image in course.images[number])]
    head = 20
    size = (len(panels) * (side + GAP) + GAP, head + side + GAP)
    canvas = Image.new("RGB", size, PAPER)
    words = f"n = {course.schedule.group}, step {step} of {course.schedule.steps}"
    font = ImageFont.load_default(13)
    ImageDraw.Draw(canvas).text(
        (GAP, head / 2), words, fill=INK, font=font, anchor="lm"
    )
    for column, panel in enumerate(panels):
        canvas.paste(panel, (GAP + column * (side + GAP), head))
    return canvas


def _sized(image: NDArray[np.uint8], side: int) -> Image.Image:
    """An image (3, H, W) with `side` pixels a side; small ones stay made of squares."""
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    grown = picture.width <= side
    how = Image.Resampling.NEAREST if grown else Image.Resampling.LANCZOS
    return picture.resize((side, side), how)


def _bytes(picture: Image.Image) -> NDArray[np.uint8]:
    """(3, H, W)."""
    return np.asarray(picture).transpose(2, 0, 1)
