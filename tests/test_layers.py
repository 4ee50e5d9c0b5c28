"""Which module may import which: read from the sources, and proved by importing them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    (
        *("config", "space", "overrides", "yamlfile", "splits", "seeds", "atomic", "capacity", "budget", "caveats"),
        *("history", "jsonfile", "objectives", "price", "looks", "inside", "patience", "scratch", "waiting"),
        *("failures", "notice", "layout", "stored_looks", "folder_files"),
    ),
    (
        *("distances", "distributed", "models", "neighbors", "per_query", "kmeans", "data", "embedding_files"),
        *(
            "counting",
            "torch_defects",
            "gpu_memory",
            "stored",
            "shards",
            "waves",
            "block_folder",
            "snapshot",
            "storage",
        ),
    ),
    ("losses", "see", "divide", "metrics"),
    ("expansion", "learners", "objective", "optim"),
    (
        *("epoch", "clustering", "checkpoint", "baseline", "retrieval", "approximate", "statistics"),
        *("shard_actor", "shard_counts"),
    ),
    ("model_training", "fold_models", "training", "identity", "runs"),
    (
        *("session", "plan", "tensorboard", "workers", "record", "repeats", "embedding", "embedding_pool"),
        *("subjects", "recorded", "study_folder", "local_ray", "generations", "autoscaler", "setbacks", "draining"),
        *("remote_runs", "brought_runs", "fetching", "machine_wait", "seats"),
    ),
    (
        *("train", "trial", "tuner", "admission", "repeating", "probe", "evaluate", "prepare", "samplers", "search"),
        *("warm_start", "report", "measurement", "evaluation_files", "embed", "export", "export_checks", "sharded"),
        *("pictures", "neighbor_pictures", "query", "query_answers", "query_files", "query_galleries"),
    ),
    (
        *("display", "phase_display", "data_display", "data_commands", "phases", "tune", "conclusion"),
        *("evaluate_commands", "embed_commands", "export_commands", "query_commands", "train_commands"),
        *("keeper", "report_commands"),
    ),
    ("cli",),
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
# Inside these, modules may import each other as long as they form no circle.
OPEN_LAYERS = (0, 1, 3, 4, 5, 6, 7, 8)
# What may be imported only so far up; or only by some modules.
LOWEST_LAYER_OF = {"ray": 6, "optuna": 6, "tensorboard": 6, "matplotlib": 6, "torch": 1}
# By room.
ONLY_IN = {"faiss": ("neighbors",), "numba": ("counting",)}


class Edge(NamedTuple):
    """One import statement."""

    importer: str
    imported: str
    line: int
    place: str
    """`top`, or what it stands in: `function`, `typing` (TYPE_CHECKING), `main` (the `__main__` guard)."""

    def __str__(self) -> str:
        return f"{self.importer} -> {self.imported} (line {self.line})"


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(root: Path) -> dict[str, Path]:
    """Every module of the package below a folder."""
    return {module_name(path, root): path for path in sorted((root / "raydml").rglob("*.py"))}


def place_of(node: ast.AST, outer: str) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return "function"
    if isinstance(node, ast.If):
        test = ast.dump(node.test)
        return "typing" if "TYPE_CHECKING" in test else "main" if "__main__" in test else outer
    return outer


def statements(node: ast.AST, place: str = "top") -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, place
        else:
            yield from statements(child, place_of(child, place))


def targets(statement: ast.Import | ast.ImportFrom, modules: dict[str, Path]) -> Iterator[str]:
    """`from raydml import runs` imports a module; `from raydml.runs import resolve` imports raydml.runs."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    assert statement.level == 0, "imports are absolute"
    assert statement.module is not None
    for alias in statement.names:
        whole = f"{statement.module}.{alias.name}"
        yield whole if whole in modules else statement.module


@cache
def edges(root: Path = ROOT) -> list[Edge]:
    """Every import statement of the package."""
    modules = sources(root)
    return [
        Edge(importer, imported, statement.lineno, place)
        for importer, path in modules.items()
        for statement, place in statements(ast.parse(path.read_text(encoding="utf-8")))
        for imported in targets(statement, modules)
    ]


def room(module: str) -> str:
    """`raydml.data.cache` lives in `data`."""
    return module.split(".")[1] if "." in module else ""


def layer(module: str) -> int:
    return LAYER_OF[room(module)] if room(module) else 0


def may_reach_up(edge: Edge) -> bool:
    """Only a `__main__` guard, to the command line, and the functions of the package itself."""
    if edge.importer == "raydml":
        return edge.place == "function"
    return edge.place == "main" and edge.imported == "raydml.cli"


def inner_offences(root: Path = ROOT) -> list[str]:
    """Imports within the package that go up, or sideways where that is not allowed."""
    found = []
    for edge in edges(root):
        if room(edge.imported) == "" or not edge.imported.startswith("raydml"):
            continue
        here, there = layer(edge.importer), layer(edge.imported)
        sideways = here == there and (room(edge.importer) == room(edge.imported) or here in OPEN_LAYERS)
        if not (there < here or sideways or may_reach_up(edge)):
            found.append(f"{edge}: layer {here} imports layer {there}")
    return found


