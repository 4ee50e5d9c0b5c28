"""Sizes, docstrings, annotations and words: what the style asks of the sources and a machine can check."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted(path for folder in ("raydml", "tests") for path in (ROOT / folder).rglob("*.py"))
PACKAGE = [path for path in CODE if path.is_relative_to(ROOT / "raydml")]
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.ClassDef | Function


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, Function)]


def length(function: Function) -> int:
    """Lines of a function without its decorators: tables of test cases are no code."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def public(node: ast.AST) -> Iterator[Documented]:
    """What a reader of the documentation meets: not what is private, nor inside of a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public(child)


@pytest.mark.parametrize("path", CODE, ids=ids(CODE))
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 300
    for function in functions(path):
        assert length(function) <= 60, function.name


def test_most_functions_are_very_short(record_property: Callable[[str, object], None]) -> None:
    lengths = sorted(length(function) for path in PACKAGE for function in functions(path))
    median, ninth = statistics.median(lengths), lengths[len(lengths) * 9 // 10]
    record_property("median lines of a function", median)
    assert median <= 12
    assert ninth <= 40


def test_there_is_at_least_a_line_of_test_for_a_line_of_source() -> None:
    count = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in CODE}
    source = sum(count[path] for path in PACKAGE)
    assert sum(count.values()) - source >= source


@pytest.mark.parametrize("path", PACKAGE, ids=ids(PACKAGE))
def test_everything_public_has_a_docstring(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module)
    missing = [f"line {node.lineno}: {node.name}" for node in public(module) if not ast.get_docstring(node)]
    assert not missing


@pytest.mark.parametrize("path", PACKAGE, ids=ids(PACKAGE))
def test_every_argument_and_every_return_is_annotated(path: Path) -> None:
    for function in functions(path):
        a = function.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        bare = [arg.arg for arg in arguments if arg.annotation is None and arg.arg not in ("self", "cls")]
        assert not bare, f"{function.name}, line {function.lineno}: {bare}"
        assert function.returns is not None, f"{function.name}, line {function.lineno}"


@pytest.mark.parametrize("path", PACKAGE, ids=ids(PACKAGE))
def test_code_is_ascii(path: Path) -> None:
    content = path.read_text(encoding="utf-8")
    strange = [f"line {n}: {line}" for n, line in enumerate(content.splitlines(), start=1) if not line.isascii()]
    assert not strange


@pytest.mark.parametrize("path", PACKAGE, ids=ids(PACKAGE))
def test_devices_arrive_as_arguments(path: Path) -> None:
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "cuda"]


def test_no_module_is_a_drawer_for_anything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [path for path in CODE if drawers & set(path.relative_to(ROOT).with_suffix("").parts)]


# Written in pieces, or this file would contain them.
FORBIDDEN = tuple(
    re.compile("".join(pieces))
    for pieces in (
        (r"/wor", r"k/"),
        (r"/ro", r"ot/"),
        (r"/ho", r"me/\w"),
        (r"/tm", r"p/\w"),
        (r"/User", r"s/\w"),
        (r"index", r"-url"),
        (r"pypi", r"\.org"),
        (r"pytho", r"nhosted"),
        (r"artifac", r"tory"),
        (r"https?://\d+\.", r"\d+"),
    )
)


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            found += [f"{name}, line {number}: {line.strip()}" for pattern in FORBIDDEN if pattern.search(line)]
    assert not found, "\n".join(found)
