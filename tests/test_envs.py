"""Runtime environments as a user meets them: on a cluster, with local wheels and no network."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import spoke
from spoke import current, records
from spoke.client import Client
from spoke.envs import packages
from spoke.envs.parts import Part
from spoke.errors import RuntimeEnvSetupError
from tests.env_kit import CONDA, CONTAINERS, UV, offline, program, wheel, with_programs

pytestmark = pytest.mark.timeout_s(300)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts a cluster with two CPUs; keyword arguments in capitals are variables of its processes."""

    def make(runtime_env: Any = None, **options: Any) -> Any:
        for name, value in options.items():
            if name.isupper():
                monkeypatch.setenv(name, str(value))
        plain = {name: value for name, value in options.items() if not name.isupper()}
        plain = {"log_to_driver": False, **plain}
        return spoke.init(num_cpus=2, num_gpus=0, runtime_env=runtime_env, **plain)

    yield make
    spoke.shutdown()


@spoke.remote
def look(*names: str) -> dict[str, Any]:
    """What a worker sees: its directory, interpreter, and some modules' versions."""
    import importlib

    found: dict[str, Any] = {"cwd": os.getcwd(), "prefix": sys.prefix, "python": sys.executable,
                             "pid": os.getpid(), "env": dict(os.environ)}  # fmt: skip
    for name in names:
        try:
            found[name] = getattr(importlib.import_module(name), "VERSION", None)
        except ImportError:
            found[name] = "missing"
    return found


def looked(*names: str, **runtime_env: Any) -> dict[str, Any]:
    task = look.options(runtime_env=runtime_env) if runtime_env else look
    found: dict[str, Any] = spoke.get(task.remote(*names), timeout=200)
    return found


def error_of(**runtime_env: Any) -> str:
    with pytest.raises(RuntimeEnvSetupError) as caught:
        looked(**runtime_env)
    return str(caught.value)


def root() -> Path:
    """Where this node keeps environments."""
    assert current.client is not None
    return Path(records.temp_root(), str(current.client.info["session"]), "environments")


def parts() -> list[str]:
    """The parts that this node keeps."""
    return sorted(path.name for path in root().iterdir()) if root().is_dir() else []


# -- working_dir and py_modules


def test_f17_a_working_dir_travels_without_what_is_ignored(tmp_path: Path, start: Any) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "f17_mod.py").write_text("VERSION = 1")
    (tmp_path / "code" / "kept.txt").write_text("kept")
    (tmp_path / "code" / "left.log").write_text("left out by .gitignore")
    (tmp_path / "code" / "secret.txt").write_text("left out by excludes")
    (tmp_path / "code" / ".gitignore").write_text("*.log\n")
    start({"working_dir": str(tmp_path / "code"), "excludes": ["secret.txt"]})
    found = looked("f17_mod")
    assert found["f17_mod"] == 1 and found["cwd"] != str(tmp_path / "code")
    there = set(os.listdir(found["cwd"])) - {"__pycache__"}  # the import may have made that
    assert there == {".gitignore", "f17_mod.py", "kept.txt"}
    assert spoke.get_runtime_context().runtime_env["working_dir"].startswith("gcs://_ray_pkg_")


