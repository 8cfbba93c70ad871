"""Pictures of graphs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from typing import Any

from spoke import absent
from spoke.dag.input_node import InputAttributeNode
from spoke.dag.nodes import ClassMethodNode, ClassNode, DAGNode, FunctionNode, OutputNode
from spoke.dag.walking import upstream_first


def dot_of(dag: DAGNode) -> str:
    """The graph in the language of graphviz: a box per node, an arrow from each to those that use it."""
    nodes = list(upstream_first(dag))
    number = {node.get_stable_uuid(): index for index, node in enumerate(nodes)}
    lines = [f'  n{index} [label="{_label(node)}"];' for index, node in enumerate(nodes)]
    for node in nodes:
        mine = number[node.get_stable_uuid()]
        lines += [f"  n{number[child.get_stable_uuid()]} -> n{mine};" for child in node.children()]
    return "\n".join(["digraph G {", "  rankdir=LR;", "  node [shape=box];", *lines, "}", ""])


def _label(node: DAGNode) -> str:
    if isinstance(node, OutputNode):
        text = f"{node.get_method_name()}[{node.index}]"
    elif isinstance(node, ClassMethodNode):
        text = node.get_method_name()
    elif isinstance(node, (FunctionNode, ClassNode)):
        text = repr(node).partition("(")[2].removesuffix(")")
    else:
        text = type(node).__name__ + (f"[{node.key!r}]" if isinstance(node, InputAttributeNode) else "")
    return text.replace("\\", "\\\\").replace('"', '\\"')


def plot(dag: DAGNode, to_file: str | None = None) -> Any:
    """Draw a graph into a file, of the kind that its name's ending says; default "png".

    ".dot" and ".gv" are graphviz's own language and need nothing; other kinds need its ``dot`` program.

    Args:
        to_file: where to; None draws into a file that is removed again, for a notebook to show.

    Returns:
        the picture as an object of IPython, where that is installed; else None

    Raises:
        ImportError: graphviz is not installed.
    """
    text = dot_of(dag)
    if to_file is None:
        with tempfile.TemporaryDirectory() as folder:
            return _draw(text, os.path.join(folder, "graph.png"))
    if to_file.endswith((".dot", ".gv")):
        with open(to_file, "w", encoding="utf-8") as file:
            file.write(text)
        return None
    return _draw(text, to_file)


def _draw(text: str, path: str) -> Any:
    program = shutil.which("dot")
    if program is None:
        raise ImportError(
            "graphviz is required to plot a graph: install its `dot` program, or give a file name that "
            "ends in .dot"
        )
    kind = os.path.splitext(path)[1].removeprefix(".") or "png"
    subprocess.run([program, f"-T{kind}", "-o", path], input=text, text=True, check=True)
    try:
        from IPython import display  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    return display.Image(filename=path)


__getattr__ = absent.getter(__name__)
