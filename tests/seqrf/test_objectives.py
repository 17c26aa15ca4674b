"""What flows are trained on, and one step of training against the released programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from fewstep.data import Dataset
from fewstep.errors import UserError
from fewstep.images import to_model_range
from fewstep.initial import InitialState
from fewstep.seqrf.model import NCSNpp
from fewstep.seqrf.objectives import (
    BaseFlowObjective,
    FlowBatch,
    Kind,
    PairArrays,
    Reduction,
    ReflowObjective,
    flow_loss,
    flow_matching_loss,
    interpolate,
    target_velocity,
)
from fewstep.seqrf.segments import Segments
from fewstep.training import TrainOptions, TrainState, train

CPU = torch.device("cpu")
TINY = {
    "data.image_size": 8,
    "model.nf": 8,
    "model.ch_mult": [1, 2],
    "model.num_res_blocks": 1,
    "model.attn_resolutions": [4],
}
RECIPE = TrainOptions(
    steps=4, batch=8, lr=1e-3, weight_decay=0.0, grad_clip=1.0, ema=0.99, log_every=1
)


def network(segments: int = 1, **changes: Any) -> NCSNpp:
    """A tiny network; keys of `model.*` and `data.*` by their short names."""
    config = {**TINY, **{f"model.{name}": value for name, value in changes.items()}}
    torch.manual_seed(0)
    return NCSNpp.from_flat_config(config, segments)


def dataset(count: int = 40) -> Dataset:
    """Images of one grey level each with a black left edge: they tell their number."""
    levels = 50 + np.arange(count, dtype=np.uint8)[:, None, None, None] * 4
    images = np.broadcast_to(levels, (count, 3, 8, 8)).copy()
    images[..., 0] = 0
    labels = np.zeros(count, dtype=np.int64)
    return Dataset(images, labels, {"name": "grey", "sha256": "0" * 64})


class Made:
    """Pairs in memory: pair i is of segment i mod k, its ends hold i and -i."""

    def __init__(self, segments: Segments, count: int = 40) -> None:
        self.segments, self.count = segments, count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: NDArray[np.int64]) -> PairArrays:
        segment = indices % self.segments.k
        level = (indices / self.count).astype(np.float32)[:, None, None, None]
        x = np.broadcast_to(level, (len(indices), 3, 8, 8))
        edges = np.array(self.segments.edges, dtype=np.float32)
        return x.copy(), -x, edges[segment + 1], edges[segment], segment


def reflow(k: int = 3, **changes: Any) -> ReflowObjective:
    segments = changes.pop("segments", Segments.uniform(k))
    pairs = Made(segments, changes.pop("count", 40))
    return ReflowObjective(
        network(k), pairs, segments=segments, **{"batch": 8, **changes}
    )


# ---- the released programs' numbers ----


class Fixed:
    """One batch at every step."""

    def __init__(self, model: nn.Module, lines: FlowBatch) -> None:
        self.model, self.lines = model, lines

    def batch(self, step: int, start: int, stop: int) -> FlowBatch:
        return FlowBatch(*(part[start:stop] for part in self.lines))

    def loss(self, model: nn.Module, batch: FlowBatch, device: torch.device) -> Tensor:
        return flow_loss(model, batch, device, "sum_half")

    def validate(self, model: nn.Module, device: torch.device) -> None:
        return None


def golden_objective(golden: dict[str, Any]) -> Fixed:
    """The golden's model and batch; its heads are found from the times of the pairs."""
    # One golden says by num_scales how many steps it has; its table is of 1000 anyway.
    model = NCSNpp.from_flat_config({**golden["config"], "model.num_scales": 1000})
    model.load_state_dict(golden["state_dict"])
    segments = Segments.uniform(model.segments)
    if golden["config"]["training.adaptive_interval"]:
        places = golden["config"]["adaptive_index"]
        total = golden["config"]["adaptive_total"]
        segments = Segments(tuple(1 - place / total for place in places))
    head = segments.midpoint_index(golden["t0"], golden["t1"])
    assert torch.equal(head, golden["segment"])
    ends = [golden[name] for name in ("x0", "x1", "t0", "t1", "u")]
    return Fixed(model, FlowBatch(*ends, head))


