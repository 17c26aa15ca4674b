"""Charts of the results, as Altair objects and PNG files."""

from fewstep.errors import UserError

try:
    from fewstep.plots.blocks import block_chart, convergence_chart
    from fewstep.plots.flow import score_nfe_chart, straightness_chart
    from fewstep.plots.overview import Cost, score_cost_chart, score_costs
    from fewstep.plots.par import score_seconds_chart, score_steps_chart
    from fewstep.plots.speed import score_time_chart, timing_chart, training_chart
    from fewstep.plots.theme import (
        AnyChart,
        Look,
        png_bytes,
        sampler_style,
        save_png,
    )
    from fewstep.plots.trajectories import trajectory_chart
except ModuleNotFoundError as error:
    raise UserError(
        f"charts need {error.name}, which is not installed",
        do="run pip install 'fewstep[report]'",
    ) from error

__all__ = [
    "AnyChart",
    "Cost",
    "Look",
    "block_chart",
    "convergence_chart",
    "png_bytes",
    "sampler_style",
    "save_png",
    "score_cost_chart",
    "score_costs",
    "score_nfe_chart",
    "score_seconds_chart",
    "score_steps_chart",
    "score_time_chart",
    "straightness_chart",
    "timing_chart",
    "training_chart",
    "trajectory_chart",
]