def test_f17_same_content_is_not_uploaded_again_and_an_edit_is_another_package(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mod_edit.py").write_text("VERSION = 1")
    start()
    assert looked("mod_edit", working_dir=str(tmp_path))["mod_edit"] == 1
    asked: list[str] = []
    client = current.client
    assert client is not None
    request = client.request

    def noted(what: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(what)
        return request(what, *args, **kwargs)

    monkeypatch.setattr(client, "request", noted)
    assert looked("mod_edit", working_dir=str(tmp_path))["mod_edit"] == 1
    assert asked == ["package_hold"] and len(parts()) == 1
    (tmp_path / "mod_edit.py").write_text("VERSION = 2")
    assert looked("mod_edit", working_dir=str(tmp_path))["mod_edit"] == 2
    assert asked == ["package_hold", "package_hold", "package_put"] and len(parts()) == 2


def test_an_archive_and_modules_of_every_kind(tmp_path: Path, start: Any) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("VERSION = 'pack'")
    (tmp_path / "single.py").write_text("VERSION = 'single'")
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("inside.py", "VERSION = 'inside'")
    made = wheel(tmp_path, "wheeled", "2.5")
    start({
        "working_dir": str(tmp_path / "code.zip"),
        "py_modules": [str(tmp_path / "pack"), str(tmp_path / "single.py"), str(made)],
    })  # fmt: skip
    found = looked("inside", "pack", "single", "wheeled")
    versions = {"inside": "inside", "pack": "pack", "single": "single", "wheeled": "2.5"}
    assert {name: found[name] for name in versions} == versions


def test_a_remote_zip_loses_its_top_directory_and_a_local_one_is_used_in_place(
    tmp_path: Path, start: Any
) -> None:
    with zipfile.ZipFile(tmp_path / "repo.zip", "w") as archive:
        archive.writestr("repo-main/topmod.py", "VERSION = 'top'")
    place = tmp_path / "place"
    place.mkdir()
    (place / "placed.py").write_text("VERSION = 'placed'")
    start()
    assert looked("topmod", working_dir=(tmp_path / "repo.zip").as_uri())["topmod"] == "top"
    found = looked("placed", working_dir=f"local://{place}")
    assert found["placed"] == "placed" and found["cwd"] == str(place)
    assert "is not on this node" in error_of(working_dir="local:///not/there")


def test_f17_a_zip_that_escapes_its_folder_is_refused(tmp_path: Path, start: Any) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../escaped.txt", "out")
    start()
    text = error_of(working_dir=str(tmp_path / "evil.zip"))
    assert "outside of its directory" in text and "escaped.txt" in text
    assert looked()["pid"]  # other work goes on


def test_f17_a_directory_over_the_limit_is_refused_with_its_largest_files(tmp_path: Path, start: Any) -> None:
    (tmp_path / "big.bin").write_bytes(b"x" * 300_000)
    with pytest.raises(RuntimeEnvSetupError, match=r"exceeds the maximum size of 0.10MiB.*big.bin"):
        start({"working_dir": str(tmp_path)}, SPOKE_RUNTIME_ENV_PACKAGE_BYTES=100 * 1024)
    assert not spoke.is_initialized()
    start({"working_dir": str(tmp_path), "excludes": ["*.bin"]})
    assert looked()["pid"]


def test_f17_an_interrupted_part_is_made_anew(tmp_path: Path, start: Any) -> None:
    """A directory without facts is what a helper left that was killed: it is never used."""
    (tmp_path / "whole_mod.py").write_text("VERSION = 'whole'")
    start()
    uri = packages.uri_of(packages.pack(str(tmp_path), [], True, 1 << 30))
    name = Part("package", {"uri": uri}).name
    torn = root() / name / "files"
    torn.mkdir(parents=True)
    (torn / "whole_mod.py").write_text("VERSION = 'torn'")
    found = looked("whole_mod", working_dir=str(tmp_path))
    assert found["whole_mod"] == "whole" and found["cwd"] == str(torn)


def test_a_package_of_several_pieces(tmp_path: Path, start: Any) -> None:
    body = os.urandom(9 << 20)
    (tmp_path / "nine.bin").write_bytes(body)
    start({"working_dir": str(tmp_path)})

    @spoke.remote
    def read() -> bytes:
        return Path("nine.bin").read_bytes()

    assert spoke.get(read.remote()) == body


# -- pip, uv, conda


def test_pip_installs_once_for_all_and_inherits_what_is_here(tmp_path: Path, start: Any) -> None:
    wheel(tmp_path, "envs_a", "1.5", needs="envs_b")
    wheel(tmp_path, "envs_b", "2.0")
    start({"env_vars": offline(tmp_path)})
    began = time.monotonic()
    found = looked("envs_a", "envs_b", "cloudpickle", "click", pip=["envs_a"])
    first = time.monotonic() - began
    assert (found["envs_a"], found["envs_b"], found["cloudpickle"]) == ("1.5", "2.0", None)
    assert found["prefix"] in found["python"] and found["env"]["VIRTUAL_ENV"] == found["prefix"]
    assert looked("envs_a")["envs_a"] == "missing"
    began = time.monotonic()

    @spoke.remote(runtime_env={"pip": ["envs_a"]}, num_cpus=0)
    class Actor:
        def version(self) -> Any:
            import envs_a

            return envs_a.VERSION

    assert spoke.get(Actor.remote().version.remote()) == "1.5"
    assert time.monotonic() - began < first  # the bench measures by how much
    assert len([name for name in parts() if name.startswith("pip-")]) == 1


def test_pip_forms_and_checks(tmp_path: Path, start: Any) -> None:
    wheel(tmp_path, "forms_a", "1.0")
    wheel(tmp_path, "forms_b", "1.0", needs="forms_absent")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# a comment\nforms_a==1.0\n")
    options = ["--no-index", "--find-links", str(tmp_path)]
    start()
    found = looked("forms_a", pip={"packages": str(requirements), "pip_install_options": options})
    assert found["forms_a"] == "1.0"
    bad = {"packages": ["forms_b"], "pip_check": True, "pip_install_options": [*options, "--no-deps"]}
    assert "forms-absent" in error_of(pip=bad).replace("_", "-")
    found = looked("forms_b", pip={**bad, "pip_check": False})
    assert found["forms_b"] == "1.0"


def test_requirements_of_the_working_dir(tmp_path: Path, start: Any) -> None:
    wheel(tmp_path, "wd_pkg", "3.0")
    code = tmp_path / "code"
    code.mkdir()
    (code / "wants.txt").write_text("wd_pkg\n")
    start({"env_vars": offline(tmp_path), "working_dir": str(code)})
    where = "-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/wants.txt"
    assert looked("wd_pkg", pip=[where])["wd_pkg"] == "3.0"


def test_a_package_that_workers_have_loaded_is_taken_from_the_environment(tmp_path: Path, start: Any) -> None:
    import cloudpickle

    wheel(tmp_path, "cloudpickle", "99.0", package=Path(cloudpickle.__file__).parent)
    start({"env_vars": offline(tmp_path)})
    assert looked("cloudpickle", pip=["cloudpickle==99.0"])["cloudpickle"] == "99.0"


def test_a_package_that_does_not_exist_fails_its_calls_and_no_others(tmp_path: Path, start: Any) -> None:
    start({"env_vars": offline(tmp_path)})
    failing = look.options(runtime_env={"pip": ["no_such_package==9"]}).remote()
    assert looked()["pid"]
    with pytest.raises(RuntimeEnvSetupError, match="No matching distribution found for no_such_package==9"):
        spoke.get(failing)

    @spoke.remote(runtime_env={"pip": ["no_such_package==9"]}, max_restarts=1)
    class Actor:
        def m(self) -> None: ...

    with pytest.raises(RuntimeEnvSetupError, match="No matching distribution"):
        spoke.get(Actor.remote().m.remote())


def test_other_work_goes_on_while_one_installs(tmp_path: Path, start: Any) -> None:
    wait = tmp_path / "go"
    slow = f"import pathlib, time\nwhile not pathlib.Path({str(wait)!r}).exists(): time.sleep(0.02)\n"
    wheel(tmp_path, "slow_pkg", "1.0")
    program(tmp_path / "bin", "uv", slow + UV)
    start({"env_vars": offline(tmp_path)}, PATH=with_programs(tmp_path / "bin"))
    installing = look.options(runtime_env={"uv": ["slow_pkg"]}).remote("slow_pkg")
    assert looked()["pid"]
    assert not spoke.wait([installing], timeout=0.3)[0]
    wait.touch()
    assert spoke.get(installing)["slow_pkg"] == "1.0"


def test_uv_installs_by_the_uv_of_the_node_or_by_one_that_pip_brings(tmp_path: Path, start: Any) -> None:
    wheel(tmp_path, "uv_pkg", "1.1")
    wheel(tmp_path, "uv", "7.0", body=UV)
    program(tmp_path / "bin", "uv", UV)
    start({"env_vars": offline(tmp_path)}, PATH=with_programs(tmp_path / "bin"))
    assert looked("uv_pkg", uv=["uv_pkg"])["uv_pkg"] == "1.1"
    wanted = {"packages": ["uv_pkg"], "uv_version": "==7.0", "uv_check": True}
    assert looked("uv_pkg", uv=wanted)["uv_pkg"] == "1.1"
    assert "no_such" in error_of(uv=["no_such"])


REAL_UV = shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))


