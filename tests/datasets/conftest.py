"""A dataset spec as the configuration resolves it, to be changed field by field."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from tests.specs import dataset_spec

MakeSpec = Callable[..., SimpleNamespace]


@pytest.fixture
def make_spec() -> MakeSpec:
    """Return a function that makes a spec; keywords replace the defaults."""

    return dataset_spec
