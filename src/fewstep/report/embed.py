"""Picture files as data in the page: small ones as they are, large ones smaller."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image, ImageSequence

from fewstep.errors import UserError

_LARGE = 600_000  # bytes
_WIDEST = 1600  # pixels
_QUALITY = 82


def embedded(path: Path) -> tuple[str, int, int]:
    """A picture's data address, its width and its height in pixels.

    A grid of photographs is many MB as PNG, and the page has one of each sampler:
    such a file becomes WebP, at most as wide as a large window. The file itself stays.

    Raises:
        UserError: for a file that is not a PNG picture.
    """
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if len(data) <= _LARGE:
                return _address(data, "png"), *picture.size
            frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(picture)]
            times = [
                round(frame.info.get("duration", 0))
                for frame in ImageSequence.Iterator(picture)
            ]
    except OSError as error:
        raise UserError(
            "not a readable PNG", where=str(path), do="delete it and run again"
        ) from error
    for frame in frames:
        frame.thumbnail((_WIDEST, frame.height))
    buffer = io.BytesIO()
    moving = {"append_images": frames[1:], "duration": times, "loop": 0}
    more = {"save_all": True, **moving} if len(frames) > 1 else {}
    frames[0].save(buffer, "WEBP", quality=_QUALITY, **more)
    return _address(buffer.getvalue(), "webp"), *frames[0].size


def _address(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
