"""Stage: list the images of a folder, once for all jobs that take codes of them.

Apart from the stage that takes the codes: whatever else builds datasets must not make
days of extraction run again when it is edited.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fewstep import files
from fewstep.datasets.common import check_found
from fewstep.datasets.folder import list_images
from fewstep.errors import UserError


def index(spec: dict[str, Any], out: Path) -> None:
    """List the images of a dataset of source `folder`.

    Classes and files stand in the order of their names, as torchvision's `ImageFolder`
    has them.

    Args:
        spec: resolved codes; of its `dataset` name, path, num_classes, count, notes.
        out: `index.json`: root, count, classes, files (relative to root), labels, and
            sha256, of the files' names and sizes in bytes.

    Raises:
        UserError: for a folder that is missing or has an empty class, empty files, and
            another count or number of classes than the dataset's.
    """
    dataset = SimpleNamespace(**{"count": None, "notes": "", **spec["dataset"]})
    root = Path(dataset.path)
    by_class, _ = list_images(root)
    paths = [path for found in by_class.values() for path in found]
    check_found(dataset, len(paths), list(by_class))
    sizes = [path.stat().st_size for path in paths]
    if 0 in sizes:
        raise UserError(
            f"{sizes.count(0)} empty files, the first is {paths[sizes.index(0)]}",
            where=str(root),
            do="fetch these files again",
        )
    names = [path.relative_to(root).as_posix() for path in paths]
    content = {
        "root": str(root),
        "count": len(paths),
        "classes": list(by_class),
        "files": names,
        "labels": [k for k, found in enumerate(by_class.values()) for _ in found],
        "sha256": files.sha256_json({"files": names, "sizes": sizes}),
    }
    # Not indented: a million names would be as many lines, twice.
    files.write_bytes(out, (json.dumps(content) + "\n").encode())
