"""What all types of the configuration share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, Strict

NAME_PATTERN = r"^[a-z0-9][a-z0-9.-]*$"
"""Names of experiments, samplers, datasets …: no underscore, which parts the two names
in `results/{experiment}_{sampler}_fid.json`."""
ADDRESS_PATTERN = r"^https?://[^\s@?#]+$"
"""Addresses without user, password, query and fragment."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

# A list in YAML is a tuple here, so that a spec cannot change once it is checked; only
# that step is lax, the numbers inside stay strict.
Counts = Annotated[tuple[Count, ...], Strict(False)]
Indices = Annotated[tuple[Index, ...], Strict(False)]
Bits = Annotated[tuple[Annotated[int, Field(ge=0, le=1)], ...], Strict(False)]
Texts = Annotated[tuple[str, ...], Strict(False)]


class Spec(BaseModel):
    """A part of the configuration: no unknown keys, no conversions, no changes."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def resolved(self, without: Collection[str] = ()) -> dict[str, Any]:
        """A JSON value with every default filled in, for a rule's params.

        Args:
            without: top-level keys to leave out, because the job does not use them.
        """
        return self.model_dump(mode="json", by_alias=True, exclude=set(without))


class NamedSpec(Spec):
    """A spec that knows the key under which it stands."""

    _name: str = PrivateAttr(default="")

    @property
    def name(self) -> str:
        """The key in the configuration."""
        return self._name

    def resolved(self, without: Collection[str] = ()) -> dict[str, Any]:
        """As every spec's, with `name` in front."""
        value = super().resolved(without)
        return value if "name" in without else {"name": self.name, **value}


def is_path(text: str) -> bool:
    """Whether `asset name or path` is a path: it holds a slash (`./model.pth`)."""
    return "/" in text


def give_names(group: Mapping[str, NamedSpec]) -> None:
    """Tell each `NamedSpec` of a group its key."""
    for name, spec in group.items():
        spec._name = name
