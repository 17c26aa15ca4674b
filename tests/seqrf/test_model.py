"""NCSN++: the released networks' numbers, sizes and names; its layers by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.seqrf.layers import Resampler, conv
from fewstep.seqrf.model import NCSNpp

Golden = Callable[[str], dict[str, Any]]

CIFAR = {
    "data.image_size": 32,
    "data.num_channels": 3,
    "data.centered": True,
    "model.nf": 128,
    "model.ch_mult": [1, 2, 2, 2],
    "model.num_res_blocks": 4,
    "model.attn_resolutions": [16],
    "model.fir": False,
    "model.fir_kernel": [1, 3, 3, 1],
    "model.progressive": "none",
    "model.progressive_input": "none",
    "model.embedding_type": "positional",
    "model.dropout": 0.15,
}
CHURCH = {
    **CIFAR,
    "data.image_size": 256,
    "data.centered": False,
    "model.ch_mult": [1, 1, 2, 2, 2, 2, 2],
    "model.num_res_blocks": 2,
    "model.fir": True,
    "model.progressive": "output_skip",
    "model.progressive_input": "input_skip",
    "model.embedding_type": "fourier",
    "model.scale_by_sigma": True,
    "model.num_scales": 2000,
    "model.sigma_max": 380,
    "model.dropout": 0.0,
}
CELEBA = {
    **CIFAR,
    "data.image_size": 64,
    "model.fir": True,
    "model.progressive_input": "residual",
    "model.sigma_max": 90,
    "model.dropout": 0.1,
}
SMALL = {
    "data.image_size": 8,
    "model.nf": 8,
    "model.ch_mult": [1, 2],
    "model.num_res_blocks": 1,
    "model.attn_resolutions": [4],
    "model.init_scale": 1.0,
}
KINDS: dict[str, dict[str, Any]] = {
    "cifar": {},
    "church": {
        key: CHURCH[key]
        for key in (
            *("data.centered", "model.fir", "model.progressive"),
            *("model.progressive_input", "model.embedding_type"),
            *("model.scale_by_sigma", "model.num_scales"),
        )
    },
    "celeba": {"model.fir": True, "model.progressive_input": "residual"},
}


def network(segments: int = 1, **changes: Any) -> NCSNpp:
    """A small network; keys of the configuration with `__` for the dot."""
    torch.manual_seed(0)
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return NCSNpp.from_flat_config({**SMALL, **given}, segments)


def of_kind(kind: str, segments: int = 1) -> NCSNpp:
    """A small network with the parts of a released one."""
    return network(segments, **KINDS[kind])


def images(count: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, 8, 8) and labels (B,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 8, 8, generator=generator)
    return x, 1 + 990 * torch.rand(count, generator=generator)


def loaded(case: dict[str, Any]) -> NCSNpp:
    """The network of a golden case, in evaluation mode."""
    model = NCSNpp.from_flat_config(case["config"])
    model.load_state_dict(case["state_dict"])
    return model.eval()


def assert_close_each(found: Tensor, wanted: Tensor) -> None:
    """Within 2e-5 of each sample's own scale: samples differ by 1000 times."""
    error = (found - wanted).abs().flatten(1).amax(1)
    scale = wanted.abs().flatten(1).amax(1)
    assert bool((error <= 2e-5 * scale).all()), (error / scale).tolist()


# ---- the released programs' numbers ----


@pytest.mark.parametrize(
    "name",
    [
        *("ncsnpp_cifar_a", "ncsnpp_church_a", "ncsnpp_celeba_a"),
        *("khead_cifar_k4", "khead_church_k2"),
    ],
)
@torch.no_grad()
def test_outputs_match_the_golden_numbers(golden_seqrf: Golden, name: str) -> None:
    """Every sample of the three networks and of k heads is as released."""
    case = golden_seqrf(name)
    model = loaded(case)
    assert_close_each(model(case["x"], case["t"], case.get("index")), case["out"])


