"""A transformer and its tokenizer as a sampler of the spine, and the sampler's plan."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from fewstep import checkpoints, files
from fewstep.errors import UserError
from fewstep.par import sampler as module
from fewstep.par.decoding import Guidance
from fewstep.par.generation import DrawOptions, generate, uniforms
from fewstep.par.order import to_raster
from fewstep.par.sampler import ParSampler, halve, load_sampler
from fewstep.par.tokenizer import VQModel
from fewstep.samples import draw_samples, read_images
from fewstep.sampling import SampleOptions, complete
from fewstep.stages import token_plan
from tests.par import tiny
from tests.par.random_models import SIZES, labels, transformer

GPT: dict[str, Any] = {**SIZES, "vocab_size": 32, "grid": 4, "ar_token_num": 4}
DRAW: dict[str, Any] = {
    "cfg_scale": 1.5,
    "guidance_shape": "constant",
    "guidance_power": 1.0,
    "guidance_first": 0.0,
    "guidance_last": 1.0,
    "cfg_interval": -1,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
}


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")


def raster(sampler: ParSampler, inputs: tuple[Tensor, Tensor]) -> Tensor:
    """Codes (B, g, g) that a sampler draws."""
    return to_raster(sampler.tokens(*inputs).tokens, sampler.gpt.schedule)


def vq_model() -> VQModel:
    """Codes (4, 4) of 8 x 8 images, 32 entries, images from about -1 to 1."""
    return tiny.model().eval()


def made(scale: float = 1.5, **options: Any) -> ParSampler:
    """A sampler of random models."""
    gpt = transformer(4, 4, vocab_size=32)
    return ParSampler(gpt, vq_model(), Guidance(scale), DrawOptions(**options))


def classes(*numbers: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels as the spine gives them."""
    return np.array(numbers, dtype=np.int64)


# ---- what a sample depends on ----


def test_a_sample_is_decided_by_seed_and_number() -> None:
    """Alone, in a batch or in another order sample i is the same image."""
    one, y = made(), classes(0, 1, 2, 0, 1)
    whole = complete(one, 5, [0, 1, 2, 3, 4], y).images
    for part in ([3], [4, 0], [2, 1, 3]):
        found = complete(one, 5, part, y[part]).images
        torch.testing.assert_close(found, whole[part], atol=1e-5, rtol=0)
    other = complete(one, 6, [0, 1, 2, 3, 4], y).images
    redrawn = complete(one, 5, [0, 1, 2, 3, 4], y, attempt=1).images
    for images in (other, redrawn):
        assert float((images - whole).abs().amax((1, 2, 3)).min()) > 1e-3


def test_shards_and_batches_leave_the_images_alone(tmp_path: Path) -> None:
    """Shards of any size, drawn in batches of any size, hold the same images."""
    found = []
    for batch, shard in ((7, 7), (2, 3), (1, 5)):
        path = tmp_path / f"{batch}" / "samples.json"
        options = SampleOptions(
            *(5, 0, 7, batch, shard, 3), labels="iid", rounding="half_up", resize=6
        )
        manifest = draw_samples(made(), options, path, key="k" * 12)
        found.append(np.concatenate([np.array(part) for part in read_images(path)]))
        assert [record["steps"] for record in manifest.shards] == pytest.approx(
            [7] * len(manifest.shards)
        )
        assert all(record["nan_events"] == 0 for record in manifest.shards)
    assert found[0].shape == (7, 3, 6, 6)
    assert len(np.unique(found[0].reshape(7, -1), axis=0)) == 7
    for other in found[1:]:
        # Bytes: a rounding error may tip a value over to the next level.
        assert np.abs(other.astype(int) - found[0]).max() <= 1
        assert np.mean(other != found[0]) < 0.01


def test_inputs_are_the_sample_s_stream_and_label() -> None:
    """Uniforms (B, N); without labels the model's row for no class."""
    one = made()
    numbers, y = one.inputs(7, [3, 5], classes(2, 0))
    assert torch.equal(numbers, uniforms(7, [3, 5], 16))
    assert y.tolist() == [2, 0]
    assert one.inputs(7, [3, 5], None)[1].tolist() == [3, 3]
    for change in ({"attempt": 1}, {"purpose": "timing"}):
        assert not (one.inputs(7, [3, 5], None, **change)[0] == numbers).any()


