"""Several processes, one run: sums over ranks, what rank 0 decided, and whether sharding is on."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from lamina.core.errors import RecipeError

_NOT_SHARDED = (
    "sharding (FSDP) was asked for by accelerate's configuration, but the model is not sharded "
    "({why}); every process would hold all of it. Start it with `accelerate launch` on several "
    "GPUs, or ask for no sharding (ACCELERATE_USE_FSDP=false)."
)


def world() -> int:
    """Processes that train together; 1 without `torchrun`."""
    return dist.get_world_size() if _on() else int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _on() else int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes files and talks to the user."""
    return rank() == 0


def start() -> None:
    """Joins the other processes, where `torchrun` started several; gloo without a GPU."""
    if world() > 1 and not _on():
        from accelerate import PartialState

        # The others wait while rank 0 detects or writes, which may take hours, not ten minutes.
        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=12))


def stop() -> None:
    """Leaves the other processes, in good order.

    What still holds the group, a trainer and its DDP that point at each other, is let go first, and
    nobody leaves before all have come: a process that was left aborts now and then when it ends.
    """
    if _on():
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


def barrier() -> None:
    """Waits until every process is here."""
    if _on():
        dist.barrier()


def total(values: np.ndarray) -> np.ndarray:
    """The sum over all processes, in float64, as an array of the same shape."""
    if not _on():
        return values.astype(np.float64)
    tensor = torch.from_numpy(values.astype(np.float64))
    if dist.get_backend() == "nccl":
        tensor = tensor.cuda()
    dist.all_reduce(tensor)
    return tensor.cpu().numpy()


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(total(np.array([float(flag)]))[0]) if _on() else flag


def decided(value: Any) -> Any:
    """What rank 0 holds, in every process: decisions are the same by construction."""
    if not _on():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: Any) -> list[Any]:
    """What every process holds, by rank, in every process."""
    if not _on():
        return [value]
    boxes: list[Any] = [None] * world()
    dist.all_gather_object(boxes, value)
    return boxes


def check_can_shard() -> None:
    """Refuses sharding where there is nothing to shard over, before anything is read.

    Raises:
        RecipeError: `fsdp` is asked for on a machine without a GPU, or its first version.
    """
    if not sharding_asked():
        return
    if not torch.cuda.is_available():
        raise RecipeError(_NOT_SHARDED.format(why="there is no GPU here"))
    if os.environ.get("FSDP_VERSION", "1") != "2":  # its weights are whole in the wrapper only
        raise RecipeError(
            "sharding (FSDP) was asked for in its first version by accelerate's configuration. "
            "Write `fsdp_version: 2` there."
        )


def check_sharding(model: Any, asked: bool) -> None:
    """Refuses a run that was asked to shard its weights and does not.

    Raises:
        RecipeError: `fsdp` is asked for, and no weight is spread over processes.
    """
    if not asked:
        return
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    kinds = (FSDPModule, FullyShardedDataParallel)
    if not any(isinstance(module, kinds) for module in model.modules()):
        raise RecipeError(_NOT_SHARDED.format(why=f"world size {world()}"))


def sharding_asked(environment: Mapping[str, str] | None = None) -> bool:
    """Whether accelerate's configuration asks for FSDP, as `accelerate launch` passes it on."""
    environment = os.environ if environment is None else environment
    return environment.get("ACCELERATE_USE_FSDP", "false").strip().lower() in ("1", "true", "yes")


def _on() -> bool:
    return dist.is_available() and dist.is_initialized()