@pytest.mark.parametrize("name", ["khead_cifar_k4", "khead_church_k2"])
@torch.no_grad()
def test_one_head_for_all_is_the_same_as_a_tensor_of_it(
    golden_seqrf: Golden, name: str
) -> None:
    """An int index gives what the tensor of it gives; None is head 0."""
    case = golden_seqrf(name)
    model, x, t = loaded(case), case["x"], case["t"]
    for head in range(model.segments):
        every = torch.full((len(x),), head)
        assert_close_each(model(x, t, head), model(x, t, every))
        mine = case["index"] == head
        assert_close_each(model(x, t, head)[mine], case["out"][mine])
    assert torch.equal(model(x, t), model(x, t, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_of_the_checkpoints(golden_seqrf: Golden, kind: str) -> None:
    """A state dict has the golden's names, order and types, and loads strictly."""
    case = golden_seqrf(f"ncsnpp_{kind}_a")
    model, state = NCSNpp.from_flat_config(case["config"]), case["state_dict"]
    own = model.state_dict()
    assert list(own) == list(state)
    assert [v.dtype for v in own.values()] == [v.dtype for v in state.values()]
    torch.testing.assert_close(own["sigmas"], state["sigmas"], rtol=1e-6, atol=0)
    last = list(state)[-1]
    with pytest.raises(RuntimeError, match=rf"Missing key.*{last}"):
        model.load_state_dict({k: v for k, v in state.items() if k != last})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict({**state, "all_modules.99.weight": torch.ones(1)})


@pytest.mark.parametrize(
    ("config", "parameters", "trainable", "layers", "extra"),
    [
        (CIFAR, 61_804_419, 61_804_419, 55, 328_704),
        (CHURCH, 65_574_549, 65_574_421, 77, 394_240),
        (CELEBA, 62_693_251, 62_693_251, 58, 328_704),
    ],
)
def test_sizes_are_those_of_the_published_networks(
    config: dict[str, Any], parameters: int, trainable: int, layers: int, extra: int
) -> None:
    """Parameters, layers, and what each further head adds, at full size."""
    with torch.device("meta"):
        models = [NCSNpp.from_flat_config(config, k) for k in (1, 2, 4)]
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    one = models[0]
    assert counts[0] == parameters
    assert sum(p.numel() for p in one.parameters() if p.requires_grad) == trainable
    assert [len(model.all_modules) for model in models] == [layers] * 3
    assert [count - counts[0] for count in counts] == [0, extra, 3 * extra]


# ---- configurations ----


def test_number_of_heads_comes_from_the_configuration_or_the_caller() -> None:
    """`training.reflow_t` by default, the argument before it, 1 without both."""
    config = {**SMALL, "training.reflow_t": 3}
    assert NCSNpp.from_flat_config(config).segments == 3
    assert NCSNpp.from_flat_config(config, 2).segments == 2
    assert NCSNpp.from_flat_config(SMALL).segments == 1


def test_the_network_tells_its_images() -> None:
    """Size, colours and range are the configuration's."""
    model = network(data__num_channels=1, data__centered=False)
    assert (model.image_size, model.channels, model.centered) == (8, 1, False)
    x = torch.rand(2, 1, 8, 8)
    assert model(x, torch.tensor([1.0, 900.0])).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_time_names_are_what_grows_with_the_heads(kind: str) -> None:
    """The named parameters, and no others, have one block of rows a head."""
    one, three = of_kind(kind).state_dict(), of_kind(kind, 3).state_dict()
    assert one.keys() == three.keys()
    grown = {name for name in one if one[name].shape != three[name].shape}
    assert grown == set(of_kind(kind).time_names)
    assert all(len(three[name]) == 3 * len(one[name]) for name in grown)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model__resblock_type": "ddpm"},
            "model.resblock_type: 'ddpm' is not supported; expected biggan",
        ),
        (
            {"model__progressive": "residual"},
            "model.progressive: 'residual' is not supported; "
            "expected none or output_skip",
        ),
        (
            {"model__progressive_combine": "cat"},
            "model.progressive_combine: 'cat' is not supported; expected sum",
        ),
        (
            {"model__conditional": False},
            "model.conditional: False is not supported; expected True",
        ),
        (
            {"model__progressive_input": "residual"},
            "model.fir: False is not supported; "
            "expected true with progressive_input residual",
        ),
        (
            {"model__scale_by_sigma": True, "model__num_scales": 10},
            "model.num_scales: 10 is not supported; "
            "expected at least 1000 with scale_by_sigma, for labels up to 999",
        ),
        (
            {"model__nf": 48},
            "model.nf: 144 channels do not divide into 32 groups; "
            "expected layers whose channels do; take a multiple of 32",
        ),
        (
            {"model__nf": 2},
            "model.nf: 2 channels are too few to normalise; expected at least 4",
        ),
    ],
)
def test_unsupported_options_are_one_clear_line(
    changes: dict[str, Any], message: str
) -> None:
    """What this network does not do is refused by name, never ignored."""
    with pytest.raises(UserError) as caught:
        network(**changes)
    assert str(caught.value) == message


@pytest.mark.parametrize("key", ["data.image_size", "model.nf", "model.ch_mult"])
def test_a_missing_key_is_one_clear_line(key: str) -> None:
    """A configuration without a needed key names it with its section."""
    with pytest.raises(UserError) as caught:
        NCSNpp.from_flat_config({k: v for k, v in SMALL.items() if k != key})
    assert str(caught.value) == f"{key}: key is missing; expected a value"


# ---- training ----