# ---- what a draw is ----


def test_a_draw_is_generation_and_decoding() -> None:
    """With guidance and filters; finished as it is."""
    one = made(2.0, temperature=0.8, top_k=9, top_p=0.9)
    inputs = one.inputs(3, [0, 1], classes(0, 1))
    codes = generate(
        one.gpt,
        labels(),
        cfg_scale=2.0,
        temperature=0.8,
        top_k=9,
        top_p=0.9,
        seed=3,
    )
    assert torch.equal(raster(one, inputs), codes)
    draw = one.draw(inputs)
    with torch.no_grad():
        assert torch.equal(draw.images, one.vq.decode(codes))
    assert torch.equal(one.finish(draw.images, inputs), draw.images)
    assert not draw.images.requires_grad
    assert one.device == torch.device("cpu")


@pytest.mark.parametrize(("group", "steps"), [(1, 16), (4, 7)])
def test_steps_are_the_calls_of_the_network(group: int, steps: int) -> None:
    """Counted, and as the draw says."""
    gpt, calls = transformer(4, group, vocab_size=32), []
    gpt.norm.register_forward_hook(lambda *_: calls.append(1))
    one = ParSampler(gpt, vq_model(), Guidance(1.5))
    draw = one.draw(one.inputs(0, [0, 1], None))
    assert len(calls) == draw.steps == steps