def outer_offences(root: Path = ROOT) -> list[str]:
    """Imports of other packages by modules that must not know them, lazy or not."""
    found = []
    for edge in edges(root):
        package = edge.imported.partition(".")[0]
        allowed = ONLY_IN.get(package)
        if edge.importer != "raydml" and layer(edge.importer) < LOWEST_LAYER_OF.get(package, 0):
            found.append(f"{edge}: only from layer {LOWEST_LAYER_OF[package]} upwards")
        if allowed is not None and room(edge.importer) not in allowed:
            found.append(f"{edge}: only in {', '.join(allowed)}")
    return found


def eager_adapters(root: Path = ROOT) -> list[str]:
    """The command line must be able to refuse bad input without them."""
    adapters = {*LAYERS[7], *LAYERS[8]}
    return [
        str(e) for e in edges(root) if e.importer == "raydml.cli" and room(e.imported) in adapters and e.place == "top"
    ]


def circle(root: Path = ROOT) -> list[str]:
    """Modules that import each other in a circle while they are loaded."""
    modules = sources(root)
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for edge in edges(root):
        if edge.place == "top" and edge.imported in modules and edge.imported != edge.importer:
            graph[edge.importer].add(edge.imported)
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_module_has_a_layer() -> None:
    assert {room(name) for name in sources(ROOT)} - {""} == set(LAYER_OF)


def test_imports_go_down() -> None:
    assert not inner_offences(), "\n".join(inner_offences())


def test_other_packages_stay_in_their_rooms() -> None:
    assert not outer_offences(), "\n".join(outer_offences())


def test_the_command_line_loads_adapters_late() -> None:
    assert not eager_adapters(), "\n".join(eager_adapters())


def test_no_circle() -> None:
    assert circle() == []


def test_importing_raydml_does_nothing_but_define() -> None:
    """A module's body holds definitions and constants, no loops and no calls made for their effect."""
    allowed_calls = {"import_ray", "optuna.logging.set_verbosity"}
    for name, path in sources(ROOT).items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            assert not isinstance(node, ast.For | ast.While | ast.With), f"{name}, line {node.lineno}"
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                assert ast.unparse(node.value.func) in allowed_calls, f"{name}, line {node.lineno}"


@pytest.mark.parametrize(
    ("module", "line", "offence"),
    [
        (
            "metrics",
            "from raydml.epoch import embed",
            "raydml.metrics -> raydml.epoch (line 1): layer 2 imports layer 4",
        ),
        ("metrics", "from raydml import losses", "raydml.metrics -> raydml.losses (line 1): layer 2 imports layer 2"),
        (
            "epoch",
            "def f():\n    from raydml import tune",
            "raydml.epoch -> raydml.tune (line 2): layer 4 imports layer 8",
        ),
        ("losses/pair", "import ray.train", "raydml.losses.pair -> ray.train (line 1): only from layer 6 upwards"),
        ("runs", "def f():\n    import optuna", "raydml.runs -> optuna (line 2): only from layer 6 upwards"),
        (
            "config/losses/pair",
            "import torch",
            "raydml.config.losses.pair -> torch (line 1): only from layer 1 upwards",
        ),
        ("metrics", "import faiss", "raydml.metrics -> faiss (line 1): only in neighbors"),
        ("cli", "from raydml import tune", "raydml.cli -> raydml.tune (line 1)"),
    ],
)
def test_an_edge_that_breaks_the_rule_is_named(tmp_path: Path, module: str, line: str, offence: str) -> None:
    for name in (module, "tune", "epoch", "losses/__init__", "__init__"):
        path = tmp_path / "raydml" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line if name == module else "", encoding="utf-8")
    assert [*inner_offences(tmp_path), *outer_offences(tmp_path), *eager_adapters(tmp_path)] == [offence]


def test_a_circle_is_named(tmp_path: Path) -> None:
    for name, line in (("__init__", ""), ("space", "from raydml import seeds"), ("seeds", "import raydml.space")):
        path = tmp_path / "raydml" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(line, encoding="utf-8")
    assert set(circle(tmp_path)) == {"raydml.space", "raydml.seeds"}


IMPORT_EACH = """
import importlib, json, sys
def load(name, forbidden):
    for loaded in [m for m in sys.modules if m == "raydml" or m.startswith("raydml.")]:
        del sys.modules[loaded]  # as fresh as a new interpreter, without loading torch again
    importlib.import_module(name)
    found = [package for package in forbidden if package in sys.modules]
    if found:
        sys.exit(f"{name} loads {found}")
for name, forbidden in json.load(sys.stdin):
    load(name, forbidden)
"""


def test_modules_below_the_adapters_load_no_ray_and_the_lowest_no_torch() -> None:
    """In one process, lowest layer first, which ends at the first module that loads what it must not."""
    names = sorted((name for name in sources(ROOT) if layer(name) <= 5), key=layer)
    forbidden = [(name, ["ray", *(["torch"] if layer(name) == 0 else [])]) for name in names]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH],
        input=json.dumps(forbidden),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert names[0] == "raydml"
    assert done.returncode == 0, done.stderr
