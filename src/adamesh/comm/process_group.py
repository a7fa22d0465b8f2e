"""Meshes over ``torch.distributed``'s processes.

Every communicator gets process groups of its own, so a user's own collectives never interleave with ours.
"""

import contextlib
import os
import weakref
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from adamesh.comm.base import Communicator, Mailbox, Mesh
from adamesh.comm.gloo import GlooCommunicator
from adamesh.comm.gloo_mailbox import GlooMailbox
from adamesh.comm.local import LocalCommunicator
from adamesh.comm.nccl import NcclCommunicator
from adamesh.comm.staged import reaching
from adamesh.errors import ConfigurationError

__all__ = ["process_mesh", "shared_mesh"]


def process_mesh(device_mesh: DeviceMesh | None, device: torch.device, timeout_s: float | None) -> Mesh:
    """Build this process's mesh on process groups of its own; collective over the default group.

    Args:
        device_mesh: all ranks of the default group, in any arrangement, on axes "replicate" and "shard"
            or one of them; None is one island of the default group.
        device: where the buffers live; "cpu" goes by Gloo, "cuda" by what the default group has for it: NCCL, or
            Gloo by way of the host's memory.
        timeout_s: how long an operation waits for the others, seconds; None is torch's default.

    Raises:
        ConfigurationError: the mesh has other axes or leaves ranks out, the device has no backend, or
            several workers were started and there is no process group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        _check_alone()
        alone = LocalCommunicator()
        return Mesh(world=alone, replicate=alone, shard=alone)
    islands = [list(range(dist.get_world_size()))] if device_mesh is None else _islands(device_mesh)
    num_replicas, num_shards = len(islands), len(islands[0])
    counterparts = [list(column) for column in zip(*islands, strict=True)]
    everybody = [rank for island in islands for rank in island]
    if sorted(everybody) != list(range(dist.get_world_size())):
        raise ConfigurationError(
            f"the device mesh holds ranks {sorted(everybody)} but the default process group has "
            f"{dist.get_world_size()}; a mesh must hold every rank once: "
            f"init_device_mesh(device_type, (R, S)) with R * S == {dist.get_world_size()}"
        )
    # new_group is collective over the default group: every rank makes all groups, its own or not, in order.
    world = _join([everybody], "world", device, timeout_s)
    shard = world if num_replicas == 1 else _join(islands, "shard", device, timeout_s)
    replicate = world if num_shards == 1 else _join(counterparts, "replicate", device, timeout_s)
    return Mesh(world=world, replicate=replicate, shard=shard)


_SHARED: dict[str, tuple[dist.ProcessGroup, Mesh]] = {}


def shared_mesh(device: torch.device) -> Mesh:
    """One island of the default group, built once per default group and device type; collective the first time.

    For the odd call outside an optimizer, which should not cost a process group each time.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return process_mesh(None, device, None)
    default = dist.group.WORLD
    assert default is not None
    held = _SHARED.get(device.type)
    if held is None or held[0] is not default:
        held = _SHARED[device.type] = (default, process_mesh(None, device, None))
    return held[1]


def _check_alone() -> None:
    # Read here and nowhere else: torchrun tells its workers their number only through the environment.
    num_started = os.environ.get("WORLD_SIZE", "1")
    if num_started.isdecimal() and int(num_started) > 1:
        raise ConfigurationError(
            f"WORLD_SIZE={num_started} but no process group: call torch.distributed.init_process_group() first"
        )


def _islands(device_mesh: DeviceMesh) -> list[list[int]]:
    """The global ranks, one row an island."""
    ranks: list[list[int]]
    names = device_mesh.mesh_dim_names
    if names == ("replicate", "shard"):
        ranks = device_mesh.mesh.tolist()
    elif names == ("shard", "replicate"):
        ranks = device_mesh.mesh.T.tolist()
    elif names == ("shard",):
        ranks = device_mesh.mesh[None, :].tolist()
    elif names == ("replicate",):
        ranks = device_mesh.mesh[:, None].tolist()
    else:
        raise ConfigurationError(
            f"the device mesh has axes {names}; adamesh needs 'replicate' and 'shard', or one of them: "
            f'init_device_mesh(device_type, (R, S), mesh_dim_names=("replicate", "shard"))'
        )
    return ranks


def _join(groups: list[list[int]], name: str, device: torch.device, timeout_s: float | None) -> Communicator:
    """Make a group of each rank list, and a communicator of the one that this rank is in."""
    if len(groups[0]) == 1:
        return LocalCommunicator()
    if device.type not in ("cpu", "cuda"):
        raise ConfigurationError(
            f"no communicator for device {str(device)!r}: "
            "with several workers, parameters must be on 'cpu' (Gloo) or 'cuda' (NCCL, or Gloo by way of the host)"
        )
    by_nccl = device.type == "cuda" and "cuda:nccl" in dist.get_backend_config().split(",")
    joined: Communicator | None = None
    for ranks in groups:
        control = _new_group(ranks, "gloo", name, timeout_s)
        payload = _new_group(ranks, "nccl", name, timeout_s) if by_nccl else None
        if dist.get_rank() in ranks:
            joined = GlooCommunicator(control, name, partial(_mailbox, ranks, timeout_s))
            _leave_with(joined, control)
            if payload is not None:
                joined = NcclCommunicator(payload, joined)
                _leave_with(joined, payload)
    assert joined is not None, (groups, dist.get_rank())
    return reaching(joined, device)


def _mailbox(ranks: list[int], timeout_s: float | None) -> Mailbox:
    group = _new_group(ranks, "gloo", "mailbox", timeout_s)
    mailbox = GlooMailbox(group)
    _leave_with(mailbox, group)
    return mailbox


def _leave_with(holder: Communicator | Mailbox, group: dist.ProcessGroup) -> None:
    """Give up a group's connections and threads with who holds it: torch itself keeps every group it made."""
    # Not at exit: by then torch may have been taken down.
    weakref.finalize(holder, _leave, group).atexit = False


def _leave(group: dist.ProcessGroup) -> None:
    if dist.is_initialized():
        # ValueError: the user has ended all groups since, and started anew.
        with contextlib.suppress(ValueError):
            dist.destroy_process_group(group)


def _new_group(ranks: list[int], backend: str, name: str, timeout_s: float | None) -> dist.ProcessGroup:
    timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
    group: dist.ProcessGroup = dist.new_group(
        ranks, timeout=timeout, backend=backend, group_desc=f"adamesh {name}", sort_ranks=False
    )
    return group