@pytest.mark.skipif(REAL_UV is None, reason="uv is not installed")
def test_the_real_uv(tmp_path: Path, start: Any) -> None:
    wheel(tmp_path, "real_a", "1.5", needs="real_b")
    wheel(tmp_path, "real_b", "2.0")
    wheel(tmp_path, "real_c", "1.0", needs="click")  # which the workers have
    wheel(tmp_path, "click", "99.0")
    options = ["--no-cache", "--offline", "--no-index", "--find-links", str(tmp_path)]

    def env(*packages: str, more: tuple[str, ...] = (), **fields: Any) -> Any:
        return {"packages": list(packages), "uv_pip_install_options": [*options, *more], **fields}

    # Without the programs of a virtual environment on PATH, its own uv is found all the same.
    start(
        PATH=os.pathsep.join(
            one for one in os.environ["PATH"].split(os.pathsep) if one != os.path.dirname(sys.executable)
        )
    )
    found = looked("real_a", "real_b", "click", uv=env("real_a"))
    assert (found["real_a"], found["real_b"], found["click"]) == ("1.5", "2.0", None)
    found = looked("real_c", "click", uv=env("real_c"))
    assert (found["real_c"], found["click"]) == ("1.0", None), "what is installed here is not installed again"
    found = looked("real_c", "click", uv=env("real_c", "click==99.0"))
    assert (found["real_c"], found["click"]) == ("1.0", "99.0")
    assert looked("click")["click"] is None
    made = list(root().glob("uv-*/files/lib/python*/site-packages/*.dist-info"))
    assert sorted(path.name for path in made) == sorted(
        [
            "real_a-1.5.dist-info",
            "real_b-2.0.dist-info",
            "click-99.0.dist-info",
            *["real_c-1.0.dist-info"] * 2,
        ]
    )
    assert "no-such" in error_of(uv=env("no_such==9"))
    text = error_of(uv=env("real_a", more=("--no-deps",), uv_check=True))
    assert "`real-a` requires `real-b`, but it's not installed" in text
    assert "--no-such-option" in error_of(uv=env("real_a", more=("--no-such-option",)))
    assert looked()["pid"]


