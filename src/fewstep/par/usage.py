"""How a codebook is used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def usage(counts: NDArray[np.int64]) -> dict[str, float]:
    """How a codebook is used, from how often each entry occurs: (K,).

    Returns:
        used (share of entries that occur), perplexity (exp of the entropy of their
        frequencies, 1 to K).
    """
    chance = counts[counts > 0] / counts.sum()
    entropy = -(chance * np.log(chance)).sum()
    return {
        "used": float((counts > 0).mean()),
        "perplexity": float(np.exp(entropy)),
    }
