"""The rules of the code base as tests: layers, cycles, sizes, forbidden imports, words, docstrings."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES, FUNCTION_LINES, LINE_WIDTH = 600, 80, 110

TOP_LEVEL = {"spoke", "ray_compat", "csrc", "tests", "examples", "pyproject.toml", "setup.py", "README.md"}
# Config is the one reader; the workloads of the benchmark run without Spoke, beside Ray,
# and the guest package stands in for programs that read Ray's variables.
ENVIRONMENT_READERS = {"spoke.config", "spoke.boot", "spoke.supervisor", "spoke.bench.workloads"}
CORE_FORBIDDEN = {
    "time",
    "random",
    "os",
    "socket",
    "threading",
    "asyncio",
    "logging",
    "select",
    "selectors",
    "subprocess",
    "multiprocessing",
    "secrets",
    "uuid",
    "datetime",
    "concurrent",
}
# Words that the vocabulary replaces (left), and words that tell of work not done.
BANNED_WORDS = {
    r"\bGCS\b": "hub",
    r"\braylets?\b": "agent",
    r"\bplasma\b": "segment, block",
    r"\bhead service\b": "hub",
    r"\bTODO\b": "do it",
    r"\bFIXME\b": "fix it",
    r"\bXXX\b": "say it",
    r"\bHACK\b": "say why",
    r"\bNotImplementedError\b(?!\(f?\"|: )": "implement it or name what is missing",
}


def _python_files(*folders: str) -> list[Path]:
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.py") if "build" not in path.parts
    )


def _module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@functools.cache
def _modules() -> dict[str, Path]:
    return {_module_of(path): path for path in _python_files("spoke", "ray_compat")}


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below ``if TYPE_CHECKING:``, which never run."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _runtime_nodes(other)
            continue
        yield from _runtime_nodes(child)


def _imported(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names that a file imports anywhere, with their lines."""
    module = _module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _runtime_nodes(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


@functools.cache
def _imports_of(module: str) -> dict[str, int]:
    """Modules of this project that `module` imports: name -> line."""
    found: dict[str, int] = {}
    for name, line in _imported(_modules()[module]):
        known = name if name in _modules() or name == "spoke._native" else name.rpartition(".")[0]
        if (known in _modules() or known == "spoke._native") and known != module:
            found.setdefault(known, line)
    return found


# -- layers ---------------------------------------------------------------------------------------


@functools.cache
def _layers() -> list[tuple[str, list[str]]]:
    """The table of layers in spoke/DESIGN.md, lowest first: name, patterns of modules."""
    text = (ROOT / "spoke/DESIGN.md").read_text(encoding="utf-8")
    section = text.split("## Layers", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (\w+) \| (.+?) \|$", section, re.MULTILINE)
    return [(name, " ".join(re.findall(r"`([^`]+)`", cell)).split()) for name, cell in rows if name != "row"]


def _row_of(module: str) -> int | None:
    """Index of the layer that lists `module`; the longest pattern wins."""
    short = module.removeprefix("spoke.") if module != "spoke" else "__init__"
    best: tuple[int, int] | None = None
    for index, (_, patterns) in enumerate(_layers()):
        for pattern in patterns:
            stem = pattern.removesuffix("/*").replace("/", ".")
            if short == stem or short.startswith(stem + "."):
                best = max(best or (-1, 0), (len(stem), index))
    return best[1] if best else None


def test_every_module_has_a_layer() -> None:
    homeless = [module for module in [*_modules(), "spoke._native"] if _row_of(module) is None]
    assert not homeless, f"not in the table of layers in spoke/DESIGN.md: {homeless}"


def test_modules_import_lower_layers_only() -> None:
    wrong = []
    for module, path in _modules().items():
        own = _row_of(module)
        for other, line in _imports_of(module).items():
            row = _row_of(other)
            if own is not None and row is not None and row > own:
                layers = f"{_layers()[own][0]} above {_layers()[row][0]}"
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {other}, wanted: {layers}")
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    """Cycles of imports, function-local ones included (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in _imports_of(module):
            if other not in _modules():
                continue
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = []
            while True:
                group.append(stack.pop())
                if group[-1] == module:
                    break
            if len(group) > 1:
                cycles.append(sorted(group))

    for module in _modules():
        if module not in index:
            visit(module)
    assert not cycles, f"modules that import each other: {cycles}"


def test_ray_compat_uses_only_spoke() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _python_files("ray_compat")
        for name, line in _imported(path)
        if name.startswith(("spoke._", "spoke.core", "spoke.wire", "spoke.client"))
    ]
    assert not wrong, "\n".join(wrong)


# -- what a module must not hold ------------------------------------------------------------------


def test_core_is_pure() -> None:
    wrong = []
    for path in _python_files("spoke/core"):
        where = path.relative_to(ROOT)
        wrong += [
            f"{where}:{line} imports {name}"
            for name, line in _imported(path)
            if name.split(".")[0] in CORE_FORBIDDEN
        ]
        wrong += [
            f"{where}:{node.lineno} is async"
            for node in ast.walk(_tree(path))
            if isinstance(node, ast.AsyncFunctionDef)
        ]
        wrong += [f"{where}:{node.lineno} iterates over a set" for node in _set_iterations(_tree(path))]
    assert not wrong, "\n".join(wrong)


def _set_iterations(tree: ast.Module) -> Iterator[ast.expr]:
    """Loops straight over a set display or ``set(...)``: their order is not the same in every run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.comprehension):
            iterated = node.iter
            called = isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Name)
            name = iterated.func.id if called else ""  # type: ignore[attr-defined]
            if isinstance(iterated, ast.Set | ast.SetComp) or name in ("set", "frozenset"):
                yield iterated


