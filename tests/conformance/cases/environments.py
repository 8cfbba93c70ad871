"""Runtime environments: their class, their checks, how those of tasks and actors add up."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from typing import Any

from tests.conformance.kit import FLAG_PREFIX, caught, sub


def _env(ray: Any, **fields: Any) -> Any:
    return caught(lambda: dict(sub(ray, "runtime_env").RuntimeEnv(**fields)))


def _plain(found: Any) -> Any:
    """Without what Ray adds for its own wheels, and without settings that were not given."""
    if isinstance(found, dict) and isinstance(found.get("value"), dict):
        found = {"value": {k: v for k, v in found["value"].items() if not k.startswith("_ray")}}
    return found


def _file(text: str, suffix: str = ".txt") -> str:
    path = os.path.join(tempfile.mkdtemp(prefix=FLAG_PREFIX), f"given{suffix}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


# -- the class


def env_vars_of_the_class(ray: Any) -> Any:
    env = sub(ray, "runtime_env").RuntimeEnv(env_vars={"A": "1"})
    return [dict(env), env.env_vars(), env["env_vars"], "env_vars" in env, isinstance(env, dict)]


def nothing_given(ray: Any) -> Any:
    env = sub(ray, "runtime_env").RuntimeEnv()
    return [dict(env), env.env_vars(), env.working_dir(), env.py_modules(), env.has_pip(), env.has_conda()]


def env_vars_must_be_a_dict(ray: Any) -> Any:
    return _env(ray, env_vars=3)


def env_vars_as_a_list(ray: Any) -> Any:
    return _env(ray, env_vars=["A=1"])


def env_vars_keys_are_text(ray: Any) -> Any:
    return _env(ray, env_vars={1: "a"})


def env_vars_values_are_text(ray: Any) -> Any:
    return _env(ray, env_vars={"a": 1})


def env_vars_value_none(ray: Any) -> Any:
    return _env(ray, env_vars={"a": None})


def env_vars_empty(ray: Any) -> Any:
    return _env(ray, env_vars={})


def pip_as_a_list(ray: Any) -> Any:
    return _plain(_env(ray, pip=["a", "b==1"]))


def pip_removes_what_is_there_twice(ray: Any) -> Any:
    return _plain(_env(ray, pip=["b", "a", "b"]))


def pip_empty(ray: Any) -> Any:
    return _plain(_env(ray, pip=[]))


def pip_requirements_file(ray: Any) -> Any:
    return _plain(_env(ray, pip=_file("a==1\n# word\nb\n")))


def pip_file_that_is_not_there(ray: Any) -> Any:
    return _env(ray, pip="/no/such/requirements.txt")


def pip_dict(ray: Any) -> Any:
    return _plain(_env(ray, pip={"packages": ["a"], "pip_check": True, "pip_version": "==22"}))


def pip_dict_with_options(ray: Any) -> Any:
    return _plain(_env(ray, pip={"packages": ["a"], "pip_install_options": ["--no-index"]}))


def pip_dict_with_a_file(ray: Any) -> Any:
    return _plain(_env(ray, pip={"packages": _file("c\n")}))


def pip_dict_without_packages(ray: Any) -> Any:
    return _env(ray, pip={"pip_check": True})


def pip_dict_with_an_unknown_field(ray: Any) -> Any:
    return _env(ray, pip={"packages": ["a"], "check": True})


def pip_check_is_a_bool(ray: Any) -> Any:
    return _env(ray, pip={"packages": ["a"], "pip_check": "yes"})


def pip_version_is_text(ray: Any) -> Any:
    return _env(ray, pip={"packages": ["a"], "pip_version": 22})


def pip_options_are_a_list(ray: Any) -> Any:
    return _env(ray, pip={"packages": ["a"], "pip_install_options": "--no-index"})


def pip_options_are_texts(ray: Any) -> Any:
    return _env(ray, pip={"packages": ["a"], "pip_install_options": [1]})


def pip_packages_of_a_wrong_type(ray: Any) -> Any:
    return _env(ray, pip={"packages": 3})


def pip_of_a_wrong_type(ray: Any) -> Any:
    return [_env(ray, pip=3), _env(ray, pip=[1])]


def uv_as_a_list(ray: Any) -> Any:
    return _plain(_env(ray, uv=["a", "a"]))


def uv_requirements_file(ray: Any) -> Any:
    return _plain(_env(ray, uv=_file("a==1\n")))


def uv_dict_without_packages(ray: Any) -> Any:
    return _env(ray, uv={"uv_check": True})


def uv_dict_with_an_unknown_field(ray: Any) -> Any:
    return _env(ray, uv={"packages": ["a"], "pip_check": True})


def uv_fields_of_wrong_types(ray: Any) -> Any:
    return [
        _env(ray, uv={"packages": ["a"], "uv_check": 1}),
        _env(ray, uv={"packages": ["a"], "uv_version": 1}),
        _env(ray, uv={"packages": ["a"], "uv_pip_install_options": "x"}),
        _env(ray, uv={"packages": "a"}),
        _env(ray, uv={"packages": [1]}),
        _env(ray, uv=3),
    ]


def uv_file_that_is_not_there(ray: Any) -> Any:
    return _env(ray, uv="/no/such/requirements.txt")


def conda_by_name(ray: Any) -> Any:
    return _plain(_env(ray, conda="base"))


def conda_dict(ray: Any) -> Any:
    return _plain(_env(ray, conda={"dependencies": ["pip", {"pip": ["a"]}]}))


def conda_of_a_wrong_type(ray: Any) -> Any:
    return _env(ray, conda=["a"])


def conda_file_that_is_not_there(ray: Any) -> Any:
    return [_env(ray, conda="/no/such.yml"), _env(ray, conda="/no/such/directory")]


def only_one_installer(ray: Any) -> Any:
    return [
        _env(ray, pip=["a"], conda="b"),
        _env(ray, pip=["a"], uv=["b"]),
        _env(ray, uv=["a"], conda="b"),
    ]


def working_dir_of_a_wrong_type(ray: Any) -> Any:
    return _env(ray, working_dir=3)


def working_dir_that_is_not_there(ray: Any) -> Any:
    return _env(ray, working_dir="/no/such/directory")


def working_dir_that_is_there(ray: Any) -> Any:
    env = sub(ray, "runtime_env").RuntimeEnv(working_dir="/tmp")
    return [dict(env), env.working_dir(), env.has_working_dir()]


def py_modules_of_a_wrong_type(ray: Any) -> Any:
    return [_env(ray, py_modules="a"), _env(ray, py_modules=[1])]


def py_modules_that_are_not_there(ray: Any) -> Any:
    return _env(ray, py_modules=["/no/such/module"])


def excludes_of_a_wrong_type(ray: Any) -> Any:
    return [_env(ray, excludes=value) for value in ("a", [1], ["a"], [])]


def a_container_stands_alone(ray: Any) -> Any:
    return [
        _env(ray, container={"image": "x"}, env_vars={"a": "b"}),
        _env(ray, container={"image": "x"}, pip=["a"]),
        _env(ray, image_uri="x", pip=["a"]),
        _env(ray, image_uri="x", env_vars={"a": "b"}),
    ]


def serialize_and_back(ray: Any) -> Any:
    kind = sub(ray, "runtime_env").RuntimeEnv
    env = kind(env_vars={"B": "2", "A": "1"})
    text = env.serialize()
    return [json.loads(text), kind.deserialize(text) == env, type(kind.deserialize(text)).__name__]


def pickled(ray: Any) -> Any:
    env = sub(ray, "runtime_env").RuntimeEnv(env_vars={"A": "1"})
    return [pickle.loads(pickle.dumps(env)) == env, env.to_dict()]


def setting_a_field(ray: Any) -> Any:
    env = sub(ray, "runtime_env").RuntimeEnv()
    env["pip"] = ["a"]
    env.set("env_vars", {"A": "1"})
    return [env.has_pip(), env["pip"], env.env_vars(), caught(lambda: env.set("env_vars", 3))]


def config_class(ray: Any) -> Any:
    kind = sub(ray, "runtime_env").RuntimeEnvConfig
    return [dict(kind()), dict(kind(setup_timeout_seconds=5, eager_install=False)), dict(kind(-1))]


def config_of_wrong_values(ray: Any) -> Any:
    kind = sub(ray, "runtime_env").RuntimeEnvConfig
    return [
        caught(lambda: kind(setup_timeout_seconds=0)),
        caught(lambda: kind(setup_timeout_seconds=-2)),
        caught(lambda: kind(setup_timeout_seconds="5")),
        caught(lambda: kind(eager_install=1)),
        caught(lambda: kind(log_files="a")),
        caught(lambda: kind(log_files=[1])),
    ]


# -- tasks and actors


def _variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def _pid() -> int:
    return os.getpid()


def variables_of_a_task(ray: Any) -> Any:
    task = ray.remote(runtime_env={"env_vars": {"ENV_A": "1"}})(_variables)
    return [ray.get(task.remote("ENV_A")), ray.get(ray.remote(_variables).remote("ENV_A"))]


def variables_of_an_actor(ray: Any) -> Any:
    @ray.remote(runtime_env={"env_vars": {"ENV_A": "actor"}})
    class Actor:
        def read(self) -> Any:
            return os.environ.get("ENV_A")

    return ray.get(Actor.remote().read.remote())


def options_replace_the_decorators_environment(ray: Any) -> Any:
    task = ray.remote(runtime_env={"env_vars": {"ENV_A": "1", "ENV_B": "1"}})(_variables)
    other = task.options(runtime_env={"env_vars": {"ENV_B": "2"}})
    return ray.get(other.remote("ENV_A", "ENV_B"))


def a_nested_task_inherits_and_adds(ray: Any) -> Any:
    inner = ray.remote(_variables)

    @ray.remote(runtime_env={"env_vars": {"ENV_A": "outer", "ENV_B": "outer"}})
    def outer() -> Any:
        more = inner.options(runtime_env={"env_vars": {"ENV_B": "inner", "ENV_C": "inner"}})
        names = ("ENV_A", "ENV_B", "ENV_C")
        return ray.get([inner.remote(*names), more.remote(*names)])

    return ray.get(outer.remote())


def a_task_of_an_actor_inherits(ray: Any) -> Any:
    inner = ray.remote(_variables)

    @ray.remote(runtime_env={"env_vars": {"ENV_A": "actor"}})
    class Actor:
        def start(self) -> Any:
            return ray.get(inner.remote("ENV_A"))

    return ray.get(Actor.remote().start.remote())


def an_actor_of_a_task_inherits(ray: Any) -> Any:
    @ray.remote
    class Actor:
        def read(self) -> Any:
            return os.environ.get("ENV_A")

    @ray.remote(runtime_env={"env_vars": {"ENV_A": "task"}})
    def outer() -> Any:
        return ray.get(Actor.remote().read.remote())

    return ray.get(outer.remote())


def the_context_shows_the_environment(ray: Any) -> Any:
    @ray.remote(runtime_env={"env_vars": {"ENV_A": "1"}})
    def read() -> Any:
        env = ray.get_runtime_context().runtime_env
        return [dict(env)["env_vars"], type(env).__name__]

    return ray.get(read.remote())


def an_instance_of_the_class_as_option(ray: Any) -> Any:
    env = sub(ray, "runtime_env").RuntimeEnv(env_vars={"ENV_A": "class"})
    return ray.get(ray.remote(runtime_env=env)(_variables).remote("ENV_A"))


def equal_environments_share_a_worker(ray: Any) -> Any:
    task = ray.remote(runtime_env={"env_vars": {"ENV_SHARED": "1"}})(_pid)
    return len({ray.get(task.remote()) for _ in range(4)})


def different_environments_never_share(ray: Any) -> Any:
    tasks = [ray.remote(runtime_env={"env_vars": {"ENV_APART": text}})(_pid) for text in "ab"]
    return len({ray.get(task.remote()) for task in tasks})


def a_task_with_a_wrong_environment(ray: Any) -> Any:
    def define(env: Any) -> Any:
        return caught(lambda: ray.get(ray.remote(runtime_env=env)(_variables).remote()))

    return [define(3), define({"env_vars": {"a": 1}}), define({"pip": ["a"], "conda": "b"})]


def variables_are_refused_in_a_method(ray: Any) -> Any:
    @ray.remote
    class Actor:
        def f(self) -> int:
            return 1

    return caught(lambda: ray.get(Actor.remote().f.options(runtime_env={"env_vars": {}}).remote()))
