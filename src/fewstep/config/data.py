"""Datasets, feature extractors, reference statistics and assets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from fewstep.config.base import ADDRESS_PATTERN, Count, Index, Name, NamedSpec, Sha256

Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
Address = Annotated[str, Field(pattern=ADDRESS_PATTERN)]
"""Without user, password and query, where signatures stand: it is shown in logs."""


class DatasetSpec(NamedSpec):
    """Images that a builder turns into `results/data/{dataset}/`."""

    source: Literal["colour-mnist", "twemoji", "digits", "folder"]
    """Builder: images from an installed package, or a folder `path/<class>/*.jpg`."""
    size: Count
    """Height and width in pixels."""
    num_classes: Count
    """Number of classes; a different number found is an error."""
    path: str | None = None
    """Folder of the images (source `folder` only)."""
    licence: str = ""
    """Licence of the images; the packaged sources know their own."""
    attribution: str = ""
    """Whom the licence asks to name; the packaged sources know it."""
    count: Count | None = None
    """Number of images; a different number found is an error."""
    sha256: Sha256 | None = None
    """Expected SHA-256 of the built images.npy."""
    seed: Index = 0
    """Seed of what the builder draws (hues)."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Further options of the source."""
    notes: str = ""
    """What else to know, such as editions that are easily confused."""


class InceptionSpec(NamedSpec):
    """The Inception-v3 of FID (torch-fidelity's port of the 2015-12-05 graph)."""

    kind: Literal["inception-v3-compat"]
    """Which extractor."""
    weights: str | None = None
    """Asset name, or path with a slash, of the weights or of a torchmetrics statistics
    file that carries them; null: torch-fidelity's own download."""


class ClassifierSpec(NamedSpec):
    """A small classifier that the workflow trains on a dataset of its own."""

    kind: Literal["classifier"]
    """Which extractor."""
    dataset: str
    """Dataset that it is trained on."""
    epochs: Count = 8
    """Passes over the dataset."""
    seed: Index = 0
    """Seed of the initial weights and the order."""


ExtractorSpec = Annotated[InceptionSpec | ClassifierSpec, Field(discriminator="kind")]


class ReferenceSpec(NamedSpec):
    """Statistics of real images: computed from a dataset, or read from a file."""

    extractor: str
    """Feature extractor."""
    dataset: str | None = None
    """Dataset whose statistics are computed (exclusive with `file`)."""
    file: str | None = None
    """Asset name, or path with a slash, of published statistics."""
    real_levels: Literal["exact", "released"] = "exact"
    """Pixel levels of the real images: exact, or with levels 1 to 63 one too low as in
    the released TarFlow statistics."""
    flips: Literal["none", "both", "random"] = "none"
    """Mirrored: none, each image and its mirror, or at random (published files)."""
    keep_features: Index = 0
    """Real features kept for KID, precision and recall (0: none); of a published
    `.npz` those of its images."""
    spatial: bool = False
    """Also the statistics of the spatial features, which sFID needs."""


class AssetSpec(NamedSpec):
    """A file that is downloaded, placed by hand or shipped with the repository."""

    path: str
    """Where the file lies, and where to place it by hand."""
    licence: str
    """Licence of the file."""
    repo: Repository | None = None
    """Hugging Face repository `owner/name`; null: another home, or none."""
    file: str | None = None
    """File name in the repository."""
    revision: str | None = None
    """Commit, tag or branch of the repository."""
    sha256: Sha256 | None = None
    """Expected SHA-256 (null: that of the first use, kept in data/assets.lock.json)."""
    bytes: Count | None = None
    """Expected size in bytes."""
    size_mb: Count | None = None
    """Approximate size in megabytes, for planning, where `bytes` is not known."""
    mirrors: Annotated[tuple[Address, ...], Strict(False)] = ()
    """Plain addresses, tried in this order after `repo`, or instead of one."""
    trained_by: Name | None = None
    """For weights that nobody published: the experiment whose training makes them."""
    unused: str = ""
    """Why no experiment of config.yaml uses it, where none does."""
    note: str = ""
    """What else to know."""
