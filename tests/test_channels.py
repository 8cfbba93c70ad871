"""`ray.experimental.channel`: who may write and read, order, room, closing, deaths, tensors."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import spoke as ray
from spoke import current
from spoke.dag.compiled_dag_node import CompiledDAG
from spoke.exceptions import RayChannelError, RayChannelTimeoutError, RayTaskError
from spoke.experimental import channel as channels
from spoke.experimental.channel import ends
from spoke.experimental.channel.auto_transport_type import AutoTransportType, TypeHintResolver
from spoke.experimental.channel.common import ChannelOutputType, retry_and_check_interpreter_exit
from spoke.experimental.channel.communicator import Communicator
from spoke.experimental.channel.communicator_handle import CommunicatorHandle
from spoke.experimental.channel.shared_memory_channel import SharedMemoryType
from spoke.experimental.channel.torch_tensor_type import TorchTensorType
from spoke.experimental.channel.utils import (
    get_actor_node,
    get_self_actor,
    split_actors_by_node_locality,
    split_readers_by_locality,
)

PATIENCE_S = 60.0


@ray.remote(num_cpus=0, max_concurrency=2)
class Party:
    """Reads, and writes the channel that it made."""

    def __init__(self) -> None:
        self.made: Any = None

    def make(self, kind: str, readers: Any, *rest: Any) -> Any:
        me = ray.get_runtime_context().current_actor
        self.made = getattr(channels, kind)(me, readers, *rest)
        return self.made

    def write(self, value: Any, timeout: float | None = None) -> None:
        self.made.write(value, timeout)

    def write_to(self, channel: Any, value: Any) -> None:
        channel.write(value, 0)

    def read(self, channel: Any, count: int = 1) -> list[Any]:
        return [channel.read(PATIENCE_S) for _ in range(count)]

    def read_own(self) -> Any:
        return self.made.read(PATIENCE_S)

    def close(self, channel: Any = None) -> None:
        (channel or self.made).close()

    def me(self) -> Any:
        return get_self_actor()

    def run(self, work: Any, *args: Any) -> Any:
        return work(*args)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=4)
    yield
    ray.shutdown()
    assert not current.at_shutdown


def node() -> str:
    return ray.get_runtime_context().get_node_id()


@pytest.fixture
def driver() -> Any:
    return CompiledDAG.DAGDriverProxyActor.remote()


@pytest.fixture
def party() -> Any:
    return Party.remote()


@pytest.fixture
def other() -> Any:
    return Party.remote()


def test_a_driver_writes_and_reads(driver: Any) -> None:
    channel = channels.Channel(None, [(driver, node())], 1000)
    for number in range(200):
        channel.write(number)
        assert channel.read() == number
    channel.write(b"x" * 3_000_000)
    assert len(channel.read()) == 3_000_000, "longer than the size that was given"
    channel.write(ValueError("told"))
    assert str(channel.read()) == "told", "returned, not raised"
    channel.close()


def test_a_write_waits_until_all_readers_have_read(party: Any, other: Any) -> None:
    channel = channels.Channel(None, [(party, node()), (other, node())])
    channel.write(1)
    assert ray.get(party.read.remote(channel)) == [1]
    with pytest.raises(RayChannelTimeoutError, match="have not read"):
        channel.write(2, timeout=0)
    waiting = threading.Thread(target=channel.write, args=(2,))
    waiting.start()
    assert ray.get(other.read.remote(channel, 2)) == [1, 2]
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive() and ray.get(party.read.remote(channel)) == [2]
    channel.close()


def test_an_actor_writes_and_the_driver_reads(driver: Any, party: Any) -> None:
    channel = ray.get(party.make.remote("Channel", [(driver, node())]))
    for value in (1, {"a": [2]}, None, b"z" * 100_000):
        party.write.remote(value)
        assert channel.read(PATIENCE_S) == value
    with pytest.raises(ValueError, match="written by the process that made it"):
        channel.write(1)
    channel.close()
    with pytest.raises(RayChannelError, match=r"Channel closed\."):
        ray.get(party.write.remote(1))


def test_arrays_are_not_copied_and_stay_after_the_next_value(driver: Any) -> None:
    numpy = pytest.importorskip("numpy")
    channel = channels.Channel(None, [(driver, node())])
    seen = []
    for number in range(3):
        channel.write(numpy.full(1 << 18, number))
        seen.append(channel.read())
    assert [int(array[-1]) for array in seen] == [0, 1, 2] and not seen[0].flags.writeable
    del seen
    channel.close()


def test_a_ref_inside_a_value_lives_until_it_was_read(party: Any) -> None:
    channel = channels.Channel(None, [(party, node())])
    channel.write([ray.put("kept")])
    (found,) = ray.get(party.read.remote(channel))
    assert ray.get(found[0]) == "kept"
    channel.close()


def test_times_are_kept_and_nothing_is_lost(driver: Any) -> None:
    channel = channels.Channel(None, [(driver, node())])
    for seconds in (0, 0.05):
        with pytest.raises(RayChannelTimeoutError, match="no value came"):
            channel.read(seconds)
    channel.write("late")
    assert channel.read(-1) == "late"
    with pytest.raises(AssertionError, match=r"non-negative or -1"):
        channel.read(-5)
    channel.write("passed over")
    channel.release_buffer(PATIENCE_S)
    with pytest.raises(RayChannelTimeoutError):
        channel.release_buffer(0)
    channel.close()


def test_room_for_several(driver: Any) -> None:
    channel = channels.BufferedSharedMemoryChannel(None, [(driver, node())], 30)
    for number in range(30):
        channel.write(number, 0)
    with pytest.raises(RayChannelTimeoutError):
        channel.write(30, 0)
    assert channel.next_write_index == 0
    assert [channel.read() for _ in range(7)] == list(range(7)) and channel.next_read_index == 7
    channel.write(30)
    assert channel.next_write_index == 1
    assert [channel.read() for _ in range(24)] == list(range(7, 31))
    channel.close()


@pytest.mark.parametrize("closer", ["writer", "reader", "neither"])
def test_closing_at_any_place_closes_all(party: Any, other: Any, closer: str) -> None:
    channel = ray.get(party.make.remote("Channel", [(other, node())]))
    party.write.remote(0)
    assert ray.get(other.read.remote(channel)) == [0]
    waiting = other.read.remote(channel)
    if closer == "neither":
        channel.close()
    else:
        ray.get((party if closer == "writer" else other).close.remote(channel))
    with pytest.raises(RayChannelError, match=r"Channel closed\."):
        ray.get(waiting, timeout=PATIENCE_S)
    with pytest.raises(RayChannelError, match=r"Channel closed\."):
        ray.get(party.write.remote(1), timeout=PATIENCE_S)
    channel.close()
    with pytest.raises(RayChannelError):
        channel.read(0)


@pytest.mark.parametrize("victim", ["writer", "reader"])
def test_CALL_3_a_death_closes_the_channel(party: Any, other: Any, victim: str) -> None:
    channel = ray.get(party.make.remote("Channel", [(other, node())]))
    party.write.remote(0)
    assert ray.get(other.read.remote(channel)) == [0]
    if victim == "writer":
        waiting = other.read.remote(channel)
        ray.kill(party)
    else:
        waiting = party.write.remote(1)
        ray.get(waiting)  # there is room for one
        waiting = party.write.remote(2)
        ray.kill(other)
    with pytest.raises(RayChannelError, match=r"Channel closed\."):
        ray.get(waiting, timeout=PATIENCE_S)


def test_more_processes_than_readers_are_refused(party: Any, other: Any) -> None:
    channel = channels.Channel(None, [(party, node())])
    channel.write(1)
    assert ray.get(party.read.remote(channel)) == [1]
    with pytest.raises(RayChannelError):
        ray.get(other.read.remote(channel))
    with pytest.raises(ValueError, match="written by the process that made it"):
        ray.get(party.write_to.remote(channel, 1))
    channel.close()


def test_SEC_1_who_does_not_know_the_secret_gets_nothing(driver: Any) -> None:
    channel = channels.Channel(None, [(driver, node())])
    place = channel._place
    wrong = ends.Place(place.channel, bytes(32), place.addresses, place.node, b"another")
    with pytest.raises(RayChannelError):
        ends.ReaderEnd(wrong)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(b"\0" + place.addresses[0])
        channel.write("for the reader")
        assert channel.read() == "for the reader", "one who says nothing is in nobody's way"
    channel.close()


def test_misuse_is_named(party: Any) -> None:
    with pytest.raises(AssertionError, match="at least one reader"):
        channels.Channel(None, [])
    with pytest.raises(AssertionError, match="handle of an actor"):
        channels.Channel(None, [(3, node())])  # type: ignore[list-item]
    with pytest.raises(AssertionError, match="made by its writer"):
        channels.Channel(party, [(party, node())])
    with pytest.raises(ValueError, match="at least 1000 bytes"):
        channels.Channel(None, [(party, node())], 10)
    with pytest.raises(AssertionError, match="room for one"):
        channels.BufferedSharedMemoryChannel(None, [(party, node())], 0)
    assert channels.Channel.is_local_node(node()) and not channels.Channel.is_local_node("00")


def test_a_value_that_cannot_be_unpickled_is_told_and_over(driver: Any) -> None:
    channel = channels.Channel(None, [(driver, node())])
    channel.write(_Unreadable())
    with pytest.raises(RuntimeError, match="unreadable"):
        channel.read()
    channel.write("next", 10)
    assert channel.read() == "next"
    with pytest.raises(TypeError):
        channel.write(threading.Lock())
    channel.close()


class _Unreadable:
    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise RuntimeError("unreadable")


def test_shutdown_closes_channels_without_a_word() -> None:
    import subprocess
    import sys

    program = (
        "import threading, spoke as ray\n"
        "from spoke.experimental.channel import Channel\n"
        "from spoke.dag.compiled_dag_node import CompiledDAG\n"
        "ray.init(num_cpus=1)\n"
        "proxy = CompiledDAG.DAGDriverProxyActor.remote()\n"
        "channel = Channel(None, [(proxy, ray.get_runtime_context().get_node_id())])\n"
        "channel.write(1); assert channel.read() == 1\n"
        "ray.shutdown()\n"
        "names = [t for t in threading.enumerate() if 'channel' in t.name]\n"
        "[t.join(20) for t in names]\n"
        "print([t.name for t in names if t.is_alive()])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stdout.strip() == "[]" and not done.stderr, done


# -- other channels ------------------------------------------------------------------------------------


def test_by_reference_within_a_process() -> None:
    channel = channels.IntraProcessChannel(2)
    value = [1]
    channel.ensure_registered_as_writer()
    channel.ensure_registered_as_reader()
    with pytest.raises(AssertionError, match="does not exist in the buffer"):
        channel.read()
    channel.write(value)
    with pytest.raises(AssertionError, match="already exists in the buffer"):
        channel.write(value)
    same = pickle.loads(pickle.dumps(channel))
    assert same.read() is value and channel.read(deserialize=False) is None
    channel.write(value)
    channel.close()
    with pytest.raises(AssertionError):
        channel.read()


def test_each_value_several_times() -> None:
    inner = channels.IntraProcessChannel(1)
    channel = channels.CachedChannel(2, inner)
    channel.ensure_registered_as_writer()
    channel.ensure_registered_as_reader()
    channel.write(4)
    assert [channel.read(), channel.read()] == [4, 4]
    inner.write(5)
    alone = channels.CachedChannel(2)
    assert pickle.loads(pickle.dumps(alone)).__dict__ == alone.__dict__
    assert [channel.read(), channel.read()] == [5, 5]
    alone.write(7)
    assert [alone.read(), alone.read()] == [7, 7]
    with pytest.raises(AssertionError, match="no inner channel"):
        alone.read()
    with pytest.raises(AssertionError, match="num_reads must be greater than 0"):
        channels.CachedChannel(0)
    channel.close()


def test_a_composite_channel_chooses(driver: Any, party: Any, other: Any) -> None:
    readers = [(party, node()), (other, node()), (driver, node())]
    channel = ray.get(party.make.remote("CompositeChannel", readers, 2, driver._actor_id.hex()))
    kinds = [type(one).__name__ for one in channel._channels]
    assert kinds == ["IntraProcessChannel", "BufferedSharedMemoryChannel"]
    ray.get(party.write.remote("to all"))
    assert ray.get(party.read_own.remote()) == "to all"
    assert ray.get(other.read.remote(channel)) == ["to all"]
    channel.ensure_registered_as_reader()
    assert channel.read(PATIENCE_S) == "to all"
    with pytest.raises(AssertionError, match="none of its readers"):
        ray.get(Party.remote().read.remote(channel))
    ray.get(party.write.remote("passed over"))
    channel.release_buffer(PATIENCE_S)
    channel.close()


def test_who_is_where(party: Any, other: Any) -> None:
    assert get_self_actor() is None and ray.get(party.me.remote()) == party
    assert get_actor_node(None) == node() == get_actor_node(party)
    assert split_readers_by_locality(party, [(party, "a"), (other, "b")]) == ([(other, "b")], [(party, "a")])
    assert split_actors_by_node_locality("a", [(party, "a"), (other, "b")]) == (
        [(party, "a")],
        [(other, "b")],
    )


# -- readers and writers of several --------------------------------------------------------------------


@pytest.fixture
def pair(driver: Any) -> Iterator[list[Any]]:
    made = [channels.Channel(None, [(driver, node())]) for _ in range(2)]
    yield made
    for one in made:
        one.close()


def test_parts_go_to_their_channels_and_come_back_in_order(pair: list[Any]) -> None:
    writer, reader = channels.SynchronousWriter(pair, [1, 0]), channels.SynchronousReader(pair)
    writer.start()
    reader.start()
    writer.write(("a", "b"))
    assert reader.read() == ["b", "a"]
    writer.write(KeyError("x"))
    assert [type(value) for value in reader.read()] == [KeyError, KeyError]
    assert (writer.get_num_writes(), reader.get_num_reads()) == (2, 2)
    for wrong in (5, (1, 2, 3)):
        with pytest.raises(ValueError, match="Expected"):
            writer.write(wrong)
    arguments = channels.SynchronousWriter(pair, [0, "k"], is_input=True)
    arguments.write(channels.CompiledDAGArgs((7,), {"k": 8}))
    assert reader.read() == [7, 8]
    arguments.write(9)
    assert reader.read() == [9, 9]
    writer.write((1, 2))
    reader.release_channel_buffers(PATIENCE_S)
    reader.close()
    with pytest.raises(RayChannelError):
        writer.write((1, 2))


def test_an_error_ends_a_round_and_the_rest_of_it_is_passed_over(pair: list[Any]) -> None:
    reader = channels.SynchronousReader(pair)
    error = RayTaskError("f", "text", ValueError("q"))
    pair[1].write(error)
    first, second = reader.read(PATIENCE_S)
    assert isinstance(first, RayTaskError) and isinstance(second, RayTaskError)
    pair[0].write("of the failed round")
    pair[1].write("new")
    with pytest.raises(RayChannelTimeoutError):
        reader.read(0.05)
    pair[0].write("new, too", PATIENCE_S)
    assert reader.read(PATIENCE_S) == ["new, too", "new"], "what was read before the time was over is kept"


def test_in_the_background(pair: list[Any]) -> None:
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
            await writer.write((number, number + 1))
            seen.append(await asyncio.wait_for(future, PATIENCE_S))
        waiting = asyncio.get_running_loop().create_future()
        await queue.put(waiting)
        await asyncio.sleep(0)
        counts = (writer.get_num_writes(), reader.get_num_reads())
        writer.close()
        with pytest.raises(RayChannelError):
            await asyncio.wait_for(waiting, PATIENCE_S)
        with pytest.raises(RuntimeError, match="DAG execution cancelled"):
            await writer.write((1, 2))
        reader.close()
        return seen, counts

    assert asyncio.run(rounds()) == ([[0, 1], [1, 2], [2, 3]], (3, 3))


def test_interfaces_are_for_subclasses() -> None:
    interfaces: Any = (channels.ReaderInterface, channels.WriterInterface, channels.ChannelInterface)
    for interface in (*interfaces, Communicator):
        with pytest.raises(TypeError, match="abstract"):
            interface()
    with pytest.raises(AssertionError):
        channels.SynchronousReader((1,))  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="one index per channel"):
        channels.SynchronousWriter([], [0])
    left = [RayChannelTimeoutError.from_message("late"), None]

    def late_once() -> None:
        error = left.pop(0)
        if error is not None:
            raise error

    assert retry_and_check_interpreter_exit(late_once) is False and not left


def test_types_make_channels(driver: Any, party: Any) -> None:
    sized = SharedMemoryType(buffer_size_bytes=2000, num_shm_buffers=2)
    for made in (sized, TorchTensorType(), AutoTransportType()):
        channel = made.create_channel(None, [(driver, node())], driver._actor_id.hex())
        assert isinstance(channel, channels.CompositeChannel) and not made.requires_accelerator()
        channel.write(5)
        assert channel.read(PATIENCE_S) == 5
        channel.close()
    with pytest.raises(TypeError, match="take a SharedMemoryType"):
        ChannelOutputType().create_channel(None, [(driver, node())])
    with pytest.raises(ValueError, match="takes no communicator"):
        ChannelOutputType().set_communicator_id("x")
    with pytest.raises(ValueError, match="transport"):
        TorchTensorType("zz")
    with pytest.raises(ValueError, match="Invalid device 'zz'"):
        TorchTensorType(device="zz")
    apart = TypeHintResolver({driver: ["0"], party: ["1"]})
    assert apart.resolve(AutoTransportType(), (driver, "n"), [(party, "n")]).requires_accelerator()
    shared = TypeHintResolver({driver: ["0"], party: ["0"]})
    assert not shared.resolve(AutoTransportType(), (driver, "n"), [(party, "n")]).requires_accelerator()
    assert CommunicatorHandle([party]).get_actor_handles() == [party]
