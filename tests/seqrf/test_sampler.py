"""A flow and a solver as a sampler of the spine."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from fewstep import checkpoints, files, noise
from fewstep.errors import UserError
from fewstep.samples import draw_samples, read_images
from fewstep.sampling import SampleOptions, complete
from fewstep.seqrf import integrate
from fewstep.seqrf.flow import Flow, build_model, load_flow
from fewstep.seqrf.sampler import FlowSampler, load_sampler, make_sampler
from fewstep.seqrf.segments import Segments
from fewstep.stages import solver_plan
from tests.seqrf.conftest import TINY_FLOW

CPU = torch.device("cpu")
EDGES = (1.0, 0.6, 0.0)
SOLVERS: dict[str, dict[str, Any]] = {
    "euler": {"solver": "euler", "steps": 4},
    "heun": {"solver": "heun", "steps": 3},
    "heun_released": {"solver": "heun_released", "steps": 3},
    "rk45": {"solver": "rk45", "tol": 1e-2},
}


def settings(**changes: Any) -> dict[str, Any]:
    """A solver's settings, Euler's unless changed."""
    values = {"steps": None, "tol": None, "error_norm": "sample", "mode": None}
    given = {**SOLVERS["euler"], **changes} if "solver" not in changes else changes
    return {**values, **given}


def flow(**model: Any) -> Flow:
    """A flow of two unequal segments with random weights, smooth in time."""
    torch.manual_seed(0)
    network = build_model({**TINY_FLOW, **model}, 2).eval()
    # The fast time features would turn a rounding error into another step size.
    network.state_dict()[network.time_names[0]].mul_(0.02)
    return Flow(network, Segments(EDGES), "exact")


@pytest.fixture(scope="module", name="two")
def _two() -> Flow:
    return flow()


def sampler(two: Flow, name: str = "euler", **changes: Any) -> FlowSampler:
    """Of a solver by its name."""
    return make_sampler(two, settings(**SOLVERS[name], **changes), "fp32")


def saved(folder: Path, two: Flow, **manifest: Any) -> Path:
    """The flow's weights on disk."""
    path = folder / "model.safetensors"
    about = {"edges": list(EDGES), "time_factor": "exact", **manifest}
    checkpoints.write_state_dict(path, two.model.state_dict(), about)
    return path


def images_of(made: FlowSampler, indices: list[int], seed: int = 5) -> Tensor:
    """Finished images of samples."""
    return complete(made, seed, indices, None).images


# ---- what a sample depends on ----


@pytest.mark.parametrize("name", SOLVERS)
def test_a_sample_is_decided_by_seed_and_number(two: Flow, name: str) -> None:
    """Alone, in a batch or in another order sample i is the same image."""
    made = sampler(two, name)
    whole = images_of(made, [0, 1, 2, 3, 4])
    for part in ([3], [4, 0], [2, 1, 3]):
        found = images_of(made, part)
        torch.testing.assert_close(found, whole[part], atol=1e-5, rtol=0)
    others = images_of(made, [0, 1, 2, 3, 4], seed=6)
    assert float((others - whole).abs().amax((1, 2, 3)).min()) > 0.1


@pytest.mark.parametrize("name", ["euler", "rk45"])
def test_shards_and_batches_leave_the_images_alone(
    two: Flow, name: str, tmp_path: Path
) -> None:
    """Shards of any size, drawn in batches of any size, hold the same images."""
    found = []
    for batch, shard in ((7, 7), (2, 3), (1, 5)):
        path = tmp_path / f"{batch}" / "samples.json"
        options = SampleOptions(seed=5, start=0, stop=7, batch=batch, shard=shard)
        draw_samples(sampler(two, name), options, path, key="k" * 12)
        found.append(np.concatenate([np.array(part) for part in read_images(path)]))
    for other in found[1:]:
        # Bytes: a rounding error may tip a value over to the next level.
        assert np.abs(other.astype(int) - found[0]).max() <= 1
        assert np.mean(other != found[0]) < 0.01


def test_a_common_step_size_depends_on_the_batch(two: Flow) -> None:
    """With the released error norm a sample is not its own: why "sample" is ours."""
    made = sampler(two, "rk45", error_norm="batch")
    alone, among = images_of(made, [3]), images_of(made, [0, 1, 2, 3])[3:]
    assert float((alone - among).abs().max()) > 1e-5


