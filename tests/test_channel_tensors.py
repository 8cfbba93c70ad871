"""`ray.experimental.channel` for tensors: communicators, what takes them, the context of devices."""

from __future__ import annotations

from typing import Any

import pytest

import spoke as ray
from spoke.experimental import channel as channels
from spoke.experimental.channel.accelerator_context import (
    AcceleratorContext,
    is_accelerator_context_registered,
    register_accelerator_context,
)
from spoke.experimental.channel.communicator import ReduceOp
from spoke.experimental.channel.torch_tensor_accelerator_channel import do_register_accelerator_context
from spoke.experimental.channel.torch_tensor_type import TorchTensorType
from tests.test_channels import PATIENCE_S, Party, cluster, node, other, party

__all__ = ["cluster", "other", "party"]  # fixtures


class Accelerator(channels.CPUCommunicator):
    """One of main memory that is taken for one of devices."""

    def get_transport_name(self) -> str:
        return "accelerator"


def _operate(group: Any, rank: int) -> Any:
    import torch

    group.initialize(rank)
    mine, out = torch.full((2,), rank + 1.0), torch.zeros(2)
    seen = []
    for op in ReduceOp:
        group.allreduce(mine, out, op)
        seen.append(out.tolist())
    both = torch.zeros(4)
    group.allgather(mine, both)
    part = torch.zeros(1)
    group.reducescatter(mine, part, ReduceOp.SUM)
    with group.send_stream, group.recv_stream:
        if rank == 0:
            group.send(mine, 1)
            got = None
        else:
            got = group.recv((2,), torch.float32, 0).tolist()
    group.destroy()
    return seen, both.tolist(), part.tolist(), got, group.get_self_rank()


def test_a_communicator_of_main_memory(party: Any, other: Any) -> None:
    pytest.importorskip("torch")
    group = channels.CPUCommunicator(2, [party, other])
    assert (group.get_world_size(), group.get_rank(other), group.get_self_rank()) == (2, 1, None)
    assert group.get_transport_name() == "cpu" and group.get_actor_handles() == [party, other]
    with pytest.raises(ValueError, match="Actor is not in the CPUCommunicator group"):
        group.get_rank(Party.remote())
    with pytest.raises(RuntimeError, match=r"call initialize\(rank\)"):
        group.send(None, 1)
    first, second = ray.get([party.run.remote(_operate, group, 0), other.run.remote(_operate, group, 1)])
    reduced = [[3.0, 3.0], [2.0, 2.0], [2.0, 2.0], [1.0, 1.0], [1.5, 1.5]]
    assert first == (reduced, [1.0, 1.0, 2.0, 2.0], [3.0], None, 0)
    assert second == (reduced, [1.0, 1.0, 2.0, 2.0], [3.0], [1.0, 1.0], 1)


def _prepare(group: Any, rank: int) -> None:
    group.initialize(rank)
    channels.ChannelContext.get_current().communicators["group"] = group


def _tensors(value: float) -> Any:
    import torch

    return {"a": torch.full((3,), value), "deep": [torch.arange(4), "text"]}


def test_tensors_travel_by_a_communicator(party: Any, other: Any) -> None:
    torch = pytest.importorskip("torch")
    group = Accelerator(2, [party, other])
    ray.get([party.run.remote(_prepare, group, 0), other.run.remote(_prepare, group, 1)])
    kind = TorchTensorType(group, _static_shape=True)
    assert kind.requires_accelerator() and kind.get_custom_communicator() is group
    kind = TorchTensorType("accelerator", _static_shape=True)
    kind.set_communicator_id("group")
    channel = ray.get(
        party.make.remote("TorchTensorAcceleratorChannel", [(other, node()), (party, node())], kind)
    )
    for value in (1.0, 2.0):
        written = party.write.remote(_tensors(value), PATIENCE_S)
        ((found,), _) = ray.get([other.read.remote(channel), written])
        assert found["a"].tolist() == [value] * 3 and found["deep"][0].tolist() == [0, 1, 2, 3]
        assert found["deep"][1] == "text" and ray.get(party.read_own.remote())["a"].tolist() == [value] * 3
    with pytest.raises(ValueError, match="_static_shape"):
        ray.get(party.write.remote({"a": torch.zeros(5)}))
    kind = TorchTensorType("accelerator")
    nameless = party.make.remote("TorchTensorAcceleratorChannel", [(other, node())], kind)
    with pytest.raises(ValueError, match="give the TorchTensorType a Communicator"):
        ray.get(nameless)
    channel.close()


def test_the_context_of_devices() -> None:
    torch = pytest.importorskip("torch")
    context = channels.ChannelContext()
    assert context.torch_available and channels.ChannelContext.get_current().communicator_handles == {}
    before = AcceleratorContext.get()
    try:
        AcceleratorContext.set(AcceleratorContext("cpu", channels.CPUCommunicator))
        assert AcceleratorContext.get().get_accelerator_devices() == [torch.device("cpu")]
        assert context.torch_device == torch.device("cpu")
        context.set_torch_device("meta")
        assert context.torch_device == "meta"
        assert not is_accelerator_context_registered()
        register_accelerator_context("cpu", Accelerator)
        found = AcceleratorContext.get()
        assert is_accelerator_context_registered() and found.communicator_cls is Accelerator
        assert (found.module_name, found.accelerator_count) == ("cpu", 0)
        assert (found.current_stream(), found.create_event()) == (None, None)
        assert len(found.generate_communicator_id()) == 36
        assert found.create_communicator(1, ["a"]).get_world_size() == 1
        with found.get_device_context(torch.device("cpu")):
            pass
        with pytest.raises(ModuleNotFoundError):
            register_accelerator_context("nonsense", Accelerator)
    finally:
        AcceleratorContext.set(before)
        AcceleratorContext._registered = False


def _registered() -> str:
    return AcceleratorContext.get().communicator_cls.__name__ if is_accelerator_context_registered() else ""


def test_a_context_for_an_actor(party: Any) -> None:
    pytest.importorskip("torch")
    assert ray.get(party.run.remote(_registered)) == ""
    ray.get(party.__ray_call__.remote(do_register_accelerator_context, "cpu", Accelerator))
    assert ray.get(party.run.remote(_registered)) == "Accelerator"