def test_images_are_decoded_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fits as tokens may be too much as images."""
    one = made()
    inputs = one.inputs(0, list(range(5)), None)
    whole = one.draw(inputs).images
    sizes, real = [], one.vq.decode

    def decode(codes: Tensor) -> Tensor:
        sizes.append(len(codes))
        return real(codes)

    monkeypatch.setattr(module, "_DECODED", 2)
    monkeypatch.setattr(one.vq, "decode", decode)
    torch.testing.assert_close(one.draw(inputs).images, whole, atol=1e-5, rtol=0)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(("scale", "each"), [(1.0, 1), (1.5, 2)])
def test_the_cache_is_kept_and_grows(scale: float, each: int) -> None:
    """One for all batches; a larger batch gets a larger one; images stay the same."""
    one, found = made(scale), []
    for batch, rows in ((2, 2), (1, 2), (2, 2), (4, 4), (3, 4)):
        before = one._cache
        inputs = one.inputs(0, list(range(batch)), None)
        found.append(raster(one, inputs))
        assert one._cache is not None
        assert one._cache.rows == each * rows
        assert (one._cache is before) == (len(found) not in (1, 4))
    for codes in found:
        assert torch.equal(codes, found[3][: len(codes)])


def test_a_batch_that_does_not_fit_leaves_no_cache() -> None:
    """The halved one shall not pay for it."""
    one = made()
    whole = raster(one, one.inputs(0, [0, 1], None))

    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError

    for owner, name in ((one.gpt, "step"), (one.vq, "decode")):
        real = getattr(owner, name)
        setattr(owner, name, full)
        with pytest.raises(torch.OutOfMemoryError):
            one.draw(one.inputs(0, [0, 1], None))
        assert one._cache is None
        setattr(owner, name, real)
    assert torch.equal(raster(one, one.inputs(0, [0], None)), whole[:1])


# ---- precision ----


def test_halving_leaves_the_rotary_table() -> None:
    """Weights in bfloat16, angles in float32, masks as they are."""
    gpt = transformer(4, 4)
    table = gpt.rotary.clone()
    assert halve(gpt) is gpt
    assert {weight.dtype for weight in gpt.parameters()} == {torch.bfloat16}
    assert gpt.rotary.dtype == torch.float32
    assert torch.equal(gpt.rotary, table)
    assert gpt.mask.dtype == torch.bool


@torch.no_grad()
def test_half_precision_is_near_the_exact_logits() -> None:
    """Through caches and guidance, at every pass; what is chosen from is float32."""
    exact, half = made(), made()
    halve(half.gpt)
    inputs = exact.inputs(0, list(range(8)), None)
    codes = raster(half, inputs)
    assert half._cache is not None
    assert half._cache.layers[0].store.dtype == torch.bfloat16
    wanted, found = (one.gpt(codes, inputs[1]).logits for one in (exact, half))
    assert found.dtype == torch.float32
    error = (found - wanted).square().mean().sqrt() / wanted.std()
    assert 0 < float(error) < 0.05
    assert float((codes == raster(exact, inputs)).float().mean()) > 0.3


# ---- from disk ----


def written(
    folder: Path, grid: int = 4, n_layer: int = 2, **sampling: Any
) -> tuple[dict[str, Any], Path, Path]:
    """Spec, checkpoint and plan of the random models."""
    gpt, vq = transformer(grid, 4, vocab_size=32, n_layer=n_layer), vq_model()
    checkpoint, tokenizer = folder / "model.safetensors", folder / "vq.safetensors"
    checkpoints.write_state_dict(checkpoint, gpt.state_dict(), {"name": "tried"})
    checkpoints.write_state_dict(tokenizer, vq.state_dict(), {"name": "tiny"})
    spec = {
        "model": {**GPT, "grid": grid, "n_layer": n_layer},
        "draw": DRAW,
        "sampling": {"precision": "fp32", "compile": False, **sampling},
        "tokenizer": {"model": tiny.MODEL, "path": str(tokenizer)},
    }
    plan = folder / "plan.json"
    token_plan.write({"grid": grid, "group": 4, "draw": DRAW}, tokenizer, plan)
    return spec, checkpoint, plan


def test_a_saved_sampler_draws_as_the_one_that_was_saved(tmp_path: Path) -> None:
    """Weights and draw come from the files and the spec."""
    spec, checkpoint, plan = written(tmp_path)
    for found in (
        load_sampler(spec, checkpoint, plan),
        load_sampler(spec, checkpoint, None),
    ):
        assert not found.gpt.training
        assert not found.vq.training
        y = classes(0, 1)
        images = complete(found, 1, [0, 1], y).images
        assert torch.equal(images, complete(made(), 1, [0, 1], y).images)


def test_the_draw_is_the_spec_s(tmp_path: Path) -> None:
    """Every one of its keys."""
    spec, checkpoint, plan = written(tmp_path)
    spec["draw"] = {
        "cfg_scale": 3.0,
        "guidance_shape": "cosine",
        "guidance_power": 2.0,
        "guidance_first": 0.25,
        "guidance_last": 0.75,
        "cfg_interval": 9,
        "temperature": 0.9,
        "top_k": 7,
        "top_p": 0.8,
    }
    found = load_sampler(spec, checkpoint, plan)
    assert found.guidance == Guidance(3.0, "cosine", 2.0, 0.25, 0.75, 9)
    assert found.options == DrawOptions(0.9, 7, 0.8)


def test_bf16_is_the_transformer_s_alone(tmp_path: Path) -> None:
    """The table stays in float32, the tokenizer too; images come out."""
    spec, checkpoint, plan = written(tmp_path, precision="bf16")
    found = load_sampler(spec, checkpoint, plan)
    assert {weight.dtype for weight in found.gpt.parameters()} == {torch.bfloat16}
    assert found.gpt.rotary.dtype == torch.float32
    assert {weight.dtype for weight in found.vq.parameters()} == {torch.float32}
    draw = complete(found, 0, [0, 1], None)
    assert draw.images.dtype == torch.float32
    assert draw.images.isfinite().all()


def test_another_tokenizer_than_the_plan_s_is_refused(tmp_path: Path) -> None:
    """Codes mean nothing to it: one line with both hashes."""
    spec, checkpoint, plan = written(tmp_path)
    path = spec["tokenizer"]["path"]
    wanted = files.sha256_file(path)
    checkpoints.write_state_dict(path, tiny.model(1).state_dict(), {"name": "tiny"})
    with pytest.raises(UserError) as caught:
        load_sampler(spec, checkpoint, plan)
    found = files.sha256_file(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: the tokenizer has sha256 {found[:12]}…; expected")
    assert wanted[:12] in line
    assert "\n" not in line
    assert load_sampler(spec, checkpoint, None).vq is not None


def test_weights_that_do_not_fit_are_one_clear_line(tmp_path: Path) -> None:
    """The file and the first tensor that differs, of either model."""
    spec, checkpoint, plan = written(tmp_path)
    other = {**spec, "model": {**GPT, "ar_token_num": 1}}
    name = "spe_tok_embeddings.special_embeddings.weight"
    with pytest.raises(UserError, match=rf"model\.safetensors: tensor {name}: shape"):
        load_sampler(other, checkpoint, plan)
    tokenizer = {**spec["tokenizer"], "model": {**tiny.MODEL, "codebook_size": 64}}
    with pytest.raises(UserError, match=r"vq\.safetensors: tensor quantize\.embedding"):
        load_sampler({**spec, "tokenizer": tokenizer}, checkpoint, plan)


# ---- compiled ----


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
# torch's compiler still loads modules that use its own deprecated parts.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compiled_passes_draw_the_same_tokens(tmp_path: Path) -> None:
    """By 4 graphs for 19 passes (first, single, group, last), whatever the batch."""
    spec, checkpoint, plan = written(tmp_path, 8, 1, compile=True)
    plain = {**spec, "sampling": {"precision": "fp32", "compile": False}}
    compiled = load_sampler(spec, checkpoint, plan)
    eager = load_sampler(plain, checkpoint, plan)
    torch._dynamo.reset()
    counters.clear()
    for indices in ([0, 1, 2], [3, 4, 5], [6, 7]):
        inputs = eager.inputs(0, indices, None)
        assert torch.equal(raster(compiled, inputs), raster(eager, inputs))
    assert counters["stats"]["unique_graphs"] == 4
    assert not counters["graph_break"]


# ---- the plan ----


def test_a_plan_says_order_draw_and_tokenizer(tmp_path: Path) -> None:
    """What a row is later told by."""
    _, _, plan = written(tmp_path)
    content = files.read_json(plan)
    assert content == {
        "source": "config",
        "notation": "n = 4, 7 steps, cfg 1.5",
        "strategy": {
            "grid": 4,
            "group": 4,
            "draw": DRAW,
            "steps": 7,
            "tokenizer_sha256": files.sha256_file(tmp_path / "vq.safetensors"),
        },
    }


@pytest.mark.parametrize(
    ("grid", "group", "changes", "words"),
    [
        (24, 1, {"cfg_scale": 1.0}, "n = 1, 576 steps"),
        (24, 4, {"cfg_scale": 1.345}, "n = 4, 147 steps, cfg 1.345"),
        (24, 16, {"guidance_shape": "cosine"}, "n = 16, 51 steps, cfg 1.5 cosine"),
        (
            16,
            4,
            {"temperature": 0.9, "top_k": 100, "top_p": 0.95},
            "n = 4, 67 steps, cfg 1.5, temperature 0.9, top_k 100, top_p 0.95",
        ),
    ],
)
def test_a_sampler_has_a_name_in_words(
    grid: int, group: int, changes: dict[str, Any], words: str
) -> None:
    """Order and steps, then what is not neutral."""
    spec = {"grid": grid, "group": group, "draw": {**DRAW, **changes}}
    assert token_plan.notation(spec) == words


def test_logits_that_are_not_numbers_make_an_image_that_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sample 1 comes out as NaN, which the spine counts; the others stay the same."""
    one = made()
    inputs = one.inputs(0, [0, 1, 2], None)
    wanted, head = one.draw(inputs).images, one.gpt.output.forward

    def broken(hidden: Tensor) -> Tensor:
        logits: Tensor = head(hidden)
        return logits.index_fill(0, torch.tensor([1]), torch.nan)

    monkeypatch.setattr(one.gpt.output, "forward", broken)
    images = one.draw(inputs).images
    assert images[1].isnan().all()
    torch.testing.assert_close(images[[0, 2]], wanted[[0, 2]])
