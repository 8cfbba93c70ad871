"""`ray.experimental.channel`: channels between processes and within one, their readers and writers."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.conformance.kit import caught, sub

INIT: dict[str, Any] = {"num_cpus": 4, "num_gpus": 0}


class _Party:
    """Makes, writes, reads, closes."""

    def make(self, kind: str, module: str, readers: Any, *rest: Any) -> Any:
        import importlib

        ray = importlib.import_module(module.partition(".")[0])
        me = ray.get_runtime_context().current_actor
        self.made = getattr(importlib.import_module(module), kind)(me, readers, *rest)
        return self.made

    def write(self, value: Any) -> Any:
        self.made.write(value, 5)

    def read(self, channel: Any) -> Any:
        channel.ensure_registered_as_reader()
        return channel.read(10)

    def write_and_read(self, value: Any) -> Any:
        self.made.write(value, 5)
        return self.made.read(5)

    def close(self) -> None:
        self.made.close()


def _node(ray: Any) -> str:
    return str(ray.get_runtime_context().get_node_id())


def _driver(ray: Any) -> Any:
    graph = sub(ray, "dag.compiled_dag_node").CompiledDAG
    return graph.DAGDriverProxyActor.options(num_cpus=0).remote()


def _parties(ray: Any, count: int) -> list[Any]:
    return [ray.remote(num_cpus=0)(_Party).remote() for _ in range(count)]


def _channel(ray: Any, *readers: Any, size: int = 1000) -> Any:
    chosen = [(reader, _node(ray)) for reader in readers or (_driver(ray),)]
    return sub(ray, "experimental.channel").Channel(None, chosen, size)


def _kinds(ray: Any) -> tuple[type, ...]:
    return ray.exceptions.RayChannelError, ray.exceptions.RayChannelTimeoutError


def names(ray: Any) -> Any:
    return sorted(sub(ray, "experimental.channel").__all__)


def a_driver_to_itself(ray: Any) -> Any:
    channel, seen = _channel(ray), []
    for value in (b"x", {"a": 1}, [None], "y" * 100_000, (1, 2)):
        channel.write(value)
        seen.append(channel.read())
    channel.close()
    return [seen[0], seen[1], seen[2], len(seen[3]), seen[4]]


def an_exception_is_a_value(ray: Any) -> Any:
    channel = _channel(ray)
    channel.write(ValueError("told"))
    return [type(channel.read()).__name__]


def nothing_to_read(ray: Any) -> Any:
    channel = _channel(ray)
    return [
        caught(lambda: channel.read(0), kinds=_kinds(ray)),
        caught(lambda: channel.read(0.2), kinds=_kinds(ray)),
    ]


def a_wrong_time(ray: Any) -> Any:
    channel = _channel(ray)
    return [
        caught(lambda: channel.read(-5), "Timeout must be non-negative or -1."),
        caught(lambda: channel.write(1, -5), "Timeout must be non-negative or -1."),
    ]


def a_second_value_waits_for_the_reader(ray: Any) -> Any:
    channel = _channel(ray)
    channel.write(1)
    late = caught(lambda: channel.write(2, 0.2), kinds=_kinds(ray))
    return [late, channel.read(), caught(lambda: channel.write(3, 5)), channel.read()]


def all_readers_get_every_value(ray: Any) -> Any:
    one, two = _parties(ray, 2)
    channel = _channel(ray, one, two)
    channel.write("a")
    seen = [ray.get(one.read.remote(channel))]
    seen.append(caught(lambda: channel.write("b", 0.2), kinds=_kinds(ray)))
    seen.append(ray.get(two.read.remote(channel)))
    channel.write("b", 10)
    return [*seen, *ray.get([two.read.remote(channel), one.read.remote(channel)])]


def an_actor_writes(ray: Any) -> Any:
    (one,) = _parties(ray, 1)
    module = sub(ray, "experimental.channel").__name__
    channel = ray.get(one.make.remote("Channel", module, [(_driver(ray), _node(ray))], 1000))
    ray.get(one.write.remote(7))
    channel.ensure_registered_as_reader()
    seen = channel.read(10)
    channel.close()
    return [seen, caught(lambda: ray.get(one.write.remote(8)), "Channel closed.", kinds=_kinds(ray))]


def a_closed_channel(ray: Any) -> Any:
    channel = _channel(ray)
    channel.close()
    channel.close()
    return [
        caught(lambda: channel.read(1), "Channel closed.", kinds=_kinds(ray)),
        caught(lambda: channel.write(1), "Channel closed.", kinds=_kinds(ray)),
    ]


def a_writer_that_closes_wakes_the_reader(ray: Any) -> Any:
    one, two = _parties(ray, 2)
    module = sub(ray, "experimental.channel").__name__
    channel = ray.get(one.make.remote("Channel", module, [(two, _node(ray))], 1000))
    waiting = two.read.remote(channel)
    ray.get(one.write.remote(1))
    first = ray.get(waiting)
    waiting = two.read.remote(channel)
    ray.get(one.close.remote())
    return [first, caught(lambda: ray.get(waiting), "Channel closed.", kinds=_kinds(ray))]


def passed_over(ray: Any) -> Any:
    channel = _channel(ray)
    channel.write(1)
    channel.release_buffer(5)
    return [caught(lambda: channel.read(0), kinds=_kinds(ray)), channel.write(2, 5), channel.read()]


def misuse(ray: Any) -> Any:
    (one,) = _parties(ray, 1)
    channels = sub(ray, "experimental.channel")
    return [
        caught(lambda: channels.Channel(None, [])),
        caught(lambda: channels.Channel(None, [(3, _node(ray))], 1000)),
        caught(lambda: channels.Channel(one, [(one, _node(ray))], 1000)),
        caught(lambda: channels.Channel(None, [(one, _node(ray))], 10), "must be at least"),
    ]


def is_local_node(ray: Any) -> Any:
    kind = sub(ray, "experimental.channel").Channel
    return [kind.is_local_node(_node(ray)), kind.is_local_node("ab")]


def room_for_several(ray: Any) -> Any:
    kind = sub(ray, "experimental.channel").BufferedSharedMemoryChannel
    channel = kind(None, [(_driver(ray), _node(ray))], 2)
    channel.ensure_registered_as_writer()
    channel.ensure_registered_as_reader()
    channel.write(1)
    channel.write(2)
    late = caught(lambda: channel.write(3, 0.2), kinds=_kinds(ray))
    return [late, channel.read(), channel.read(), channel.next_write_index, channel.next_read_index]


def _composite(ray: Any, writer: Any, readers: list[Any], *driver: Any) -> Any:
    module = sub(ray, "experimental.channel").__name__
    chosen = [(reader, _node(ray)) for reader in readers]
    return ray.get(writer.make.remote("CompositeChannel", module, chosen, 2, *driver))


def composite_with_the_writer_as_a_reader(ray: Any) -> Any:
    one, two = _parties(ray, 2)
    channel = _composite(ray, one, [one, two])
    own = ray.get(one.write_and_read.remote("to all"))
    return [[type(part).__name__ for part in channel._channels], own, ray.get(two.read.remote(channel))]


def composite_with_a_driver(ray: Any) -> Any:
    (one,) = _parties(ray, 1)
    driver = _driver(ray)
    channel = _composite(ray, one, [driver], driver._actor_id.hex())
    ray.get(one.write.remote("to the driver"))
    channel.ensure_registered_as_reader()
    return [[type(part).__name__ for part in channel._channels], channel.read(10)]


def within_a_process(ray: Any) -> Any:
    channel = sub(ray, "experimental.channel").IntraProcessChannel(2)
    value = [1]
    empty = caught(channel.read, "does not exist in the buffer")
    channel.write(value)
    full = caught(lambda: channel.write(value), "already exists in the buffer")
    seen = [channel.read() is value, channel.read() is value]
    channel.write(2)
    channel.close()
    return [empty, full, *seen, caught(channel.read)]


def cached(ray: Any) -> Any:
    channels = sub(ray, "experimental.channel")
    inner = channels.IntraProcessChannel(1)
    channel, alone = channels.CachedChannel(2, inner), channels.CachedChannel(2)
    inner.write(4)
    seen = [channel.read(), channel.read()]
    alone.write(5)
    seen += [alone.read(), alone.read()]
    return [*seen, caught(alone.read), caught(lambda: channels.CachedChannel(0), "greater than 0")]


def _pair(ray: Any) -> list[Any]:
    return [_channel(ray), _channel(ray)]


def reader_and_writer(ray: Any) -> Any:
    channels, pair = sub(ray, "experimental.channel"), _pair(ray)
    writer, reader = channels.SynchronousWriter(pair, [1, 0]), channels.SynchronousReader(pair)
    writer.start()
    reader.start()
    writer.write(("a", "b"))
    seen = [reader.read()]
    writer.write(KeyError("k"))
    seen.append([type(value).__name__ for value in reader.read()])
    return [*seen, writer.get_num_writes(), reader.get_num_reads()]


def writer_of_wrong_values(ray: Any) -> Any:
    channels, pair = sub(ray, "experimental.channel"), _pair(ray)
    writer = channels.SynchronousWriter(pair, [0, 1])
    return [
        caught(lambda: writer.write((1, 2, 3)), "Expected 2 outputs, but got 3 outputs"),
        caught(lambda: writer.write(5), "Expected a tuple of 2 outputs"),
        caught(lambda: channels.SynchronousWriter(pair, [0])),
        caught(lambda: channels.SynchronousReader([3])),
        caught(lambda: channels.SynchronousReader((pair[0],))),
    ]


def writer_of_an_input(ray: Any) -> Any:
    channels, pair = sub(ray, "experimental.channel"), _pair(ray)
    writer, reader = channels.SynchronousWriter(pair, [0, "k"], True), channels.SynchronousReader(pair)
    writer.write(channels.CompiledDAGArgs((7,), {"k": 8}))
    first = reader.read(10)
    writer.write(9)
    return [first, reader.read(10)]


def an_error_of_a_task_is_the_whole_result(ray: Any) -> Any:
    channels, pair = sub(ray, "experimental.channel"), _pair(ray)
    reader = channels.SynchronousReader(pair)
    pair[1].write(ray.exceptions.RayTaskError("f", "text", ValueError("q")))
    failed = [type(value).__name__ for value in reader.read(10)]
    pair[0].write("left over")
    late = caught(lambda: reader.read(0.5), kinds=_kinds(ray))
    pair[0].write("next", 10)
    pair[1].write("round", 10)
    return [failed, late, reader.read(10)]


def in_the_background(ray: Any) -> Any:
    channels, pair = sub(ray, "experimental.channel"), _pair(ray)

    async def rounds() -> Any:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        reader = channels.AwaitableBackgroundReader(pair, queue)
        writer = channels.AwaitableBackgroundWriter(pair, [0, 1])
        reader.start()
        writer.start()
        seen = []
        for number in range(3):
            future = asyncio.get_running_loop().create_future()
            await queue.put(future)
            await writer.write((number, -number))
            seen.append(await future)
        seen.append(writer.get_num_writes())
        writer.close()
        try:
            await writer.write((1, 2))
        except RuntimeError as error:
            seen.append(str(error))
        reader.close()
        return seen

    return asyncio.run(rounds())


def context(ray: Any) -> Any:
    kind = sub(ray, "experimental.channel").ChannelContext
    found = kind.get_current()
    found.set_torch_device("here")
    return [found is kind.get_current(), found.communicators, found.communicator_handles, found.torch_device]


def communicator_is_an_interface(ray: Any) -> Any:
    kind = sub(ray, "experimental.channel").Communicator
    return [sorted(kind.__abstractmethods__), caught(kind, "abstract")]


def communicator_of_the_cpu(ray: Any) -> Any:
    one, two = _parties(ray, 2)
    made = sub(ray, "experimental.channel").CPUCommunicator(2, [one, two])
    return [
        made.get_world_size(), made.get_rank(two), made.get_self_rank(), made.get_transport_name(),
        made.get_actor_handles() == [one, two], len(made.generate_communicator_id()),
        caught(lambda: made.get_rank(_parties(ray, 1)[0]), "Actor is not in the CPUCommunicator group"),
    ]  # fmt: skip


def types_of_values(ray: Any) -> Any:
    node, driver = _node(ray), _driver(ray)
    tensors = sub(ray, "experimental.channel.torch_tensor_type").TorchTensorType
    memory = sub(ray, "experimental.channel.shared_memory_channel").SharedMemoryType
    kinds = (tensors(), memory(), memory(buffer_size_bytes=2000))
    made = [kind.create_channel(None, [(driver, node)]) for kind in kinds]
    return [
        [type(one).__name__ for one in made],
        [tensors().requires_accelerator(), tensors("accelerator").requires_accelerator()],
        [tensors().direct_return, tensors().static_shape, tensors().communicator_id],
        [tensors.AUTO, tensors.CPU, tensors.ACCELERATOR], caught(lambda: tensors("zz"), "transport"),
    ]  # fmt: skip


def locality(ray: Any) -> Any:
    one, two = _parties(ray, 2)
    module = sub(ray, "experimental.channel.utils")
    others, own = module.split_readers_by_locality(one, [(one, "a"), (two, "b")])
    here, there = module.split_actors_by_node_locality("a", [(one, "a"), (two, "b")])
    return [
        [node for _, node in others], [node for _, node in own], [node for _, node in here],
        [node for _, node in there], module.get_self_actor(), module.get_actor_node(None) == _node(ray),
    ]  # fmt: skip


def retry(ray: Any) -> Any:
    left = [ray.exceptions.RayChannelTimeoutError("late"), None]

    def work() -> None:
        error = left.pop(0)
        if error is not None:
            raise error

    found = sub(ray, "experimental.channel.common").retry_and_check_interpreter_exit(work)
    return [found, left]
