"""Renew the pictures of these pages from a run of the demo.

    python docs/pictures.py results

Each is made narrower where it is wide. Charts are written with at most 128 colours;
where images are shown, theirs stay as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

PICTURES = {
    "tarflow-side-by-side": "demo-tarflow/side-by-side.png",
    "tarflow-trace": "demo-tarflow/for/trace.png",
    "tarflow-rank": "demo-tarflow/rank.png",
    "tarflow-convergence": "demo-tarflow/convergence.png",
    "seqrf-straightness": "demo/straightness.png",
    "seqrf-trajectories": "demo/trajectories.png",
    "seqrf-solvers": "demo-4seqrf/solvers.png",
    "seqrf-scores": "demo/scores_nfe.png",
    "par-tokenizer": "tokenizers/demo-vq-reconstruction.png",
    "par-order": "demo-par-n4/cfg/order.png",
    "par-n4": "demo-par-n4/cfg/grid.png",
    "par-scores": "demo/scores_steps.png",
    "scores-seconds": "demo/scores_seconds.png",
}
"""Name of each picture here, and its file in the results."""

IMAGES = {"tarflow-side-by-side", "tarflow-trace", "par-tokenizer", "par-n4"}
"""Those that show images: fewer colours turned yellow digits beige."""

WIDTH = 1000
COLOURS = 128


def renew(results: Path, folder: Path) -> int:
    """Write all pictures; their size together, in bytes."""
    folder.mkdir(exist_ok=True)
    total = 0
    for name, source in PICTURES.items():
        picture = Image.open(results / source).convert("RGB")
        if picture.width > WIDTH:
            height = round(picture.height * WIDTH / picture.width)
            picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
        path = folder / f"{name}.png"
        if name not in IMAGES:
            picture = picture.quantize(COLOURS, dither=Image.Dither.NONE)
        picture.save(path, optimize=True)
        total += path.stat().st_size
    return total


def main(arguments: list[str]) -> int:
    """Renew from the results folder that is named, else from `results`."""
    results = Path(arguments[0] if arguments else "results")
    missing = [s for s in PICTURES.values() if not (results / s).is_file()]
    if missing:
        sys.stderr.write(
            f"{results}: no {', '.join(missing)}; `make demo` makes them\n"
        )
        return 1
    size = renew(results, Path(__file__).parent / "pictures")
    sys.stdout.write(f"{len(PICTURES)} pictures, {size / 1000:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
