"""PAR's transformer and the VQ tokenizer: parameters, memory and work."""

from __future__ import annotations

from collections.abc import Iterator

from fewstep.estimate import convolutions as conv
from fewstep.estimate.convolutions import Part
from fewstep.estimate.work import BYTES, Settings, Work
from fewstep.par.schedule import Schedule
from fewstep.par.sizes import SIZES, swiglu_width
from fewstep.par.sizes import parameters as transformer_parameters

DECODED = 32
"""Images that are decoded at once (`par.sampler._DECODED`)."""
_KERNELS = 45  # launches of a block: norms and rotations are many small ones
_CHOICE = 20  # bytes a logit while tokens are drawn: one float32 and two doubles


def named(model: Settings) -> Settings:
    """A model with the numbers of its size, where it is given by name."""
    size = model.get("size")
    return {**model, **SIZES[size]} if size else model


def parameters(model: Settings) -> int:
    """Trained numbers of a `Transformer`."""
    return transformer_parameters({"multiple_of": 256, **named(model)})


# ---- the tokenizer ----


def tokenizer_parts(model: Settings) -> tuple[list[Part], list[Part]]:
    """Encoder and decoder of one image of a pixel a side and downsampling."""
    return tokenizer_parts_at(model, 2 ** (len(model["ch_mult"]) - 1))


def tokenizer_parts_at(model: Settings, side: int) -> tuple[list[Part], list[Part]]:
    """Encoder and decoder, for images of so many pixels a side."""
    return list(_encoder(model, side)), list(_decoder(model, side))


def tokenizer_parameters(model: Settings) -> int:
    """Trained numbers of a `VQModel`."""
    encoder, decoder = tokenizer_parts(model)
    codebook = int(model["codebook_size"] * model["codebook_embed_dim"])
    return conv.parameters(encoder) + conv.parameters(decoder) + codebook


def _res(before: int, after: int, side: int) -> Part:
    return conv.residual(before, after, side, side, shortcut=before != after)


def _middle(channels: int, side: int) -> Iterator[Part]:
    yield _res(channels, channels, side)
    yield conv.attention(channels, side)
    yield _res(channels, channels, side)


def _encoder(model: Settings, side: int) -> Iterator[Part]:
    widths = [model["ch"] * factor for factor in model["ch_mult"]]
    yield conv.convolution(3, model["ch"], side)
    before = model["ch"]
    for level, width in enumerate(widths):
        for _ in range(model["num_res_blocks"]):
            yield _res(before, width, side)
            before = width
            if level == len(widths) - 1:
                yield conv.attention(width, side)
        if level < len(widths) - 1:
            # The input, padded by a zero, stands beside it.
            yield conv.convolution(
                width, width, side // 2, held=2 * width * (side**2 - (side // 2) ** 2)
            )
            side //= 2
    yield from _middle(before, side)
    yield from _ends(before, model["z_channels"], side)
    yield conv.convolution(model["z_channels"], model["codebook_embed_dim"], side, 1)


def _ends(channels: int, out: int, side: int) -> Iterator[Part]:
    """Norm, SiLU, convolution at the end."""
    yield Part(2 * channels, 0, 3 * channels * side**2, 0, 2 * channels * side**2)
    yield conv.convolution(channels, out, side)