@torch.no_grad()
def test_dropout_acts_in_training_only() -> None:
    """In evaluation it changes nothing; in training two passes differ."""
    dry, wet = network(), network(model__dropout=0.5)
    wet.load_state_dict(dry.state_dict())
    x, label = images()
    assert torch.equal(wet.eval()(x, label), dry.eval()(x, label))
    wet.train()
    assert not torch.equal(wet(x, label), wet(x, label))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_trained_parameter(kind: str) -> None:
    """No layer is left out of the pass; the frozen frequencies stay so."""
    model = of_kind(kind, 2)
    x, label = images()
    model(x, label, torch.tensor([0, 1, 0, 1])).square().sum().backward()
    for name, parameter in model.named_parameters():
        if name == "all_modules.0.W":
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None
            assert bool(parameter.grad.abs().sum() > 0), name


@pytest.mark.parametrize("index", [1, torch.tensor([1, 1, 1, 1])])
def test_a_head_learns_from_its_own_segment_alone(index: int | Tensor) -> None:
    """Only the rows of the heads in a batch get a gradient."""
    model = network(3)
    x, label = images()
    model(x, label, index).square().sum().backward()
    parameters = dict(model.named_parameters())
    for name in model.time_names:
        gradient = parameters[name].grad
        assert gradient is not None
        moved = [bool(part.abs().sum() > 0) for part in gradient.chunk(3)]
        assert moved == [False, True, False], name


@torch.no_grad()
def test_a_new_network_starts_closed() -> None:
    """With the released initial scale of 0 the first velocity is about 0."""
    x, label = images()
    closed = network(model__init_scale=0.0)
    assert closed(x, label).abs().max() < 1e-3
    assert network()(x, label).abs().max() > 1e-2
    small = {name for name, p in closed.named_parameters() if 0 < p.abs().max() < 1e-4}
    last = f"all_modules.{len(closed.all_modules) - 1}.weight"
    ends = ("Conv_1.weight", "NIN_3.W", last)
    assert small == {name for name in closed.state_dict() if name.endswith(ends)}


def test_layers_start_with_the_variance_of_their_fans() -> None:
    """Uniform weights of variance scale / mean(fan in, fan out), biases 0."""
    torch.manual_seed(0)
    layer = conv(64, 192, scale=0.5)
    variance = float(layer.weight.detach().var())
    assert variance == pytest.approx(0.5 / (9 * (64 + 192) / 2), rel=0.02)
    assert layer.bias is not None
    assert bool((layer.bias == 0).all())


# ---- resampling, against loops ----

KERNEL = (1, 3, 3, 1)


def taps(kernel: tuple[int, ...]) -> list[float]:
    """Of one axis, summing to 1."""
    return [value / sum(kernel) for value in kernel]


def filtered(row: list[float], before: int, after: int) -> list[float]:
    """A row between zeros under the kernel."""
    padded, weights = [0.0] * before + row + [0.0] * after, taps(KERNEL)
    return [
        sum(weights[j] * padded[i + j] for j in range(len(weights)))
        for i in range(len(padded) - len(weights) + 1)
    ]


def slow_down(row: list[float]) -> list[float]:
    """Filter, then every second value."""
    return filtered(row, 1, 1)[::2]


def slow_up(row: list[float]) -> list[float]:
    """A zero after each value, then the filter at twice its strength."""
    spread = [value for one in row for value in (2 * one, 0.0)]
    return filtered(spread, 2, 1)


def on_both_axes(
    image: list[list[float]], change: Callable[[list[float]], list[float]]
) -> list[list[float]]:
    """The rows, then the columns."""
    rows = [change(row) for row in image]
    columns = [change(list(column)) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("way", ["down", "up"])
def test_the_filter_resamples_as_a_plain_loop_does(way: str) -> None:
    """Halving and doubling with the FIR kernel, channel by channel."""
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    slow = {"down": slow_down, "up": slow_up}[way]
    wanted = torch.tensor(
        [[on_both_axes(channel.tolist(), slow) for channel in image] for image in x]
    )
    found = getattr(Resampler(KERNEL), way)(x)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("way", ["down", "up"])
@pytest.mark.parametrize("kernel", [(), KERNEL])
def test_resampling_keeps_the_level_of_an_image(
    way: str, kernel: tuple[int, ...]
) -> None:
    """A constant image stays what it is, away from the filter's zero border."""
    out = getattr(Resampler(kernel), way)(torch.full((1, 2, 8, 8), 3.0))
    assert out.shape[-1] == {"down": 4, "up": 16}[way]
    torch.testing.assert_close(
        out[..., 1:-1, 1:-1], torch.full_like(out, 3.0)[..., 1:-1, 1:-1]
    )


def test_plain_resampling_is_means_and_repetition() -> None:
    """Without a kernel: 2 x 2 means down, nearest neighbours up."""
    x = torch.arange(16.0).view(1, 1, 4, 4)
    plain = Resampler()
    assert plain.down(x).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert torch.equal(plain.up(x)[0, 0, :2, :4], torch.tensor([[0.0, 0, 1, 1]] * 2))
