"""The public surface: Ray's names are there, importing it is cheap, and the small parts of it work."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from typing import Any

import pytest

import spoke
import spoke.util
from spoke import config, ids
from spoke.actorclass import ActorClass
from spoke.actormeta import BUILT_IN, meta_from_blob, meta_of_class
from spoke.handles import RemoteFunction
from spoke.options import ActorOptions
from spoke.runtime_env import RuntimeEnv, merged
from spoke.signature import Signature, signature_of, signature_of_class

RAY_NAMES = [
    "ActorClassID",
    "ActorID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "SCRIPT_MODE",
    "TaskID",
    "UniqueID",
    "WORKER_MODE",
    "WorkerID",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "timeline",
    "util",
    "wait",
    "exceptions",
    "types",
    "runtime_env",
    "remote_function",
    "cloudpickle",
]
UTIL_NAMES = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]


@pytest.mark.parametrize("name", RAY_NAMES)
def test_top_level_names(name: str) -> None:
    assert getattr(spoke, name) is not None


@pytest.mark.parametrize("name", UTIL_NAMES)
def test_util_names(name: str) -> None:
    assert callable(getattr(spoke.util, name))


def test_placement_group_is_function_and_module() -> None:
    from spoke.util.placement_group import PlacementGroup

    assert callable(spoke.util.placement_group)
    assert PlacementGroup.empty().is_empty


def test_all_is_documented() -> None:
    for name in spoke.__all__:
        value = getattr(spoke, name)
        if callable(value):
            assert value.__doc__, name


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'zzz'"):
        _ = spoke.zzz
    with pytest.raises(AttributeError, match="not carried"):
        _ = spoke.serve
    with pytest.raises(AttributeError, match="no attribute 'zzz'"):
        _ = spoke.util.zzz


def test_import_is_lean() -> None:
    code = (
        "import sys; import spoke; print(*sorted({'asyncio', 'click', 'cloudpickle', 'dataclasses', "
        "'inspect', 'numpy', 'psutil', 'rich', 'torch', 'spoke.client', 'spoke._native'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


# -- ids


@pytest.mark.parametrize(
    ("cls", "size"),
    [
        (ids.JobID, 4),
        (ids.ActorID, 16),
        (ids.PlacementGroupID, 18),
        (ids.TaskID, 24),
        (ids.ObjectID, 28),
        (ids.NodeID, 28),
        (ids.WorkerID, 28),
        (ids.UniqueID, 28),
    ],
)
def test_ids(cls: type[ids.BaseID], size: int) -> None:
    assert cls.size() == size
    made = cls.from_random()
    assert cls.from_hex(made.hex()) == made == cls.from_binary(made.binary()) == cls(made.binary())
    assert hash(made) == hash(cls(made.binary()))
    assert pickle.loads(pickle.dumps(made)) == made
    assert repr(made) == f"{cls.__name__}({made.hex()})"
    assert cls.nil().is_nil()
    assert not made.is_nil()
    with pytest.raises(ValueError, match="needs to have length"):
        cls(b"")
    with pytest.raises(TypeError):
        cls("a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hex"):
        cls.from_hex("zz")


def test_ids_of_different_kinds_differ() -> None:
    assert ids.NodeID(b"a" * 28) != ids.WorkerID(b"a" * 28)
    assert ids.JobID.from_int(7).int() == 7
    assert ids.ActorID.of(ids.JobID.from_int(7)).job_id == ids.JobID.from_int(7)


# -- configuration


def test_a_bad_value_gives_a_warning_and_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOKE_HEARTBEAT_S", "soon")
    with pytest.warns(UserWarning, match="SPOKE_HEARTBEAT_S"):
        assert config.get("heartbeat_s") == 1.0
    monkeypatch.setenv("SPOKE_HEARTBEAT_S", "2.5")
    assert config.get("heartbeat_s") == 2.5


def test_knobs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPOKE_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert config.get("address") is None
    monkeypatch.setenv("RAY_ADDRESS", "h:1")
    assert config.get("address") == "h:1"
    monkeypatch.setenv("SPOKE_ADDRESS", "g:2")
    assert config.get("address") == "g:2"
    assert config.parse_bytes("1.5 GiB") == 3 << 29
    assert config.parse_bytes("64k") == 65536
    assert config.parse_bool("Yes") is True
    for text in ("", "x", "-1", "1q"):
        with pytest.raises(ValueError):
            config.parse_bytes(text)
    for knob in config.KNOBS.values():
        assert knob.doc
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            knob.read()


# -- signatures


def sample(a: int, /, b: int, c: int = 3, *rest: int, d: int, e: int = 5, **more: int) -> None: ...


def plain(a: int, b: int = 1, *, c: int = 2) -> None: ...


def required(a: int, *, c: int) -> None: ...


@pytest.mark.parametrize("function", [sample, plain, required, lambda: None, lambda x, /: x])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1,), {}),
        ((1, 2), {}),
        ((1, 2, 3), {}),
        ((1, 2, 3, 4), {"d": 1}),
        ((1,), {"b": 2, "d": 3}),
        ((1,), {"a": 2}),
        ((1,), {"c": 3}),
        ((), {"a": 1}),
        ((1,), {"z": 3}),
        ((1, 2), {"b": 3}),
        ((), {"x": 1}),
    ],
)
def test_signatures_agree_with_inspect(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    import inspect

    try:
        inspect.signature(function).bind(*args, **kwargs)
        expected = None
    except TypeError as error:
        expected = str(error)
    signature = Signature(*signature_of(function).plain())
    try:
        signature.check(args, kwargs)
        found = None
    except TypeError as error:
        found = str(error)
    assert (found is None) == (expected is None), (found, expected)
    if not kwargs:
        assert (signature.low <= len(args) <= signature.high) <= (expected is None)


def test_signatures_of_classes() -> None:
    class Plain: ...

    class Counter:
        def __init__(self, start: int = 0) -> None: ...

    assert signature_of_class(Plain).high == 0
    assert signature_of_class(Counter).names == ("start",)
    signature_of_class(dict).check((1, 2, 3), {"x": 1})


# -- actor classes as data


class Base:
    def inherited(self) -> None: ...


class Example(Base):
    constant = 3

    def __init__(self, x: int) -> None: ...

    @spoke.method(num_returns=2, concurrency_group="io")
    def two(self) -> None: ...

    @classmethod
    def of_class(cls, a: int) -> None: ...

    @staticmethod
    def static(a: int) -> None: ...

    @property
    def shown(self) -> int:
        return 1

    async def later(self) -> None: ...

    def items(self) -> Any:
        yield 1


def test_meta_travels() -> None:
    made = meta_of_class(Example, ActorOptions({"max_task_retries": 2}))
    meta = meta_from_blob(made.blob)
    assert meta_from_blob(made.blob) is meta
    names = {"inherited", "__init__", "two", "of_class", "static", "later", "items"}
    assert set(meta.methods) == names | set(BUILT_IN)
    assert meta.methods["two"][0].num_returns == 2
    assert meta.methods["items"][0].num_returns == -1
    assert meta.methods["of_class"][1].names == ("a",)
    assert meta.methods["static"][1].names == ("a",)
    assert (meta.is_async, meta.max_concurrency, meta.max_task_retries) == (True, 1000, 2)
    assert len(made.blob) < 1500
    with pytest.raises(ValueError, match="io"):
        meta.check_groups({})
    meta.check_groups({"io": 1})


def test_remote_functions_and_classes() -> None:
    function = spoke.remote(plain)
    assert isinstance(function, RemoteFunction)
    with pytest.raises(TypeError, match=r"plain\.remote\(\)"):
        function(1)
    cls = spoke.remote(num_cpus=2)(Example)
    assert isinstance(cls, ActorClass)
    assert cls.constant == 3
    with pytest.raises(TypeError, match=r"Example\.remote\(\)"):
        cls(1)
    with pytest.raises(TypeError, match="Inheriting"):

        class Child(cls): ...  # type: ignore[misc,valid-type]

    assert function.options(num_cpus=3)._options.resources == {"CPU": 3.0}
    assert function.options().function_id == function.function_id
    assert len(function.function_id) == 16


@pytest.mark.parametrize("target", [3, len, spoke.remote(plain), Base().inherited])
def test_only_functions_and_classes_are_remote(target: Any) -> None:
    with pytest.raises((TypeError, AssertionError)):
        spoke.remote(target)


def test_decorator_misuse() -> None:
    with pytest.raises(AssertionError):
        spoke.remote()
    with pytest.raises(AssertionError):
        spoke.method(num_cpus=1)
    with pytest.raises(ValueError, match="async def"):
        spoke.remote(Example.later)


def test_initialisation_arguments_fail_early() -> None:
    for given, error in (
        ({"zz": 1}, RuntimeError),
        ({"num_cpus": -1}, ValueError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"address": "nonsense"}, ValueError),
        ({"namespace": ""}, ValueError),
        ({"runtime_env": 3}, TypeError),
        ({"address": "127.0.0.1:1", "num_cpus": 1}, ValueError),
    ):
        with pytest.raises(error):
            spoke.init(**given)  # type: ignore[arg-type]
    assert not spoke.is_initialized()


def test_runtime_env() -> None:
    env = RuntimeEnv(env_vars={"a": "b"}, working_dir="/tmp")
    assert env == {"env_vars": {"a": "b"}, "working_dir": "/tmp"}
    assert RuntimeEnv.deserialize(env.serialize()) == env == pickle.loads(pickle.dumps(env))
    assert env.to_dict() is not env
    assert merged({"pip": ["x"]}, env)["pip"] == ["x"]
    with pytest.raises(TypeError):
        RuntimeEnv(pip=3)  # type: ignore[arg-type]