def golden_recipe(config: dict[str, Any], accumulate: int) -> TrainOptions:
    return TrainOptions(
        steps=1,
        batch=6,
        lr=config["optim.lr"],
        start_lr=0.0,
        min_lr=config["optim.lr"],
        warmup_steps=config["optim.warmup"],
        weight_decay=config["optim.weight_decay"],
        betas=(config["optim.beta1"], 0.999),
        grad_clip=config["optim.grad_clip"],
        ema=config["model.ema_rate"],
        ema_warmup=config["model.variable_ema_rate"],
        count_offset=config["adam_count_before"],
        accumulate=accumulate,
        log_every=1,
    )


GOLDENS = [
    ("baseline", 1),
    ("reflow_k3", 1),
    ("distill_k2", 1),
    ("rfdistill_k1_n4", 1),
    ("reflow_adaptive_k3_vema", 1),
    ("reflow_adaptive_k3_vema", 3),
]


@pytest.mark.parametrize(("name", "accumulate"), GOLDENS)
def test_one_step_of_training(
    golden_seqrf: Any, tmp_path: Path, name: str, accumulate: int
) -> None:
    """Loss, gradient norm, weights, average and moments after a step are the golden's.

    Starts from imported averages and moments with their counter, in one part or more.
    """
    golden = golden_seqrf(f"train_{name}")
    objective = golden_objective(golden)
    names = ("ema", "exp_avg", "exp_avg_sq")
    initial = InitialState(**{part: golden[part] for part in names})
    recipe = golden_recipe(golden["config"], accumulate)
    kept, state = train(objective, recipe, tmp_path, key="k", initial=initial)
    point = state.curve[0]
    assert point["loss"] == pytest.approx(golden["loss"], rel=1e-4)
    assert point["grad_norm"] == pytest.approx(golden["grad_norm"], rel=1e-4)

    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    order = [n for n, p in objective.model.named_parameters() if p.requires_grad]
    tolerance = 3e-3 if "vema" in name else 2e-3
    for key, after in golden["param_after"].items():
        moments = saved["optimizer"]["state"][order.index(key)]
        found = {
            "state_dict": saved["model"][key],
            "ema": kept[key],
            "exp_avg": moments["exp_avg"],
            "exp_avg_sq": moments["exp_avg_sq"],
        }
        expected = {
            "state_dict": after,
            **{part: golden[f"{part}_after"][key] for part in names},
        }
        for part, value in found.items():
            update = (expected[part] - golden[part][key]).abs().max()
            error = (value - expected[part]).abs().max()
            # An average moves by 1e-4 of its way, often by a single unit of float32.
            unit = 2**-23 * value.abs().max() if part == "ema" else 0
            assert error <= tolerance * update + unit, (part, key)


@pytest.mark.parametrize("name", [name for name, parts in GOLDENS if parts == 1])
def test_gradients(golden_seqrf: Any, name: str) -> None:
    """The loss's gradient is the released program's, before clipping."""
    golden = golden_seqrf(f"train_{name}")
    objective = golden_objective(golden)
    objective.loss(objective.model, objective.lines, CPU).backward()
    found = dict(objective.model.named_parameters())
    for key, expected in golden["grad"].items():
        grad = found[key].grad
        assert grad is not None
        assert (grad - expected).abs().max() <= 1e-3 * expected.abs().max(), key


# ---- the formulas ----


@settings(deadline=None, max_examples=20)
@given(
    u=st.floats(0, 1, width=32),
    t0=st.floats(0, 0.5, width=32),
    length=st.floats(0.125, 0.5, width=32),
)
def test_the_target_moves_a_point_to_the_clean_end(
    u: float, t0: float, length: float
) -> None:
    """From x_u, the target velocity for the rest of the time to t0 ends at x0."""
    x0, x1 = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    start, end = torch.full((4,), t0), torch.full((4,), t0 + length)
    place = torch.full((4,), u)
    velocity = target_velocity(x0, x1, start, end)
    left = (interpolate(start, end, place) - start).reshape(-1, 1, 1, 1)
    moved = interpolate(x0, x1, place) + left * velocity
    torch.testing.assert_close(moved, x0, atol=1e-5, rtol=0)


