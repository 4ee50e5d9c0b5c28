"""What the sources may not do: make code of data. What else reads foreign bytes is named here, with the reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "raydml").rglob("*.py"))

# Modules that read objects, or programs, and nothing else.
FORBIDDEN_MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg"),
    *("tarfile", "zipfile", "xml", "code", "codeop", "runpy", "imp", "pty", "telnetlib"),
    *("yaml",),  # PyYAML: ours is ruamel's safe loader
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "importlib.import_module", "builtins.eval", "builtins.exec"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("torch.hub.load", "torch.jit.load", "joblib.load", "np.fromregex", "pd.read_pickle", "tempfile.mktemp"),
}
# file: what it imports or calls, and why that is safe.
ALLOWED = {
    ("raydml/checkpoint.py", "from pickle import UnpicklingError"),  # the name of an error
}
# Calls with an argument that decides whether data may be code.
NEEDED_ARGUMENTS = {
    "torch.load": "weights_only=True",
    "YAML": "typ='safe'",
    "jinja2.Environment": "autoescape=True",
    "np.load": "allow_pickle=False",
    "Image.open": "formats=",
}
ALLOWED_WITHOUT = {
    ("raydml/yamlfile.py", "YAML()"),  # writes
}
# Programs that are started: never through a shell, never by a name that data hold.
PROGRAMS = {
    ("raydml/identity.py", "'git'"),
    ("raydml/notice.py", "_ray_command()"),
    ("raydml/phases.py", "sys.executable"),
}


def offences(source: str, file: str = "raydml/x.py") -> list[str]:
    return [f"line {node.lineno}: {said}" for node, said in _found(ast.parse(source), file)]


def _found(module: ast.Module, file: str) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            forbidden = {name.partition(".")[0] for name in names} & FORBIDDEN_MODULES
            if forbidden and (file, ast.unparse(node)) not in ALLOWED:
                yield node, ast.unparse(node)
        if isinstance(node, ast.Call):
            yield from ((node, said) for said in _of_call(node, file))


def _of_call(node: ast.Call, file: str) -> Iterator[str]:
    name, text = ast.unparse(node.func), ast.unparse(node)
    if name in FORBIDDEN_CALLS and (file, name) not in ALLOWED:
        yield name
    needed = NEEDED_ARGUMENTS.get(name)
    if needed is not None and needed not in text and (file, text) not in ALLOWED_WITHOUT:
        yield f"{name} without {needed}"
    if name.startswith("subprocess.") and name.rpartition(".")[2] in ("run", "Popen", "call", "check_output"):
        program = node.args[0].elts[0] if node.args and isinstance(node.args[0], ast.List) else None
        if program is None or (file, ast.unparse(program)) not in PROGRAMS or "shell=" in text:
            yield f"{name} of what is no named program"


@pytest.mark.parametrize("path", PACKAGE, ids=[str(path.relative_to(ROOT)) for path in PACKAGE])
def test_no_data_become_code(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))) == []


def test_what_is_allowed_is_there() -> None:
    """An exception that nobody needs any more would hide the next one."""
    sources = {str(path.relative_to(ROOT)): ast.unparse(ast.parse(path.read_text("utf-8"))) for path in PACKAGE}
    for file, text in (*ALLOWED, *ALLOWED_WITHOUT, *PROGRAMS):
        assert text in sources[file], (file, text)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import pickle", "import pickle"),
        ("import xml.etree.ElementTree", "import xml.etree.ElementTree"),
        ("def f():\n    from shelve import open", "from shelve import open"),
        ("from pickle import UnpicklingError", "from pickle import UnpicklingError"),
        ("import json, dill as d", "import json, dill as d"),
        ("eval(text)", "eval"),
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(path, allow_pickle=True)", "np.load without allow_pickle=False"),
        ("YAML(typ='unsafe')", "YAML without typ='safe'"),
        ("Image.open(path)", "Image.open without formats="),
        ("os.system(text)", "os.system"),
        ("subprocess.run(text, shell=True)", "subprocess.run of what is no named program"),
        ("subprocess.run([text])", "subprocess.run of what is no named program"),
    ],
)
def test_it_is_found(source: str, said: str) -> None:
    [found] = offences(source)
    assert found.endswith(f": {said}")


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("torch.load(path, map_location=device, weights_only=True)", "raydml/x.py"),
        ("YAML(typ='safe', pure=True)", "raydml/x.py"),
        ("from pickle import UnpicklingError", "raydml/checkpoint.py"),
        ("subprocess.run([sys.executable, '-m', 'raydml.evaluate'])", "raydml/phases.py"),
        ("model.eval()\nre.compile(x)", "raydml/x.py"),
    ],
)
def test_what_is_safe_is_left_alone(source: str, file: str) -> None:
    assert offences(source, file) == []