def test_only_config_reads_the_environment() -> None:
    wrong = []
    for module, path in _modules().items():
        if module in ENVIRONMENT_READERS or module.startswith("ray_compat"):
            continue
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"):
                if _is_write(path, node):
                    continue
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


def _is_write(path: Path, node: ast.Attribute) -> bool:
    """Whether the line sets variables (for user code of this process) instead of reading them."""
    line = path.read_text(encoding="utf-8").splitlines()[node.lineno - 1].strip()
    return bool(re.match(r"os\.environ(\[[^\]]+\] = |\.update\(|\.pop\([^)]*\)$|\.clear\(\))", line))


def test_no_banned_words() -> None:
    wrong = []
    files = [
        *_python_files("spoke", "ray_compat"),
        *sorted((ROOT / "csrc").rglob("*.[ch]*")),
        ROOT / "spoke/DESIGN.md",
    ]
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            wrong += [
                f"{path.relative_to(ROOT)}:{number} {match.group()}: {instead}"
                for pattern, instead in BANNED_WORDS.items()
                if (match := re.search(pattern, line)) and not _is_foreign_name(line, match)
            ]
    assert not wrong, "\n".join(wrong)


def _is_foreign_name(line: str, match: re.Match[str]) -> bool:
    """Whether the word is quoted as a name of Ray's or Python's, which programs must be able to use."""
    before, after = line[: match.start()][-1:], line[match.end() :][:1]
    return before in "\"'`" and after in "\"'`"


# -- sizes ----------------------------------------------------------------------------------------


def test_files_are_short() -> None:
    files = [*_python_files("spoke", "ray_compat", "tests", "examples"), *(ROOT / "csrc").rglob("*.[ch]*")]
    long = {
        str(p.relative_to(ROOT)): n
        for p in files
        if (n := len(p.read_text("utf-8").splitlines())) > FILE_LINES
    }
    assert not long, f"over {FILE_LINES} lines, is each still one concept? {long}"


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {size} lines"
        for path in _python_files("spoke", "ray_compat", "tests", "examples")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (size := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_lines_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _python_files("spoke", "ray_compat")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > LINE_WIDTH and "http" not in line
    ]
    assert not long, f"wider than {LINE_WIDTH}: {long}"


# -- documents ------------------------------------------------------------------------------------


def test_every_module_says_its_rules() -> None:
    bare = [
        str(path.relative_to(ROOT))
        for path in _python_files("spoke", "ray_compat", "tests")
        if path.read_text("utf-8").strip() and not ast.get_docstring(_tree(path))
    ]
    assert not bare, f"no module docstring: {bare}"


def test_public_names_have_docstrings() -> None:
    spoke = pytest.importorskip("spoke")
    assert len(spoke.__all__) == len(set(spoke.__all__)), "a name twice in spoke.__all__"
    bare = []
    for name in spoke.__all__:
        item = getattr(spoke, name)
        if (callable(item) or inspect.ismodule(item)) and not inspect.getdoc(item):
            bare.append(name)
    assert not bare, f"no docstring: {bare}"


def test_public_functions_are_annotated() -> None:
    bare = []
    for path in _python_files("spoke"):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
                if missing or node.returns is None:
                    bare.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {missing}")
    assert not bare, "\n".join(bare)


def test_top_level_holds_only_what_belongs_there() -> None:
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in listed.stdout.splitlines()}
    extra = sorted(name for name in top if name not in TOP_LEVEL and not name.startswith("."))
    assert not extra, f"not at the top level, please: {extra}"


def test_nothing_tells_of_the_machine_it_was_written_on() -> None:
    pattern = re.compile(r"/(home|work|root|Users)/\w+")
    wrong = [
        f"{path.relative_to(ROOT)}:{number} {match.group()}"
        for path in _python_files("spoke", "ray_compat", "tests", "examples")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := pattern.search(line)) and path != Path(__file__)
    ]
    assert not wrong, "\n".join(wrong)