def test_reductions_differ_by_half_the_size() -> None:
    """Half the sum over an example is its mean times C H W / 2; others are refused."""
    a, b = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    summed, mean = flow_matching_loss(a, b), flow_matching_loss(a, b, "mean")
    torch.testing.assert_close(summed, mean * 3 * 4 * 4 / 2)
    assert float(mean) == pytest.approx(float((a - b).square().mean()))
    with pytest.raises(ValueError, match="unknown reduction 'sum'"):
        flow_matching_loss(a, b, "sum")  # type: ignore[arg-type]


def test_losses_of_low_precision_are_summed_in_float32() -> None:
    """A bfloat16 prediction does not make a bfloat16 loss."""
    zeros = torch.zeros(1, 3, 32, 32)
    loss = flow_matching_loss(zeros.bfloat16() + 1, zeros)
    assert loss.dtype == torch.float32 and float(loss) == 1536


def test_the_network_sees_the_point_its_label_and_its_head() -> None:
    """The network is called with x_u, the label of t_u and the head of the segment."""
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor, label: Tensor, index: Tensor) -> Tensor:
            seen.extend((x, label, index))
            return torch.zeros_like(x)

    batch = reflow(2).batch(0, 0, 4)
    batch = batch._replace(u=torch.tensor([0.0, 0.25, 0.5, 1.0]))
    flow_loss(Spy(), batch, CPU, "mean")
    x, label, index = seen
    torch.testing.assert_close(x[0], batch.x0[0])
    torch.testing.assert_close(x[3], batch.x1[3])
    t = batch.t0 + batch.u * 0.5
    torch.testing.assert_close(label, ((1 - t) * 0.999 + 0.001) * 999)
    assert torch.equal(index, batch.head)


# ---- the base flow ----


def base(**changes: Any) -> BaseFlowObjective:
    model = network(changes.pop("segments", 1))
    return BaseFlowObjective(model, dataset(), **{"batch": 8, **changes})


def test_base_flow_goes_from_images_to_noise() -> None:
    """x0 are images in model space, x1 normal noise, u = t uniform, over t = 0 to 1."""
    own = base()
    batches = [own.batch(step, 0, 8) for step in range(20)]
    images = set(
        to_model_range(torch.from_numpy(dataset().images))[:, 0, 0, 5].tolist()
    )
    noise = torch.cat([batch.x1 for batch in batches])
    u = torch.cat([batch.u for batch in batches])
    for batch in batches:
        assert set(batch.x0[:, 0, 0, 5].tolist()) <= images
        assert not batch.t0.any() and bool((batch.t1 == 1).all())
        assert not batch.head.any()
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert len(noise[:, 0, 0, 0].unique()) == 160
    assert np.allclose(np.histogram(u, 4, (0, 1))[0] / 160, 0.25, atol=0.1)


def test_images_of_a_network_that_centres_them_itself_stay_in_0_1() -> None:
    """With data.centered false, model space is [0, 1]."""
    config = {**TINY, "data.centered": False}
    own = BaseFlowObjective(NCSNpp.from_flat_config(config), dataset(), batch=40)
    x0 = own.batch(0, 0, 40).x0
    assert float(x0.min()) == 0 and float(x0.max()) == pytest.approx(206 / 255)


def test_base_flow_with_heads_uses_the_one_of_the_time() -> None:
    """A base flow of a k-headed network takes the head of t, 0 at the noise."""
    batch = base(segments=4).batch(0, 0, 8)
    assert torch.equal(batch.head, ((1 - batch.u) * 4).long())
    assert len(batch.head.unique()) > 1


