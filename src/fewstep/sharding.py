"""Parameters sharded over the processes of one run: PyTorch's FSDP2.

Every process keeps its part of the float32 weights, of Adam's two moments and of the
average: 16 bytes a parameter over the number of processes, and 4 for the gradient. For
3.1 billion parameters that is 62 GB in all: 7.8 GB on each of 8 GPUs, besides one
block's whole weights, and activations. A checkpoint is gathered in the first process's
main memory (16 bytes a parameter, 50 GB); its format is that of a run that is not
sharded, so that either goes on from the other.

Arithmetic is that of `DistributedDataParallel` under autocast: the residual stream,
norms and reductions in float32, products in bf16. Blocks are gathered in bf16, as
autocast would cast their weights anyway: half the traffic of float32. What is rounded
besides are the weights of norms inside of blocks, on the way in: never the float32
master copies.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.device import has_bf16


def shard(
    model: nn.Module,
    units: Sequence[nn.Module],
    device: torch.device,
    precision: str = "fp32",
) -> None:
    """Shard a model's parameters over all processes, in place, and move it there.

    The processes' models must be equal. Only one unit at a time is whole on the device.

    Args:
        model: on the CPU, so that the device never holds all of it.
        units: modules that are gathered one after the other, such as transformer
            blocks; what is in none of them is gathered with the model.
        device: of this process.
        precision: "bf16" gathers the units' weights in bf16 (see above) where the
            device has it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    in_half = precision == "bf16" and has_bf16(device)
    # Losses are often views, and nobody writes into a loss.
    warnings.filterwarnings("ignore", ".*FSDP2-wrapped.*returned a view", UserWarning)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    plain = MixedPrecisionPolicy(cast_forward_inputs=False)
    half = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16,
        reduce_dtype=torch.float32,
        # Tables of angles stay float32, and so does the residual stream.
        cast_forward_inputs=False,
    )
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=half if in_half else plain)
    fully_shard(model, mesh=mesh, mp_policy=plain)


def is_sharded(value: Tensor | nn.Module) -> bool:
    """Whether a tensor, or a module's parameters, are spread over processes."""
    return hasattr(value, "full_tensor") or hasattr(value, "unshard")


def reduce_gradients(model: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass of a sharded model reduces its gradients.

    Those of the micro-batches before are kept whole until then.
    """
    if is_sharded(model):
        model.set_requires_gradient_sync(wanted)  # type: ignore[operator]


def whole(value: Tensor) -> Tensor:
    """The whole tensor of a sharded one; every process must ask for it."""
    full: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full


def gather(tree: Any, keep: bool) -> Any:
    """Nested dictionaries with every tensor whole and on the CPU, one at a time.

    Every process must call it.

    Args:
        tree: dictionaries and lists of anything.
        keep: false in processes that only help: they get no tensors.
    """
    if isinstance(tree, Mapping):
        return {name: gather(value, keep) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gather(value, keep) for value in tree)
    if not isinstance(tree, Tensor):
        return tree
    full = whole(tree.detach())
    return full.cpu().clone() if keep else None


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor, laid out as `like` is.

    Args:
        value: whole, equal in all processes; only the share of it is read.
        like: a sharded tensor, or a whole one: then `value` itself comes back.
    """
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    share = distribute_tensor(
        value, like.device_mesh, like.placements, src_data_rank=None
    )
    # A copy: the share alone, not a window into all of it.
    return share.to(like.device).clone()


def shares_of(
    values: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`share_of` by name; names that `like` lacks stay as they are."""
    return {
        name: share_of(value, like[name]) if name in like else value
        for name, value in values.items()
    }
