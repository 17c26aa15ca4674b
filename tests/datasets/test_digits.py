"""scikit-learn's digits."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fewstep.data import open_dataset
from fewstep.datasets import digits
from fewstep.errors import UserError

SHA256 = "cd9a93fdbed8babedcc02706d2e156c123e5b24fe9c71b474fa98990ec99df29"


def test_images(tmp_path, make_spec):
    """1,797 grey images use 17 levels from 0 to 255, at pinned bytes."""
    digits.build(make_spec(count=1797, sha256=SHA256), tmp_path)
    dataset = open_dataset(tmp_path, verify=True)
    assert dataset.images.shape == (1797, 3, 8, 8)
    levels = np.unique(dataset.images)
    assert levels[[0, -1]].tolist() == [0, 255]
    assert len(levels) == 17
    assert (dataset.images == dataset.images[:, :1]).all()
    assert dataset.classes == list("0123456789")


def test_only_eight_pixels(tmp_path, make_spec):
    """Another size is refused, not resized."""
    with pytest.raises(UserError, match="size 16; expected size 8"):
        digits.build(make_spec(size=16), tmp_path)


def test_missing_scikit_learn(tmp_path, make_spec, monkeypatch):
    """Without scikit-learn there is one line with the pip command."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        digits.build(make_spec(), tmp_path)