def test_half_of_the_images_are_mirrored() -> None:
    """With flip the dark edge is on the right of about half the images."""
    own = base(flip=True)
    left = torch.cat([own.batch(step, 0, 8).x0[:, 0, 0, 0] for step in range(20)])
    assert 0.35 < float((left == -1).float().mean()) < 0.65
    assert bool((base().batch(0, 0, 8).x0[:, 0, 0, 0] == -1).all())


# ---- pairs ----


@pytest.mark.parametrize("edges", [None, (1.0, 0.74, 0.31, 0.0)])
def test_pairs_come_with_the_head_of_their_segment(
    edges: tuple[float, ...] | None,
) -> None:
    """Heads are the pairs' segments, equal or not; ends and times are the pairs'."""
    segments = Segments(edges) if edges else Segments.uniform(3)
    own = reflow(3, segments=segments)
    batch = own.batch(2, 0, 8)
    number = (batch.x0[:, 0, 0, 0] * 40).round().long()
    assert torch.equal(batch.head, number % 3)
    assert torch.equal(batch.x1, -batch.x0)
    expected = torch.tensor(segments.edges)
    torch.testing.assert_close(batch.t1, expected[batch.head])
    torch.testing.assert_close(batch.t0, expected[batch.head + 1])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("distill", {1.0}), ("step_distill", {0.25, 0.5, 0.75, 1.0})],
)
def test_distillation_sees_the_starts_of_steps_alone(
    kind: Kind, expected: set[float]
) -> None:
    """Distillation trains at u = 1; step distillation at j/n, each about as often."""
    own = reflow(1, kind=kind, steps_per_segment=4)
    u = torch.cat([own.batch(step, 0, 8).u for step in range(40)])
    values, counts = u.unique(return_counts=True)
    assert set(values.tolist()) == expected
    share = 1 / len(expected)
    assert all(abs(float(n) / 320 - share) < 0.08 for n in counts)


def test_reflow_draws_places_uniformly_and_anew() -> None:
    """u is uniform on the line and differs from step to step and epoch to epoch."""
    own = reflow()
    u = torch.cat([own.batch(step, 0, 8).u for step in range(20)])
    assert len(u.unique()) == 160
    assert np.allclose(np.histogram(u, 4, (0, 1))[0] / 160, 0.25, atol=0.1)


# ---- what both share ----


@pytest.mark.parametrize("make", [base, reflow])
@pytest.mark.parametrize("batch", [1, 7, 40])
def test_an_epoch_shows_every_example_at_most_once(make: Any, batch: int) -> None:
    """Any size of batch works; what is left over is dropped, another epoch reorders."""
    own = make(batch=batch)
    assert own.per_epoch == 40 // batch
    epochs = [
        torch.cat([own.batch(step, 0, batch).x0[:, 0, 0, 5] for step in steps])
        for steps in (range(own.per_epoch), range(own.per_epoch, 2 * own.per_epoch))
    ]
    assert all(len(epoch.unique()) == batch * own.per_epoch for epoch in epochs)
    assert not torch.equal(*epochs)


@settings(deadline=None, max_examples=10)
@given(cut=st.integers(0, 8), step=st.integers(0, 50))
def test_parts_of_a_batch_are_the_batch(cut: int, step: int) -> None:
    """Processes and micro-batches together see what one process sees at once."""
    for own in (base(flip=True), reflow(kind="step_distill", steps_per_segment=5)):
        whole = own.batch(step, 0, 8)
        parts = zip(own.batch(step, 0, cut), own.batch(step, cut, 8), strict=True)
        for part, expected in zip(parts, whole, strict=True):
            assert torch.equal(torch.cat(part), expected)


@pytest.mark.parametrize("make", [base, reflow])
def test_held_out_examples_are_never_trained_on(make: Any) -> None:
    """Validation is on other examples, repeatable, of any number; 0 means none."""
    own = make(validation=11)
    seen = torch.cat(
        [own.batch(step, 0, 8).x0[:, 0, 0, 5] for step in range(own.per_epoch)]
    )
    held = own.lines(own.visits.held_out, range(11), "validate")
    assert not set(seen.tolist()) & set(held.x0[:, 0, 0, 5].tolist())
    own.model.eval()
    with torch.no_grad():
        value = own.validate(own.model, CPU)
        assert value == own.validate(own.model, CPU)
        assert value == pytest.approx(float(own.loss(own.model, held, CPU)), rel=1e-5)
    assert make().validate(own.model, CPU) is None


