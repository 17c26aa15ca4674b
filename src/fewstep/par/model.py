"""PAR's transformer: LlamaGen's, with transition tokens and a regional order.

arXiv 2412.15119, §3. With n = 1 it is LlamaGen itself (arXiv 2406.06525).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fewstep.par.layers import Block, LayerCache, RMSNorm
from fewstep.par.order import attention_mask, rotary_table, to_generation
from fewstep.par.schedule import Schedule


@dataclass(frozen=True)
class Output:
    """What training sees of codes, in generation order.

    Attributes:
        logits: (B, N, V) float32; row p is of token p.
        token_loss: (B, N) cross-entropy in nats.
    """

    logits: Tensor
    token_loss: Tensor

    @property
    def loss(self) -> Tensor:
        """Mean over all tokens, a scalar."""
        return self.token_loss.mean()


class ClassEmbedding(nn.Module):
    """A row a class, and the last one for no class."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, dim)

    def forward(self, labels: Tensor) -> Tensor:
        """(B,) to (B, dim)."""
        rows: Tensor = self.embedding_table(labels)
        return rows


class TransitionEmbedding(nn.Module):
    """The n - 1 learnable tokens between the sequential and the parallel part."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.special_embeddings = nn.Embedding(count, dim)


class Transformer(nn.Module):
    """A next-token image model that emits n tokens a step.

    Args:
        dim: width.
        n_layer: blocks.
        n_head: heads; dim / n_head must be a multiple of 4.
        vocab_size: V, entries of the codebook.
        grid: g, tokens a side.
        num_classes: classes of the condition; label `num_classes` is no class.
        ar_token_num: n, tokens drawn together (1: LlamaGen).
        spe_token_num: transition tokens, n - 1; None: that.
        multiple_of: SwiGLU's width is rounded up to it.
        rope_base: of the rotary frequencies.
        norm_eps: of RMSNorm.
        dropout: after attention and feed-forward.
        attention_dropout: of the attention's probabilities.
        token_dropout: of the embedded sequence.
        drop_path: stochastic depth of the last block, linear from 0.
        recompute: forget the blocks' activations and compute them again in the
            backward pass: less memory, a third more time.
        cls_token_num: tokens of the class; only 1.
        note: free text that presets carry; without influence.

    Raises:
        ValueError: for an order or a width that does not fit.
    """

    def __init__(
        self,
        dim: int,
        n_layer: int,
        n_head: int,
        vocab_size: int,
        grid: int,
        num_classes: int,
        *,
        ar_token_num: int = 1,
        spe_token_num: int | None = None,
        multiple_of: int = 256,
        rope_base: float = 10000.0,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        token_dropout: float = 0.0,
        drop_path: float = 0.0,
        recompute: bool = False,
        cls_token_num: int = 1,
        note: str = "",
    ) -> None:
        super().__init__()
        self.schedule = Schedule(grid, ar_token_num)
        _check(dim, n_head, ar_token_num, spe_token_num, cls_token_num)
        self.dim, self.head_dim, self.heads = dim, dim // n_head, n_head
        self.vocab_size, self.num_classes = vocab_size, num_classes
        self.recompute, self.note = recompute, note
        self.cls_embedding = ClassEmbedding(num_classes, dim)
        self.tok_embeddings = nn.Embedding(vocab_size, dim)
        if ar_token_num > 1:
            self.spe_tok_embeddings = TransitionEmbedding(ar_token_num - 1, dim)
        self.token_dropout = nn.Dropout(token_dropout)
        sizes = {"dim": dim, "heads": n_head, "multiple_of": multiple_of}
        rates = [drop_path * i / max(1, n_layer - 1) for i in range(n_layer)]
        self.layers = nn.ModuleList(
            Block(
                **sizes,
                eps=norm_eps,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=rate,
            )
            for rate in rates
        )
        self.norm = RMSNorm(dim, norm_eps)
        self.output = nn.Linear(dim, vocab_size, bias=False)
        table = rotary_table(self.schedule, self.head_dim, rope_base)
        self.register_buffer("rotary", table, persistent=False)
        mask = attention_mask(self.schedule)
        self.register_buffer("mask", mask, persistent=False)
        self.rotary: Tensor
        self.mask: Tensor
        hook = self.register_load_state_dict_pre_hook
        hook(_drop_derived)  # type: ignore[no-untyped-call]
        self.initialise()

    def initialise(self) -> None:
        """N(0, 0.02) everywhere, norms 1, the head 0: the first loss is ln V."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, RMSNorm):
                nn.init.ones_(module.weight)
        nn.init.zeros_(self.output.weight)

    @property
    def group(self) -> int:
        """n."""
        return self.schedule.group

    def embed(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        """What positions [start, stop) hold, behind the class: (B, L, dim).

        Args:
            tokens: (B, >= what is needed) in generation order.
            start: first position, at least 1.
            stop: one after the last.
        """
        n, parts = self.group, []
        if start <= n:
            parts.append(
                self.tok_embeddings(tokens[:, start - 1 : min(stop, n + 1) - 1])
            )
        first, last = max(start, n + 1), min(stop, 2 * n)
        if first < last:
            rows = self.spe_tok_embeddings.special_embeddings.weight
            chosen = rows[first - n - 1 : last - n - 1]
            parts.append(chosen.expand(len(tokens), -1, -1))
        first = max(start, 2 * n)
        if first < stop:
            parts.append(self.tok_embeddings(tokens[:, first - n : stop - n]))
        return torch.cat(parts, dim=1)

    def sequence(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """The whole input (B, N, dim): class, tokens, transition tokens, tokens."""
        first: Tensor = self.cls_embedding(labels)[:, None]
        if self.schedule.tokens == 1:
            return first
        rest = self.embed(tokens, 1, self.schedule.tokens)
        return torch.cat([first, rest], dim=1)

    def hidden(self, x: Tensor) -> Tensor:
        """Blocks and norm over a whole sequence (B, N, dim)."""
        table, mask = self.rotary, self.mask
        for layer in self.layers:
            if self.recompute and self.training:
                x = checkpoint(layer, x, table, mask, use_reentrant=False)
            else:
                x = layer(x, table, mask)
        out: Tensor = self.norm(x)
        return out

    def step(self, x: Tensor, start: int, caches: list[LayerCache]) -> Tensor:
        """Blocks and norm over the next positions (B, L, dim), with caches.

        No mask: a pass holds one group, which sees itself and all before it.
        """
        table = self.rotary[start : start + x.shape[1]]
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, table, None, cache, start)
        out: Tensor = self.norm(x)
        return out

    def forward(self, codes: Tensor, labels: Tensor) -> Output:
        """Logits and loss of raster codes (B, g, g) or (B, N) int64, labels (B,)."""
        tokens = to_generation(codes, self.schedule)
        x = self.token_dropout(self.sequence(tokens, labels))
        logits = self.output(self.hidden(x)).float()
        flat = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
        return Output(logits, flat.view_as(tokens))

    def loss(self, codes: Tensor, labels: Tensor) -> Output:
        """As `forward`."""
        out: Output = self(codes, labels)
        return out


def _drop_derived(
    _module: nn.Module, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Leave out tables and caches that some released files carry."""
    for name in list(state):
        if name == f"{prefix}freqs_cis" or ".kv_cache." in name:
            del state[name]


def _check(dim: int, heads: int, group: int, transitions: int | None, cls: int) -> None:
    """Raise ValueError for widths and counts that do not fit."""
    if transitions not in (None, group - 1):
        raise ValueError(
            f"{transitions} transition tokens for groups of {group}: "
            f"expected {group - 1}"
        )
    if dim % heads or dim // heads % 4:
        raise ValueError(f"{dim} features in {heads} heads: not a multiple of 4")
    if cls != 1:
        raise ValueError(f"{cls} class tokens: expected 1")
