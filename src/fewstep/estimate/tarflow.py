"""TarFlow (`fewstep.tarflow`): parameters, memory and work, by arithmetic alone.

K layers of width D over T tokens of width C a block. Bytes a token are those of the
tensors that are alive at once in `fewstep.tarflow.model`, counted line by line.
"""

from __future__ import annotations

from dataclasses import dataclass

from fewstep.estimate.work import BYTES, Settings, Work

DENOISED = 8
"""Images of one backward pass of self-denoising (`tarflow.sampler._CHUNK`)."""
_KERNELS = {"fp32": 18, "bf16": 30}  # launches of a layer, those of casts among them
_READ = {"fp32": 4, "bf16": 2}  # bytes moved for a weight
_LIVE = {"fp32": 44, "bf16": 26}  # bytes a token, row and D while a layer computes
_SAVED = {"fp32": 68, "bf16": 40}  # bytes that a layer keeps for the backward pass
_LATENT = 40  # bytes a token, row and C around a block
_LATENT_SAVED = 60  # the same with a backward pass to come


@dataclass(frozen=True)
class Shape:
    """The numbers that everything follows from."""

    blocks: int
    layers: int
    width: int
    tokens: int
    token: int
    classes: int

    @classmethod
    def of(cls, model: Settings) -> Shape:
        """Of a resolved `TarFlowModelSpec`."""
        patch = model["patch_size"]
        return cls(
            model["num_blocks"],
            model["layers_per_block"],
            model["channels"],
            (model["img_size"] // patch) ** 2,
            model.get("in_channels", 3) * patch**2,
            model["num_classes"],
        )

    @property
    def matrices(self) -> int:
        """Weights of a block's layers, which every token is multiplied with."""
        return 12 * self.layers * self.width**2


def parameters(model: Settings) -> int:
    """Trained numbers of a `TarFlow`."""
    s = Shape.of(model)
    ends = s.token * s.width + s.width + 2 * s.token * s.width + 2 * s.token
    table = (s.tokens + s.classes) * s.width
    return s.blocks * (s.matrices + 13 * s.layers * s.width + ends + table)


def guided(model: Settings, sampling: Settings) -> bool:
    """Whether every network call has conditional and unconditional rows."""
    differs = model["num_classes"] > 0 or sampling.get("attn_temp", 1.0) != 1
    return bool(sampling.get("guidance", 0) > 0 and differs)


def weights_memory(model: Settings) -> int:
    """Bytes of the model on its device, float32."""
    s = Shape.of(model)
    buffers = s.blocks * s.tokens**2 + s.tokens * s.token
    return 4 * (parameters(model) + buffers)


def sampling_memory(
    model: Settings, settings: Settings, batch: int, precision: str
) -> int:
    """Device bytes while a batch is drawn and denoised.

    Args:
        model: resolved `TarFlowModelSpec`.
        settings: `sampling` (guidance, attn_temp, self_denoise), and where it is known
            `strategy`, that of plan.json; unknown: the largest that a plan may need.
        batch: images.
        precision: "fp32" or "bf16".
    """
    s, sampling = Shape.of(model), settings["sampling"]
    rows = batch * (2 if guided(model, sampling) else 1)
    images = 4 * batch * s.tokens * s.token
    kept = images * 2 * (s.blocks + 2)
    inverting = kept + max(
        _block_memory(s, rows, segments, precision)
        for segments, _ in _plans(s, settings)
    )
    denoising = 0
    if sampling.get("self_denoise"):
        denoising = 6 * images + backward_memory(model, min(batch, DENOISED), precision)
        # With gradients autocast keeps its copies of all weights.
        denoising += 0 if precision == "fp32" else 2 * parameters(model)
    return weights_memory(model) + max(inverting, denoising)


def backward_memory(model: Settings, images: int, precision: str) -> int:
    """Bytes that a forward pass keeps for its backward pass, for so many images."""
    s = Shape.of(model)
    layer = s.tokens * (_SAVED[precision] * s.width)
    block = s.layers * layer + s.tokens * (_LATENT_SAVED * s.token + 12 * s.width)
    return images * (s.blocks * block + s.tokens * _LIVE[precision] * s.width)


def _block_memory(s: Shape, rows: int, segments: int, precision: str) -> int:
    """Bytes while one block is inverted; segments -1: any plan."""
    cache = 2 * s.layers * rows * s.tokens * s.width * BYTES[precision]
    # Weights of one block at a time in half precision.
    cast = 0 if precision == "fp32" else 2 * s.matrices
    a_token = _LIVE[precision] * s.width + _LATENT * s.token
    if segments == 0:
        return cache + cast + rows * (a_token + 8 * s.tokens * s.token)
    # A segment's first iteration renews the one before it as well.
    wide = s.tokens if segments <= 2 else -(-2 * s.tokens // segments)
    return (0 if segments == 1 else cache) + cast + rows * wide * a_token


def _plans(s: Shape, settings: Settings) -> list[tuple[int, int]]:
    """Segments and most iterations of every block; behind a front: of any plan."""
    strategy = settings.get("strategy")
    if strategy is None:
        return [(-1, 1)] * s.blocks
    return [
        (-1 if one.get("front") else one["segments"], one["max_jacobi"])
        for one in strategy["blocks"]
    ]


# ---- work ----


def sampling_work(
    model: Settings, settings: Settings, batch: int, precision: str
) -> list[Work]:
    """Work of one batch; settings as in `sampling_memory`, no strategy: For."""
    s, sampling = Shape.of(model), settings["sampling"]
    rows = batch * (2 if guided(model, sampling) else 1)
    found = []
    for segments, iterations in _plans(s, settings):
        if segments <= 0 or segments >= s.tokens:
            found += _sequential(s, rows, precision)
        else:
            size = -(-s.tokens // segments)
            passes = segments * min(iterations, size)
            found.append(_window(s, rows, size, precision) * passes)
    if sampling.get("self_denoise"):
        # A forward pass, and a backward pass that stops at the images.
        found.append(forward_work(model, batch, precision) * 2)
    return found


def forward_work(model: Settings, batch: int, precision: str) -> Work:
    """Images to noise: one pass through all blocks."""
    s = Shape.of(model)
    return _window(s, batch, s.tokens, precision) * s.blocks


def training_work(model: Settings, images: int, precision: str) -> list[Work]:
    """Forwards, and twice that backwards."""
    return [forward_work(model, images, precision) * 3]


def _window(s: Shape, rows: int, tokens: int, precision: str) -> Work:
    """One evaluation of a window; what it looks back on is half a sequence."""
    width = BYTES[precision]
    dense = 2 * rows * tokens * (s.matrices + 3 * s.token * s.width)
    reach = s.tokens if tokens == s.tokens else s.tokens / 2
    attention = 4 * rows * tokens * reach * s.width * s.layers
    moved = (
        s.matrices * _READ[precision] + 2 * s.layers * rows * reach * s.width * width
    )
    moved += rows * tokens * s.width * s.layers * _LIVE[precision]
    kernels = _KERNELS[precision] * s.layers
    return Work(dense + attention, moved, kernels, precision)


def _sequential(s: Shape, rows: int, precision: str) -> list[Work]:
    """For: a token a step."""
    return [_window(s, rows, 1, precision) * (s.tokens - 1)]