@pytest.mark.parametrize(
    ("make", "what"), [(base, "images"), (reflow, "pairs")], ids=["base", "reflow"]
)
def test_a_batch_larger_than_the_data_is_one_line(make: Any, what: str) -> None:
    """More examples a step than there are, and holding out all, are user errors."""
    with pytest.raises(UserError, match=f"batch 33 is larger than 32 training {what}"):
        make(batch=33, validation=8)
    with pytest.raises(UserError, match=f"40 of 40 {what} are to be held out"):
        make(validation=40)


def test_pairs_of_other_segments_are_one_line() -> None:
    """Heads must be as many as segments, and pairs must span them."""
    pairs = Made(Segments.uniform(3))
    with pytest.raises(UserError, match="2 heads of the model, 3 segments"):
        ReflowObjective(network(2), pairs, batch=8, segments=pairs.segments)
    other = Segments((1.0, 0.7, 0.3, 0.0))
    own = ReflowObjective(network(3), pairs, batch=8, segments=other)
    with pytest.raises(UserError, match=r"pair \d+ spans t = .*train with the edges"):
        own.batch(0, 0, 8)


@pytest.mark.parametrize(
    "wrong", [{"kind": "distil"}, {"steps_per_segment": 0}, {"reduction": "sum"}]
)
def test_unknown_options_are_refused(wrong: dict[str, Any]) -> None:
    """A misspelt kind, no step or an unknown reduction fails at once."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        reflow(**wrong)


# ---- training ----


def run(folder: Path, own: Any, options: TrainOptions) -> tuple[Tensor, TrainState]:
    tensors, state = train(own, options, folder, key="k")
    return torch.cat([value.flatten().double() for value in tensors.values()]), state


@pytest.mark.parametrize("make", [base, reflow])
@pytest.mark.parametrize("reduction", ["sum_half", "mean"])
def test_training_lowers_the_loss(
    tmp_path: Path, make: Any, reduction: Reduction
) -> None:
    """Some steps bring the held-out loss down, whichever the reduction."""
    own = make(reduction=reduction, validation=8)
    _, state = run(tmp_path, own, replace(RECIPE, steps=40, lr=5e-3, log_every=1))
    losses = [point["validation_loss"] for point in state.curve]
    assert losses[-1] < 0.7 * losses[0]


def test_bf16_training_stays_near_fp32(tmp_path: Path) -> None:
    """Under bf16 autocast the CPU trains with nearly the losses of fp32."""
    losses = {}
    for precision in ("fp32", "bf16"):
        options = replace(RECIPE, precision=precision)
        _, state = run(tmp_path / precision, reflow(), options)
        losses[precision] = [point["loss"] for point in state.curve]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


def test_a_resume_with_dropout_is_exact(tmp_path: Path) -> None:
    """A network with dropout and a warmed-up average ends with the same bits."""
    segments = Segments.uniform(2)
    options = replace(RECIPE, ema_warmup=True, accumulate=2, save_every=3)

    class Stopped(Exception):  # noqa: N818
        pass

    def objective(stop_at: int | None = None) -> ReflowObjective:
        class Stopping(ReflowObjective):
            def batch(self, step: int, start: int, stop: int) -> FlowBatch:
                if step == stop_at:
                    raise Stopped
                return super().batch(step, start, stop)

        model = network(2, dropout=0.5)
        return Stopping(model, Made(segments), batch=8, segments=segments)

    whole, _ = run(tmp_path / "one", objective(), options)
    with pytest.raises(Stopped):
        run(tmp_path / "two", objective(stop_at=3), options)
    rest, state = run(tmp_path / "two", objective(), options)
    assert torch.equal(rest, whole) and state.step == 4