def _decoder(model: Settings, side: int) -> Iterator[Part]:
    widths = [model["ch"] * factor for factor in reversed(model["ch_mult"])]
    side >>= len(widths) - 1
    yield conv.convolution(model["codebook_embed_dim"], model["z_channels"], side, 1)
    yield conv.convolution(model["z_channels"], widths[0], side)
    yield from _middle(widths[0], side)
    before = widths[0]
    for level, width in enumerate(widths):
        for _ in range(model["num_res_blocks"] + 1):
            yield _res(before, width, side)
            before = width
            if level == 0:
                yield conv.attention(width, side)
        if level < len(widths) - 1:
            side *= 2
            small = width * (side // 2) ** 2
            yield conv.convolution(width, width, side, held=small)
    yield from _ends(before, 3, side)


def tokenizer_memory(model: Settings, side: int, images: int, part: str) -> int:
    """Device bytes while so many images are encoded or decoded (part), weights too."""
    encoder, decoder = tokenizer_parts_at(model, side)
    chosen = encoder if part == "encode" else decoder
    return 4 * (tokenizer_parameters(model) + images * conv.peak(chosen))


def tokenizer_work(model: Settings, side: int, images: int, part: str) -> Work:
    """One evaluation of encoder or decoder, in float32."""
    encoder, decoder = tokenizer_parts_at(model, side)
    return conv.work(encoder if part == "encode" else decoder, images, "fp32")


# ---- the transformer ----


def _pixels(model: Settings, tokenizer: Settings) -> int:
    return int(model["grid"] * 2 ** (len(tokenizer["ch_mult"]) - 1))


def _rows(settings: Settings, batch: int) -> int:
    scale = settings.get("draw", {}).get("cfg_scale", 1.0)
    return batch * (2 if scale > 1 else 1)


def cache_memory(model: Settings, rows: int, precision: str) -> int:
    """Bytes of all layers' keys and values."""
    m = named(model)
    a_row = 2 * m["n_layer"] * m["grid"] ** 2 * m["dim"]
    return int(rows * a_row * BYTES[precision])


def sampling_memory(
    model: Settings, settings: Settings, batch: int, precision: str
) -> int:
    """Device bytes while a batch is drawn and decoded.

    Args:
        model: resolved `ParModelSpec`.
        settings: `draw` (cfg_scale) and `tokenizer` (`model`).
        batch: images.
        precision: "fp32" or "bf16", of the transformer; the tokenizer is float32.
    """
    m, width, rows = named(model), BYTES[precision], _rows(settings, batch)
    tokenizer = settings["tokenizer"]["model"]
    side, group = _pixels(m, tokenizer), m.get("ar_token_num", 1)
    hidden = swiglu_width(m["dim"], m.get("multiple_of", 256))
    step = rows * group * (8 * m["dim"] + 3 * hidden) * width
    step += batch * group * m["vocab_size"] * _CHOICE
    images = 4 * 3 * side**2 * batch
    decode = 4 * min(batch, DECODED) * conv.peak(tokenizer_parts_at(tokenizer, side)[1])
    weights = width * parameters(m) + 4 * tokenizer_parameters(tokenizer)
    kept = weights + cache_memory(m, rows, precision)
    return int(kept + max(step, 2 * images + decode))


def sampling_work(
    model: Settings, settings: Settings, batch: int, precision: str
) -> list[Work]:
    """Work of one batch: every pass, then the tokenizer's decoder."""
    m, width, rows = named(model), BYTES[precision], _rows(settings, batch)
    tokens, dim, layers = m["grid"] ** 2, m["dim"], m["n_layer"]
    schedule = Schedule(m["grid"], m.get("ar_token_num", 1))
    head = m["vocab_size"] * dim
    body = parameters(m) - 2 * head
    dense = 2 * tokens * (rows * body + batch * head)
    attention = 4 * rows * dim * layers * tokens**2 / 2
    seen = 2 * layers * rows * dim * width * tokens / 2
    moved = schedule.steps * ((body + head) * width + seen)
    choice = batch * tokens * m["vocab_size"] * _CHOICE * 2
    kernels = schedule.steps * (_KERNELS * layers + 40)
    tokenizer = settings["tokenizer"]["model"]
    decode = tokenizer_work(tokenizer, _pixels(m, tokenizer), batch, "decode")
    passes = Work(dense + attention, moved, kernels, precision)
    return [passes, Work(0, choice), decode]


def backward_memory(
    model: Settings, images: int, precision: str, recompute: bool = False
) -> int:
    """Bytes that a forward pass keeps for its backward pass.

    Norms, projections and SwiGLU keep their inputs; float32 are the norms' alone.
    """
    m, width = named(model), BYTES[precision]
    hidden = swiglu_width(m["dim"], m.get("multiple_of", 256))
    tokens = m["grid"] ** 2
    # Norm's input and its float32 copies, query, key, value twice (rotated), mixed.
    layer = tokens * (m["dim"] * (24 + 10 * width) + 4 * hidden * width)
    kept = m["n_layer"] * layer
    if recompute:
        kept = m["n_layer"] * tokens * m["dim"] * 4 + layer
    logits = tokens * m["vocab_size"] * (width + 12)
    return int(images * (kept + logits))


def training_work(
    model: Settings, images: int, precision: str, recompute: bool = False
) -> list[Work]:
    """Forwards, once more where activations are forgotten, and twice backwards."""
    m = named(model)
    tokens = m["grid"] ** 2
    used = parameters(m) - m["vocab_size"] * m["dim"]
    forward = 2 * used * tokens + 4 * m["dim"] * m["n_layer"] * tokens**2
    flops = images * forward * (4 if recompute else 3)
    return [Work(float(flops), precision=precision)]


def tokenizer_training_work(
    model: Settings, side: int, images: int, precision: str
) -> list[Work]:
    """Encoder and decoder, forwards and backwards."""
    encoder, decoder = tokenizer_parts_at(model, side)
    return [conv.work([*encoder, *decoder], images, precision) * 3]


def tokenizer_backward_memory(model: Settings, side: int, images: int) -> int:
    """Bytes that a forward pass of encoder and decoder keeps for its backward pass."""
    encoder, decoder = tokenizer_parts_at(model, side)
    return images * 4 * conv.saved([*encoder, *decoder])