def test_conda_by_name_by_directory_and_by_description(tmp_path: Path, start: Any) -> None:
    import venv

    home = tmp_path / "bin"
    program(home, "conda", CONDA)
    venv.create(home / "known", symlinks=True)
    start(PATH=with_programs(home))
    assert looked(conda="known")["prefix"] == str(home / "known")
    assert looked(conda=str(home / "known"))["env"]["CONDA_PREFIX"] == str(home / "known")
    found = looked(conda={"name": "x", "dependencies": ["python", {"pip": ["a"]}]})
    text = Path(found["prefix"], "description.yml").read_text()
    assert text == 'dependencies:\n  - "python"\n  - {"pip": ["a"]}\nname: "x"\n'
    described = tmp_path / "env.yml"
    described.write_text("dependencies: [no-such-package]\n")
    assert "ResolvePackageNotFound" in error_of(conda=str(described))
    assert "it knows base, known" in error_of(conda="unknown")


def test_without_conda_and_without_a_container_runtime(tmp_path: Path, start: Any) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "rm", "env"):
        (tools / name).symlink_to(f"/bin/{name}")
    start(PATH=str(tools))
    assert "conda is not installed on this node" in error_of(conda="x")
    assert "neither podman nor docker is installed" in error_of(image_uri="some/image")
    assert looked()["pid"]


# -- containers, interpreters, hooks


