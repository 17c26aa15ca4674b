"""NCSN++ and DDPM++ (`fewstep.seqrf.model`): parameters, memory and work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fewstep.estimate import convolutions as conv
from fewstep.estimate.convolutions import Part
from fewstep.estimate.work import Settings, Work

_STATES = {"rk45": 16}  # images that a solver holds: slopes, stages, straightness
_FEW_STATES = 7


def parameters(model: Settings, segments: int = 1) -> int:
    """Trained numbers of a network with one time head a segment."""
    return conv.parameters(parts(model, segments))


def parts(model: Settings, segments: int = 1) -> list[Part]:
    """All layers, in their order."""
    return list(_Walk(model).run(segments))


class _Walk:
    """Goes through the network as its constructor does."""

    def __init__(self, model: Settings) -> None:
        self.model, self.nf = model, model["nf"]
        self.sides = [model["img_size"] >> i for i in range(len(model["ch_mult"]))]
        self.skips: list[int] = []  # values of each, and its channels beside it
        self.widths: list[int] = []
        self.colours = model.get("num_channels", 3)

    def run(self, segments: int) -> Iterator[Part]:
        wide = 4 * self.nf
        fourier = self.model.get("embedding_type") == "fourier"
        first = (2 if fourier else 1) * self.nf
        yield Part(segments * (wide * (first + 1) + wide * (wide + 1)), 0, 0)
        yield conv.convolution(self.colours, self.nf, self.sides[0])
        self._keep(self.nf, self.sides[0])
        yield from self._down()
        channels, side = self.widths[-1], self.sides[-1]
        yield self._block(channels, channels, side)
        yield conv.attention(channels, side, held=self._held())
        yield self._block(channels, channels, side)
        yield from self._up(channels)
        if self.model.get("progressive", "none") == "none":
            yield conv.to_image(self.nf * self.model["ch_mult"][0], self.sides[0])

    def _down(self) -> Iterator[Part]:
        channels, pyramid = self.nf, self.colours
        how = self.model.get("progressive_input", "none")
        for level, factor in enumerate(self.model["ch_mult"]):
            side = self.sides[level]
            for _ in range(self.model["num_res_blocks"]):
                yield self._block(channels, self.nf * factor, side)
                channels = self.nf * factor
                if self._attends(side):
                    yield conv.attention(channels, side, held=self._held())
                self._keep(channels, side)
            if level == len(self.sides) - 1:
                return
            yield self._block(channels, channels, side, side // 2)
            if how == "input_skip":
                small = conv.convolution(pyramid, channels, side // 2, 1)
                yield replace(small, held=self._held())
            elif how == "residual":
                yield conv.convolution(pyramid, channels, side // 2, held=self._held())
                pyramid = channels
            self._keep(channels, side // 2)

    def _up(self, channels: int) -> Iterator[Part]:
        summed = self.model.get("progressive") == "output_skip"
        for level, factor in reversed(list(enumerate(self.model["ch_mult"]))):
            side, out = self.sides[level], self.nf * factor
            for _ in range(self.model["num_res_blocks"] + 1):
                self.skips.pop()
                joined = channels + self.widths.pop()
                # What was joined to the skip stays until the block is done.
                yield self._block(joined, out, side, extra=channels * side**2)
                channels = out
            if self._attends(side):
                yield conv.attention(channels, side, held=self._held())
            if summed:
                yield conv.to_image(channels, side, held=self._held())
            if level > 0:
                yield self._block(channels, channels, side, 2 * side)

    def _block(
        self, channels: int, out: int, side: int, after: int = 0, extra: int = 0
    ) -> Part:
        return conv.residual(
            channels,
            out,
            side,
            after or side,
            embedding=4 * self.nf,
            shortcut=channels != out or bool(after),
            filtered=bool(self.model.get("fir")),
            held=self._held() + extra,
            dropout=self.model.get("dropout", 0) > 0,
        )

    def _attends(self, side: int) -> bool:
        return side in self.model["attn_resolutions"]

    def _keep(self, channels: int, side: int) -> None:
        self.skips.append(channels * side**2)
        self.widths.append(channels)

    def _held(self) -> int:
        return sum(self.skips)


def _image(model: Settings) -> int:
    """Numbers of an image."""
    return int(model.get("num_channels", 3) * model["img_size"] ** 2)


def sampling_memory(
    model: Settings, settings: Settings, batch: int, precision: str
) -> int:
    """Device bytes while a batch is drawn.

    Args:
        model: resolved `FlowModelSpec`.
        settings: `segments` and `solver`.
        batch: images.
        precision: "fp32" or "bf16".
    """
    layers = parts(model, settings.get("segments", 1))
    copies = 4 if precision == "fp32" else 6
    weights = copies * conv.parameters(layers)
    states = _STATES.get(settings.get("solver", "rk45"), _FEW_STATES)
    # Under autocast the norms compute, and leave, float32.
    a_value = 4 if precision == "fp32" else 3
    a_sample = a_value * conv.peak(layers) + 4 * states * _image(model)
    return weights + batch * a_sample


def calls(settings: Settings) -> float:
    """Network calls for a batch.

    Those of RK45 depend on the flow. Assumed: 20 accepted steps of six calls at a
    tolerance of 1e-5, fewer by its root of order seven, and at least two a segment.
    """
    steps = settings.get("steps")
    if steps is not None:
        return float(steps * (1 if settings.get("solver") == "euler" else 2))
    tol, segments = settings.get("tol") or 1e-5, settings.get("segments", 1)
    wanted = 20 * (1e-5 / tol) ** (1 / 7)
    return float(2 + 6 * max(2 * segments, wanted))


def sampling_work(
    model: Settings, settings: Settings, batch: int, precision: str
) -> list[Work]:
    """Work of one batch; settings as the sampler has them (solver, steps, tol)."""
    layers = parts(model, settings.get("segments", 1))
    once = conv.work(layers, batch, precision)
    return [once * calls(settings)]


def backward_memory(model: Settings, images: int, precision: str) -> int:
    """Bytes that a forward pass keeps for its backward pass."""
    layers = parts(model)
    a_value = 4 if precision == "fp32" else 3
    return images * a_value * (conv.saved(layers) + max(p.live for p in layers))


def training_work(model: Settings, images: int, precision: str) -> list[Work]:
    """Forwards, and twice that backwards."""
    return [conv.work(parts(model), images, precision) * 3]
