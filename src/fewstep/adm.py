"""ADM's batches of images: an .npz with `arr_0`, uint8, (N, H, W, 3).

The evaluator of Dhariwal and Nichol (2021) takes samples in such a file, and publishes
real images in one, beside their statistics. Ten thousand images of 256 pixels are 2 GB,
fifty thousand 10 GB: they are mapped and streamed, never held.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fewstep.errors import UserError
from fewstep.files import atomic_path

IMAGES = "arr_0"
_BLOCK = 1 << 20
_LOCAL_HEADER = 30  # bytes before the name in a member's own header (PKWARE, 4.3.7)
BROKEN = (
    *(OSError, EOFError, ValueError, TypeError, AttributeError, LookupError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)
"""What reading an .npz that is cut off, altered or no archive at all may raise."""


def open_entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Open an array of an .npz to be written, stored, with no time of day in it."""
    entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    return archive.open(entry, "w", force_zip64=True)


def array_names(path: str | Path) -> frozenset[str]:
    """Names of the arrays in an .npz.

    Raises:
        UserError: for a missing or broken file.
    """
    with _reading(Path(path)), zipfile.ZipFile(path) as archive:
        return frozenset(name.removesuffix(".npy") for name in archive.namelist())


def open_images(path: str | Path) -> NDArray[np.uint8]:
    """The images of a file with `arr_0`, as (N, 3, H, W).

    The checksum is verified first, by reading the member once in small blocks. What is
    stored uncompressed is then mapped into memory and read by and by; what is
    compressed (np.savez_compressed) is held as a whole.

    Raises:
        UserError: for a missing or broken file, or images of another kind.
    """
    path = Path(path)
    with _reading(path), zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{IMAGES}.npy")
        with archive.open(entry) as member:
            while member.read(_BLOCK):  # the last read checks the checksum
                pass
        if entry.compress_type == zipfile.ZIP_STORED:
            images = _mapped(path, entry.header_offset)
        else:
            with archive.open(entry) as member:
                images = np.lib.format.read_array(member, allow_pickle=False)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(
            f"{IMAGES} is {images.dtype} {images.shape}",
            where=str(path),
            expected="images, uint8 (N, H, W, 3)",
        )
    return images.transpose(0, 3, 1, 2)


def write_images(
    path: str | Path, shape: tuple[int, int, int, int], blocks: Iterable[NDArray[Any]]
) -> None:
    """Write `arr_0` block by block, whole or not at all; equal images, equal bytes.

    Args:
        path: the .npz.
        shape: (N, H, W, 3) of the whole.
        blocks: uint8 (B, H, W, 3), N images in all, in order.

    Raises:
        ValueError: for blocks that do not make up the whole.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    written = 0
    with (
        atomic_path(path) as part,
        zipfile.ZipFile(part, "w") as archive,
        open_entry(archive, IMAGES) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            if block.dtype != np.uint8 or block.shape[1:] != shape[1:]:
                raise ValueError(f"a block of {block.dtype} {block.shape} in {shape}")
            file.write(np.ascontiguousarray(block).data)
            written += len(block)
        if written != shape[0]:
            raise ValueError(f"{written} images in {shape}")


def _mapped(path: Path, offset: int) -> NDArray[np.uint8]:
    """The array of a stored member whose header begins at `offset`."""
    with open(path, "rb") as file:
        file.seek(offset)
        local = file.read(_LOCAL_HEADER)
        # The lengths of name and extra field, of which the directory has a copy that
        # need not be the same.
        name, extra = (int.from_bytes(local[i : i + 2], "little") for i in (26, 28))
        file.seek(offset + _LOCAL_HEADER + name + extra)
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
        return np.memmap(
            file,
            dtype=dtype,
            mode="r",
            offset=file.tell(),
            shape=shape,
            order="F" if fortran else "C",
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """One line for everything that may be wrong with an archive."""
    if not path.is_file():
        raise UserError("file not found", where=str(path))
    try:
        yield
    except BROKEN as error:
        raise UserError(
            f"cannot be read ({type(error).__name__})",
            where=str(path),
            expected="an .npz file",
            do="delete it and make or fetch it again",
        ) from error