def test_noise_is_the_spines(two: Flow) -> None:
    """Purpose and attempt choose other noise; the shape is the model's."""
    made = sampler(two)
    z = made.inputs(7, [3, 5])
    assert z.dtype == torch.float32
    assert torch.equal(z, torch.from_numpy(noise.normal(7, "noise", [3, 5], (3, 8, 8))))
    assert not torch.equal(z, made.inputs(7, [3, 5], attempt=1))
    assert not torch.equal(z, made.inputs(7, [3, 5], purpose="edges"))


# ---- what a draw says ----


@pytest.mark.parametrize("name", SOLVERS)
def test_draws_are_the_integration_with_its_numbers(two: Flow, name: str) -> None:
    """Images, sequential calls, NFE and straightness are those of `integrate`."""
    made = sampler(two, name)
    # RK45 takes more steps for the louder ones: the batch makes all its calls.
    z = made.inputs(0, [0, 1, 2]) * torch.tensor([0.1, 1, 10]).view(3, 1, 1, 1)
    draw = made.draw(z)
    given = settings(**SOLVERS[name])
    del given["mode"]
    wanted = integrate(two.model, z, segments=2, edges=EDGES, **given)
    assert torch.equal(draw.images, wanted.samples)
    assert draw.steps == wanted.calls
    assert (draw.steps > wanted.nfe) == (name == "rk45")
    numbers = {name: values.tolist() for name, values in draw.numbers.items()}
    assert numbers == {
        "nfe": wanted.nfe_per_sample.tolist(),
        "straightness": wanted.straightness_per_sample.tolist(),
        "seq_straightness": wanted.seq_straightness_per_sample.tolist(),
    }
    pairs = zip(numbers["seq_straightness"], numbers["straightness"], strict=True)
    assert all(0 < sequential < whole for sequential, whole in pairs)
    assert not draw.images.requires_grad


@pytest.mark.parametrize(
    ("name", "nfe"), [("euler", 4), ("heun", 6), ("heun_released", 6)]
)
def test_fixed_steps_cost_what_they_say(two: Flow, name: str, nfe: int) -> None:
    """Euler calls the network once a step, Heun twice."""
    calls = []
    handle = two.model.register_forward_hook(lambda *_: calls.append(1))
    made = sampler(two, name)
    draw = made.draw(made.inputs(0, [0, 1]))
    handle.remove()
    assert len(calls) == draw.steps == nfe
    assert draw.numbers["nfe"].tolist() == [nfe, nfe]


def test_every_segment_has_its_head(two: Flow) -> None:
    """Two Euler steps: head 0 from t = 1 to the edge, head 1 from there."""
    made = make_sampler(two, settings(steps=2), "fp32")
    x = z = made.inputs(0, [0, 1])
    with torch.no_grad():
        for head, (t, end) in enumerate(pairwise(EDGES)):
            label = torch.full((2,), ((1 - t) * 0.999 + 0.001) * 999)
            x = x + (t - end) * two.model(x, label, head)
    torch.testing.assert_close(made.draw(z).images, x, atol=1e-5, rtol=0)


def test_finish_gives_the_range_of_the_spine(two: Flow) -> None:
    """Model space [0, 1] becomes [-1, 1]; a centered model's is left as it is."""
    x = torch.tensor([0.0, 0.25, 1.0])
    plain = sampler(flow(centered=False))
    assert plain.finish(x, x).tolist() == [-1.0, -0.5, 1.0]
    assert torch.equal(sampler(two).finish(x, x), x)


def test_bf16_is_near_the_exact_images(two: Flow) -> None:
    """Autocast changes images by its rounding; they are float32 all the same."""
    half = make_sampler(two, settings(), "bf16")
    z = half.inputs(0, [0, 1])
    images, exact = half.draw(z).images, sampler(two).draw(z).images
    assert images.dtype == torch.float32
    assert 0 < float((images - exact).abs().max()) < 0.1


# ---- from disk ----


@pytest.mark.parametrize("trained", ["exact", "released"])
def test_mode_follows_the_weights_unless_it_is_given(
    two: Flow, tmp_path: Path, trained: str
) -> None:
    """A null mode is the manifest's time factor; one that is given wins."""
    path = saved(tmp_path, two, time_factor=trained)
    found = load_flow(TINY_FLOW, 2, path, CPU)
    assert make_sampler(found, settings(mode=None), "fp32").mode == trained
    for mode in ("exact", "released"):
        assert make_sampler(found, settings(mode=mode), "fp32").mode == mode


def test_a_saved_flow_loads_with_its_segments(two: Flow, tmp_path: Path) -> None:
    """Weights and edges on disk give the sampler that was saved."""
    found = load_flow(TINY_FLOW, 2, saved(tmp_path, two), CPU)
    assert found.segments == Segments(EDGES)
    assert not found.model.training
    assert torch.equal(images_of(sampler(found), [1]), images_of(sampler(two), [1]))