def test_workers_in_a_container(tmp_path: Path, start: Any) -> None:
    home = tmp_path / "bin"
    program(home, "podman", CONTAINERS)
    start(PATH=with_programs(home))
    found = looked(image_uri="quay.io/x/y:1", env_vars={"MINE": "a b"})
    assert (found["env"]["IN_IMAGE"], found["env"]["MINE"]) == ("quay.io/x/y:1", "a b")
    assert "image not known" in error_of(container={"image": "missing/image"})
    spoke.shutdown()
    asked = (home / "asked").read_text().splitlines()
    assert asked.count("pull quay.io/x/y:1") == 1
    assert any(line.startswith("rm -f -t 0 spoke-") for line in asked)
    assert not list(tmp_path.glob("**/*.config"))


def test_an_interpreter_of_ones_own(tmp_path: Path, start: Any) -> None:
    script = tmp_path / "python.sh"
    script.write_text(f'#!/bin/sh\nexport CHOSEN="$1"\nshift\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    start({"working_dir": str(tmp_path)})
    assert looked(py_executable="./python.sh 'by hand'")["env"]["CHOSEN"] == "by hand"
    script.write_text(f"CHOSEN=unquoted exec {sys.executable} $@")
    assert looked(py_executable="sh python.sh", working_dir=str(tmp_path))["env"]["CHOSEN"] == "unquoted"
    assert "not found" in error_of(py_executable="/no/such/python")


def test_the_setup_hook_runs_before_the_first_task(tmp_path: Path, start: Any) -> None:
    (tmp_path / "hooked.py").write_text("import os\ndef go():\n    os.environ['HOOKED'] = 'by name'\n")

    def hook() -> None:
        os.environ["HOOKED"] = "by function"

    start({"worker_process_setup_hook": hook, "working_dir": str(tmp_path)})
    assert looked()["env"]["HOOKED"] == "by function"
    assert looked(worker_process_setup_hook="hooked.go")["env"]["HOOKED"] == "by name"
    text = error_of(worker_process_setup_hook="hooked.nothing")
    assert "Failed to execute the setup hook method" in text and "AttributeError" in text

    @spoke.remote(runtime_env={"worker_process_setup_hook": "hooked.nothing"})
    class Never:
        pass

    with pytest.raises(spoke.exceptions.ActorDiedError, match="Failed to execute the setup hook method"):
        spoke.get(Never.remote().__ray_ready__.remote())
    lock = threading.Lock()
    with pytest.raises(spoke.exceptions.RuntimeEnvSetupError, match="Failed to export the setup function"):
        look.options(runtime_env={"worker_process_setup_hook": lambda: print(lock)}).remote()


def test_variables_name_others(start: Any) -> None:
    start({"env_vars": {"FIRST": "1", "PATH": "/mine:${PATH}"}})
    given = {"SECOND": "${FIRST}:${NOT_THERE}:$nor_this:$", "THIRD": "${SECOND}+$SECOND"}
    env = looked(env_vars=given)["env"]
    assert env["PATH"] == f"/mine:{os.environ['PATH']}"
    assert env["SECOND"] == "1::$nor_this:$" and env["THIRD"] == "1::$nor_this:$+1::$nor_this:$"


# -- how environments add up, limits, what is left


def test_job_task_and_nested_tasks_add_up(tmp_path: Path, start: Any) -> None:
    (tmp_path / "own_mod.py").write_text("VERSION = 'own'")
    start({"env_vars": {"A": "job", "B": "job"}})

    @spoke.remote(runtime_env={"env_vars": {"B": "task", "C": "task"}, "working_dir": str(tmp_path)})
    def outer() -> Any:
        inner = look.options(runtime_env={"env_vars": {"C": "inner"}})
        return spoke.get([look.remote("own_mod"), inner.remote("own_mod")])

    plain, inner = spoke.get(outer.remote())
    assert [plain["env"][name] for name in "ABC"] == ["job", "task", "task"]
    assert [inner["env"][name] for name in "ABC"] == ["job", "task", "inner"]
    assert plain["own_mod"] == inner["own_mod"] == "own"


def test_paths_of_the_node_and_of_the_variables_stay(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a working_dir adds to PYTHONPATH hid what the node's processes had there before."""
    for name in ("node", "given", "code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"from_{name}.py").write_text(f"VERSION = {name!r}\n")
    inherited = os.pathsep.join([str(tmp_path / "node"), os.environ.get("PYTHONPATH", "")])
    start(PYTHONPATH=inherited)
    env = {"working_dir": str(tmp_path / "code"), "env_vars": {"PYTHONPATH": str(tmp_path / "given")}}

    @spoke.remote(runtime_env=env)
    def find() -> tuple[str, str]:
        import subprocess

        import from_code  # type: ignore[import-not-found]
        import from_given  # type: ignore[import-not-found]

        line = "import from_code, from_given, from_node; print(from_node.VERSION)"
        done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False)
        return from_code.VERSION + from_given.VERSION, done.stdout.strip()

    assert spoke.get(find.remote()) == ("codegiven", "node")


def test_an_unknown_field_is_named_at_the_first_call(start: Any) -> None:
    start()
    text = error_of(pipp=["x"])
    assert "no field pipp" in text and "pip" in text
    assert looked()["pid"]


def test_a_setup_that_takes_too_long(tmp_path: Path, start: Any) -> None:
    program(tmp_path / "bin", "uv", "import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    start(PATH=with_programs(tmp_path / "bin"))
    text = error_of(uv=["x"], config={"setup_timeout_seconds": 2})
    assert "not there within 2 s" in text and "begun" in text


def test_eager_installation_is_ready_before_the_first_task(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path, "eager_pkg", "1.0")
    start({"pip": ["eager_pkg"], "env_vars": offline(tmp_path)})
    deadline = time.monotonic() + 100
    while not _whole("pip-") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _whole("pip-")
    spoke.shutdown()
    asked: list[str] = []
    request = Client.request

    def noted(self: Client, what: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(what)
        return request(self, what, *args, **kwargs)

    monkeypatch.setattr(Client, "request", noted)
    start({"pip": ["eager_pkg"], "env_vars": offline(tmp_path), "config": {"eager_install": False}})
    assert "env_eager" not in asked
    assert looked("eager_pkg")["eager_pkg"] == "1.0"


def _whole(prefix: str) -> list[Path]:
    return list(root().glob(f"{prefix}*/facts.json"))


def test_f18_the_environment_used_longest_ago_goes_first_and_never_one_in_use(
    tmp_path: Path, start: Any
) -> None:
    directories = []
    for number in range(4):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "data.bin").write_bytes(bytes([number]) * 400_000)
        directories.append(str(directory))
    start(SPOKE_RUNTIME_ENV_CACHE_BYTES=1_000_000)

    @spoke.remote(num_cpus=0, max_restarts=0)
    class Holder:
        def size(self) -> int:
            return os.path.getsize("data.bin")

    holders = [Holder.options(runtime_env={"working_dir": one}).remote() for one in directories]
    assert spoke.get([holder.size.remote() for holder in holders]) == [400_000] * 4
    assert len(parts()) == 4  # over the bound, and all in use
    for holder in holders[:3]:
        spoke.kill(holder)
    deadline = time.monotonic() + 60
    while len(parts()) > 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(parts()) == 2
    assert spoke.get(holders[3].size.remote()) == 400_000


def test_nothing_is_left_after_shutdown(tmp_path: Path, start: Any) -> None:
    wheel(tmp_path, "left_pkg", "1.0")
    start({"env_vars": offline(tmp_path)})
    found = looked("left_pkg", pip=["left_pkg"])
    session = Path(found["prefix"]).parents[2]
    assert session.is_dir()
    look.options(runtime_env={"pip": ["left_pkg", "nothing_of_the_kind"]}).remote()
    spoke.shutdown()
    assert not session.exists()


def test_progress_is_shown_to_the_driver_that_waits(
    tmp_path: Path, start: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    wheel(tmp_path, "shown_pkg", "1.0")
    start({"env_vars": offline(tmp_path)}, log_to_driver=True)
    assert looked("shown_pkg", pip=["shown_pkg"])["shown_pkg"] == "1.0"
    spoke.shutdown()
    assert "Successfully installed shown" in capfd.readouterr().err
