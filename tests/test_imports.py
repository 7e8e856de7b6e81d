"""The direction of imports, read off the sources: ground floor <- weights <- grammar, passes, backends <- the rest."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = (
    "specc.cache",
    "specc.codes",
    "specc.diagnostics",
    "specc.files",
    "specc.ir",
    "specc.npz",
    "specc.ops",
    "specc.targets",
)
MIDDLE = ("specc.grammar", "specc.passes", "specc.backends.torch", "specc.backends.tvm")
FOLDERS = {"grammar": "specc.grammar", "passes": "specc.passes", "backends": "specc.backends"}


def modules() -> dict[str, Path]:
    """All modules of the product by their names under `specc`."""
    found = {}
    for folder in ("specc", *FOLDERS):
        top = ROOT / folder
        for path in sorted(top.rglob("*.py")):
            inner = path.relative_to(top).with_suffix("").parts
            if folder == "specc" and inner[0] in FOLDERS:
                continue  # the links to the other folders
            parts = [FOLDERS.get(folder, folder), *inner]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path, *, late: bool = True) -> Iterator[str]:
    """The names that a source imports; without `late`, only those that are needed when it is imported itself."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        tree = pending.pop()
        if isinstance(tree, ast.Import):
            yield from (alias.name for alias in tree.names)
        elif isinstance(tree, ast.ImportFrom):
            assert not tree.level, f"{path} imports by a relative name"
            yield from (f"{tree.module}.{alias.name}" for alias in tree.names)
        elif late or not (isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef)) or _for_types_alone(tree)):
            pending += ast.iter_child_nodes(tree)


def _for_types_alone(tree: ast.AST) -> bool:
    return isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING"


def inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_walk_finds_the_house() -> None:
    assert {"specc", "specc.ir.graph", "specc.ops", "specc.weights.match", "specc.backends.torch.module"} <= set(
        MODULES
    )
    assert "specc.ir.dims" in {name.rpartition(".")[0] for name in imports(MODULES["specc.ir.types"])}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    if inside(name, GROUND):
        allowed: tuple[str, ...] = GROUND
    elif inside(name, ("specc.weights",)):
        allowed = (*GROUND, "specc.weights")
    elif inside(name, MIDDLE):
        own = next(package for package in MIDDLE if inside(name, (package,)))
        allowed = (*GROUND, "specc.weights", own)
    else:
        return
    wrong = [found for found in imports(MODULES[name]) if inside(found, ("specc",)) and not inside(found, allowed)]
    assert not wrong, f"{name} imports {', '.join(wrong)}"


@pytest.mark.parametrize("name", [name for name in MODULES if not inside(name, ("specc.backends", "specc.testing"))])
def test_slow_libraries_are_imported_when_they_are_needed(name: str) -> None:
    slow = [found for found in imports(MODULES[name], late=False) if inside(found, ("torch", "tvm", "onnxruntime"))]
    assert not slow, f"{name} imports {', '.join(slow)} at once"


@pytest.mark.parametrize("name", [n for n in MODULES if not inside(n, ("specc.testing",))])
def test_libraries_of_the_tests_are_not_needed(name: str) -> None:
    packages = ("hypothesis", "pytest", "timm", "torchvision", "sklearn")
    wrong = [found for found in imports(MODULES[name]) if inside(found, packages)]
    assert not wrong, f"{name} imports {', '.join(wrong)}"


@pytest.mark.parametrize("package", ["specc", "specc.grammar", "specc.passes", "specc.weights", "specc.cli"])
def test_importing_loads_neither_torch_nor_tvm(package: str) -> None:
    program = f"import sys, {package}; print(*[m for m in ('torch', 'tvm') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not found.stdout.split()


def test_checking_a_spec_loads_no_arrays() -> None:
    spec = ROOT / "examples" / "digits.specc"
    program = f"""
import sys
from specc.cli import execute
code = execute(["check", {str(spec)!r}])
print(code, *[m for m in ("numpy", "torch", "tvm", "onnx") if m in sys.modules], file=sys.stderr)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stderr.split() == ["0"]
