"""Tensors of the published files: names, shapes and types, by their own rules.

Nothing here asks the models of this package, so that a file made from a layout also
tests their names. Values are drawn such that activations stay of the order of one:
samples of a stand-in are finite, and no constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

Arguments = Mapping[str, Any]
"""Arguments of a model, as the configuration names them."""


class Entry(NamedTuple):
    """One tensor of a file.

    Attributes:
        name: in the state dict.
        shape: of the tensor.
        std: values are normal with this deviation around `mean`.
        mean: see there.
        kind: "tril" for ones on and below the diagonal; "sigmas" for RectifiedFlow's
            table, of float64.
    """

    name: str
    shape: tuple[int, ...]
    std: float = 0.0
    mean: float = 0.0
    kind: Literal["normal", "tril", "sigmas"] = "normal"


_BIAS = 0.02
_EMBEDDING = 0.01  # TarFlow's positions and classes
_GPT = 0.02  # LlamaGen's
_FOURIER = 16.0


def linear(name: str, out: int, features: int, gain: float = 1.0) -> Iterator[Entry]:
    """A linear layer with a bias; outputs have the deviation `gain` of the inputs."""
    yield Entry(f"{name}.weight", (out, features), gain / math.sqrt(features))
    yield Entry(f"{name}.bias", (out,), gain * _BIAS)


def conv(name: str, out: int, channels: int, kernel: int = 3) -> Iterator[Entry]:
    """A square convolution with a bias."""
    shape = (out, channels, kernel, kernel)
    yield Entry(f"{name}.weight", shape, 1 / math.sqrt(channels * kernel * kernel))
    yield Entry(f"{name}.bias", (out,), _BIAS)


def norm(name: str, channels: int) -> Iterator[Entry]:
    """A normalisation with weight and bias."""
    yield Entry(f"{name}.weight", (channels,), _BIAS, mean=1.0)
    yield Entry(f"{name}.bias", (channels,), _BIAS)


# ---- TarFlow (ml-tarflow and GS-Jacobi) ----


def tarflow(model: Arguments) -> Iterator[Entry]:
    """The state dict of a TarFlow, masks and `var` included."""
    tokens = (model["img_size"] // model["patch_size"]) ** 2
    width, channels = 3 * model["patch_size"] ** 2, model["channels"]
    yield Entry("var", (tokens, width), mean=1.0)
    for number in range(model["num_blocks"]):
        block = f"blocks.{number}"
        yield Entry(f"{block}.pos_embed", (tokens, channels), _EMBEDDING)
        if model["num_classes"]:
            classes = (model["num_classes"], 1, channels)
            yield Entry(f"{block}.class_embed", classes, _EMBEDDING)
        yield Entry(f"{block}.attn_mask", (tokens, tokens), kind="tril")
        yield from linear(f"{block}.proj_in", channels, width)
        # Eight blocks multiply their scales: each one stays near the identity.
        yield from linear(f"{block}.proj_out", 2 * width, channels, gain=0.05)
        for layer in range(model["layers_per_block"]):
            yield from _tarflow_layer(f"{block}.attn_blocks.{layer}", channels)


def _tarflow_layer(name: str, channels: int) -> Iterator[Entry]:
    yield from norm(f"{name}.attention.norm", channels)
    yield from linear(f"{name}.attention.qkv", 3 * channels, channels)
    yield from linear(f"{name}.attention.proj", channels, channels, gain=0.5)
    yield from norm(f"{name}.mlp.norm", channels)
    yield from linear(f"{name}.mlp.main.0", 4 * channels, channels)
    yield from linear(f"{name}.mlp.main.2", channels, 4 * channels, gain=0.5)


# ---- LlamaGen and PAR ----


def transformer(model: Arguments) -> Iterator[Entry]:
    """The state dict of a transformer: no bias anywhere, tables not stored."""
    dim, vocabulary = model["dim"], model.get("vocab_size", 16384)
    group = model.get("ar_token_num", 1)
    hidden = -(-int(2 * 4 * dim / 3) // 256) * 256
    classes = model.get("num_classes", 1000)
    yield Entry("cls_embedding.embedding_table.weight", (classes + 1, dim), _GPT)
    yield Entry("tok_embeddings.weight", (vocabulary, dim), _GPT)
    if group > 1:
        name = "spe_tok_embeddings.special_embeddings.weight"
        yield Entry(name, (group - 1, dim), _GPT)
    for number in range(model["n_layer"]):
        layer = f"layers.{number}"
        yield Entry(f"{layer}.attention.wqkv.weight", (3 * dim, dim), _GPT)
        yield Entry(f"{layer}.attention.wo.weight", (dim, dim), _GPT)
        yield Entry(f"{layer}.feed_forward.w1.weight", (hidden, dim), _GPT)
        yield Entry(f"{layer}.feed_forward.w3.weight", (hidden, dim), _GPT)
        yield Entry(f"{layer}.feed_forward.w2.weight", (dim, hidden), _GPT)
        yield Entry(f"{layer}.attention_norm.weight", (dim,), mean=1.0)
        yield Entry(f"{layer}.ffn_norm.weight", (dim,), mean=1.0)
    yield Entry("norm.weight", (dim,), mean=1.0)
    yield Entry("output.weight", (vocabulary, dim), _GPT)


# ---- LlamaGen's tokenizer ----


def tokenizer(model: Arguments) -> Iterator[Entry]:
    """The state dict of a VQ tokenizer, its list of recent codes included."""
    widths = [model["ch"] * factor for factor in model["ch_mult"]]
    z, size = model["z_channels"], model["codebook_size"]
    code = model["codebook_embed_dim"]
    blocks = model["num_res_blocks"]
    yield from _half("encoder", [model["ch"], *widths], (3, z), blocks, "downsample")
    back = [widths[-1], *reversed(widths)]
    yield from _half("decoder", back, (z, 3), blocks + 1, "upsample")
    yield Entry("quantize.embedding.weight", (size, code), 1.0)
    yield Entry("quantize.codebook_used", (65536,))
    yield from conv("quant_conv", code, z, 1)
    yield from conv("post_quant_conv", z, code, 1)


def _half(
    name: str, widths: list[int], ends: tuple[int, int], blocks: int, move: str
) -> Iterator[Entry]:
    """Encoder or decoder: `widths[0]` enters the first level."""
    first, last = ends
    yield from conv(f"{name}.conv_in", widths[0], first)
    levels = list(pairwise(widths))
    low = 0 if move == "upsample" else len(levels) - 1  # the level with attention
    lowest = widths[0] if move == "upsample" else widths[-1]
    for level, (before, after) in enumerate(levels):
        path = f"{name}.conv_blocks.{level}"
        for block in range(blocks):
            entering = after if block else before
            yield from _vq_block(f"{path}.res.{block}", entering, after)
        for block in range(blocks if level == low else 0):
            yield from _vq_attention(f"{path}.attn.{block}", after)
        if level < len(levels) - 1:
            yield from conv(f"{path}.{move}.conv", after, after)
    yield from _vq_block(f"{name}.mid.0", lowest, lowest)
    yield from _vq_attention(f"{name}.mid.1", lowest)
    yield from _vq_block(f"{name}.mid.2", lowest, lowest)
    yield from norm(f"{name}.norm_out", widths[-1])
    yield from conv(f"{name}.conv_out", last, widths[-1])


def _vq_block(name: str, before: int, after: int) -> Iterator[Entry]:
    yield from norm(f"{name}.norm1", before)
    yield from conv(f"{name}.conv1", after, before)
    yield from norm(f"{name}.norm2", after)
    yield from conv(f"{name}.conv2", after, after)
    if before != after:
        yield from conv(f"{name}.nin_shortcut", after, before, 1)


def _vq_attention(name: str, channels: int) -> Iterator[Entry]:
    yield from norm(f"{name}.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.{part}", channels, channels, 1)


# ---- RectifiedFlow's NCSN++ and DDPM++ ----

Layer = Callable[[str], Iterator[Entry]]
"""Tensors of one entry of `all_modules`, by its name."""


def flow(model: Arguments) -> Iterator[Entry]:
    """The raw weights of a network with one head: the table of σ, then its modules."""
    yield Entry("sigmas", (model.get("num_scales", 1000),), kind="sigmas")
    for number, layer in enumerate(_flow_layers(model)):
        yield from layer(f"all_modules.{number}")


def _flow_layers(model: Arguments) -> Iterator[Layer]:
    nf, fourier = model["nf"], model.get("embedding_type") == "fourier"
    if fourier:
        yield lambda name: iter([Entry(f"{name}.W", (nf,), _FOURIER)])
    embedded = 2 * nf if fourier else nf
    yield lambda name: linear(name, 4 * nf, embedded)
    yield lambda name: linear(name, 4 * nf, 4 * nf)
    yield lambda name: conv(name, nf, 3)
    skips, channels = [nf], nf
    for level, factor in enumerate(model["ch_mult"]):
        for _ in range(model["num_res_blocks"]):
            yield _block(channels, nf * factor, 4 * nf)
            channels = nf * factor
            if _attends(model, level):
                yield _attention(channels)
            skips.append(channels)
        if level < len(model["ch_mult"]) - 1:
            yield _block(channels, channels, 4 * nf, moves=True)
            if model.get("progressive_input") == "input_skip":
                yield _named(conv, "Conv_0", channels, 3, 1)
            skips.append(channels)
    yield _block(channels, channels, 4 * nf)
    yield _attention(channels)
    yield _block(channels, channels, 4 * nf)
    yield from _flow_up(model, channels, skips)


def _flow_up(model: Arguments, channels: int, skips: list[int]) -> Iterator[Layer]:
    nf, grows = model["nf"], model.get("progressive") == "output_skip"
    for level, factor in reversed(list(enumerate(model["ch_mult"]))):
        for _ in range(model["num_res_blocks"] + 1):
            yield _block(channels + skips.pop(), nf * factor, 4 * nf)
            channels = nf * factor
        if _attends(model, level):
            yield _attention(channels)
        if grows:
            yield _norm_of(channels)
            yield _image_of(channels)
        if level:
            yield _block(channels, channels, 4 * nf, moves=True)
    if not grows:
        yield _norm_of(channels)
        yield _image_of(channels)


def _attends(model: Arguments, level: int) -> bool:
    return model["img_size"] >> level in model["attn_resolutions"]


def _named(part: Callable[..., Iterator[Entry]], own: str, *sizes: int) -> Layer:
    return lambda name: part(f"{name}.{own}", *sizes)


def _norm_of(channels: int) -> Layer:
    return lambda name: norm(name, channels)


def _image_of(channels: int) -> Layer:
    return lambda name: conv(name, 3, channels)


def _block(before: int, after: int, embedding: int, moves: bool = False) -> Layer:
    def entries(name: str) -> Iterator[Entry]:
        yield from norm(f"{name}.GroupNorm_0", before)
        yield from conv(f"{name}.Conv_0", after, before)
        yield from linear(f"{name}.Dense_0", after, embedding)
        yield from norm(f"{name}.GroupNorm_1", after)
        yield from conv(f"{name}.Conv_1", after, after)
        if before != after or moves:
            yield from conv(f"{name}.Conv_2", after, before, 1)

    return entries


def _attention(channels: int) -> Layer:
    def entries(name: str) -> Iterator[Entry]:
        yield from norm(f"{name}.GroupNorm_0", channels)
        for number in range(4):
            std = 1 / math.sqrt(channels)
            yield Entry(f"{name}.NIN_{number}.W", (channels, channels), std)
            yield Entry(f"{name}.NIN_{number}.b", (channels,), _BIAS)

    return entries