@pytest.mark.parametrize("key", ["edges", "time_factor"])
def test_weights_that_say_too_little_are_refused(
    two: Flow, tmp_path: Path, key: str
) -> None:
    """Without its segments or its time a flow cannot be sampled: no guess is made."""
    path = tmp_path / "model.safetensors"
    about = {"edges": list(EDGES), "time_factor": "exact"}
    del about[key]
    checkpoints.write_state_dict(path, two.model.state_dict(), about)
    with pytest.raises(UserError) as caught:
        load_flow(TINY_FLOW, 2, path, CPU)
    assert str(caught.value).startswith(f"{path}: the file does not say its {key}; ")


def test_the_plan_decides_the_solver(two: Flow, tmp_path: Path) -> None:
    """With a plan its solver is used, without one the experiment's settings."""
    path, plan = saved(tmp_path, two), tmp_path / "plan.json"
    spec = {
        "model": TINY_FLOW,
        "segments": 2,
        "sampling": {"precision": "bf16", "compile": False},
        **settings(),
    }
    solver_plan.write({**settings(**SOLVERS["rk45"]), "segments": 2}, plan)
    assert files.read_json(plan)["notation"] == "RK45 0.01, k = 2"
    with_plan, without = load_sampler(spec, path, plan), load_sampler(spec, path, None)
    assert (with_plan.solver, with_plan.tol, with_plan.steps) == ("rk45", 1e-2, None)
    assert (without.solver, without.steps) == ("euler", 4)
    assert with_plan.precision == without.precision == "bf16"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"solver": "euler", "steps": 8}, "Euler 8, k = 4"),
        ({"solver": "heun", "steps": 4}, "Heun 4, k = 4"),
        ({"solver": "heun_released", "steps": 4}, "Heun (released) 4, k = 4"),
        ({"solver": "rk45", "tol": 1e-5}, "RK45 1e-05, k = 4"),
    ],
)
def test_a_solver_has_a_name_in_words(changes: dict[str, Any], words: str) -> None:
    """Steps or tolerance, and the number of segments."""
    assert solver_plan.notation({**settings(**changes), "segments": 4}) == words


@pytest.mark.parametrize(("asked", "heads"), [(3, "2 heads"), (1, "2 heads")])
def test_another_k_than_the_files_is_one_clear_line(
    two: Flow, tmp_path: Path, asked: int, heads: str
) -> None:
    """The message has both numbers and the file."""
    path = saved(tmp_path, two)
    with pytest.raises(UserError) as caught:
        load_flow(TINY_FLOW, asked, path, CPU)
    assert str(caught.value).startswith(
        f"{path}: the file has {heads}, segments says {asked}"
    )
    assert "\n" not in str(caught.value)


def test_another_architecture_is_one_clear_line(two: Flow, tmp_path: Path) -> None:
    """The message has the first tensor that differs and both shapes."""
    path = saved(tmp_path, two)
    with pytest.raises(
        UserError, match=r"all_modules\.0\.weight: shape \(64, 8\).*\(128, 16\)"
    ):
        load_flow({**TINY_FLOW, "nf": 16}, 2, path, CPU)


def test_too_few_steps_are_one_clear_line(two: Flow) -> None:
    """One step cannot pass through two segments."""
    made = make_sampler(two, settings(steps=1), "fp32")
    with pytest.raises(UserError, match="1 steps for 2 segments"):
        made.draw(made.inputs(0, [0]))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
# torch's compiler still loads modules that use its own deprecated parts.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_network_draws_the_same_images(tmp_path: Path) -> None:
    """By one graph for both segments and for rk45's batches as they shrink to two."""
    smallest = {**TINY_FLOW, "ch_mult": [1], "attn_resolutions": []}
    two, spec = flow(**smallest), {"model": smallest, "segments": 2}
    path = saved(tmp_path, two)
    torch._dynamo.reset()
    counters.clear()
    for name in ("rk45", "euler"):
        plain, compiled = (
            load_sampler(
                {
                    **spec,
                    **settings(**SOLVERS[name]),
                    "sampling": {"precision": "fp32", "compile": wanted},
                },
                path,
                None,
            )
            for wanted in (False, True)
        )
        for size in (4, 3):
            wanted, found = (
                made.draw(made.inputs(5, list(range(size))))
                for made in (plain, compiled)
            )
            torch.testing.assert_close(found.images, wanted.images, atol=1e-4, rtol=0)
            assert found.steps == wanted.steps
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]
