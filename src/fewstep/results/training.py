"""The table of training curves; apart from the others, which no training depends on."""

from __future__ import annotations

from fewstep.results.columns import Row, Table, integer, number, text
from fewstep.results.common import EXPERIMENT


def _check_training(row: Row) -> None:
    """A score on the way says which score it is and of how many images."""
    if len({row[name] is None for name in ("score", "score_metric", "score_n")}) > 1:
        raise ValueError(
            "columns 'score', 'score_metric' and 'score_n' are given together or not"
        )


TRAINING = Table(
    name="training",
    description="Training curves.",
    columns=(
        EXPERIMENT,
        integer("step", "optimizer steps done", required=True),
        number(
            "loss",
            "training loss, mean since the row before",
            required=True,
            minimum=None,
            finite=False,
        ),
        number("validation_loss", "the same loss on held-out images", minimum=None),
        number("bpd", "bits per dimension on held-out images", minimum=None),
        number("grad_norm", "norm of the gradient before clipping", finite=False),
        number("lr", "learning rate", required=True),
        number("seconds", "training time so far, over all resumes, s", required=True),
        integer("images", "images seen so far"),
        number(
            "score",
            "score of a snapshot on the way, from few images: no evaluation, and "
            "compared only with the same score_n",
            minimum=-1,
        ),
        text(
            "score_metric",
            "proper name of that score: fid with Inception features, else frechet",
            "fid",
            "frechet",
        ),
        integer("score_n", "images behind that score: fid@n", minimum=1),
    ),
    key=("experiment", "step"),
    version=2,
    rule=_check_training,
)
