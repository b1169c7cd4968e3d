"""Imports run one way, along the data, and importing the library costs nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import latentpress

PACKAGE = Path(latentpress.__file__).parent

# From the text to the user: a module may import from its own line and the lines above it, never from one below.
LAYERS = (
    ("errors",),
    ("paths", "files", "branches", "cache_entries"),
    ("base_model", "tokens", "latents", "attention", "lora"),
    ("backbone",),
    ("windows", "ratios", "compressors", "arguments", "decoder", "residual"),
    ("checkpoints",),
    ("model", "contexts", "session", "sizes", "full_text", "focus"),
    ("press",),
    ("data", "evaluation", "inspection"),
    ("training", "serving"),
    ("labels", "analysis", "synthesis"),
    ("cli", "demo", "integrations", "plots"),
)
# One page in two files, which name each other: what loads a press, and the press.
SAME_PART = {"loading": "press"}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The two doors to the library may import everything.
MODULES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py", PACKAGE / "__main__.py"})


def dotted_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> Iterator[str]:
    """Yields what a file imports from latentpress, inside functions and for type checking too, as "latentpress.a.b"."""
    package = dotted_name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "latentpress")
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (above, node.module) if part)
            if source == "latentpress":
                yield from (home_of(alias.name) for alias in node.names)
            elif source.startswith("latentpress."):
                yield source


def home_of(name: str) -> str:
    """Names the module behind `from latentpress import name`."""
    if name in RANK:
        return f"latentpress.{name}"
    value_is_here = name not in latentpress._HOME_OF
    return "latentpress.errors" if value_is_here else latentpress._HOME_OF[name]


def layer_name(module: str) -> str:
    """Gives the part of the package that a module is in; a bare `import latentpress` reaches everything in press."""
    part = module.split(".")[1] if "." in module else "press"
    return SAME_PART.get(part, part)


@pytest.mark.parametrize("path", MODULES, ids=dotted_name)
def test_module_imports_nothing_from_a_later_layer(path: Path) -> None:
    part = layer_name(dotted_name(path))
    assert part in RANK, f"latentpress.{part} has no layer: add it to LAYERS where the data passes it"
    for imported in imported_modules(path):
        other = layer_name(imported)
        assert other in RANK, f"{dotted_name(path)} imports {imported}, which has no layer"
        assert RANK[other] <= RANK[part], f"{dotted_name(path)} imports {imported}, which comes later in the data's way"


def test_parts_of_the_package_import_each_other_without_a_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        part = layer_name(dotted_name(path))
        graph.setdefault(part, set()).update(set(map(layer_name, imported_modules(path))) - {part})
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", [p for p in MODULES if "compressors" in p.parts], ids=dotted_name)
def test_compressors_never_import_what_uses_them(path: Path) -> None:
    assert {layer_name(module) for module in imported_modules(path)}.isdisjoint({"training", "serving", "cli"})


@pytest.mark.parametrize("path", [p for p in MODULES if p.match("data/records.py")], ids=dotted_name)
def test_records_depend_on_errors_and_tokens_only(path: Path) -> None:
    assert {layer_name(module) for module in imported_modules(path)} <= {"data", "errors", "tokens"}


@pytest.mark.parametrize("module", ["latentpress", "latentpress.errors", "latentpress.base_model", "latentpress.cli"])
def test_importing_needs_neither_torch_nor_transformers(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'peft', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_listed_and_defined_where_it_is_looked_for() -> None:
    assert set(latentpress.__all__) <= set(dir(latentpress))
    for name, module in latentpress._HOME_OF.items():
        path = PACKAGE / f"{module.removeprefix('latentpress.')}.py"
        if path.exists():  # read, not imported: that would load torch
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    eager = set(latentpress.__all__) - set(latentpress._HOME_OF)
    assert all(hasattr(latentpress, name) for name in eager)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'pres'"):
        latentpress.pres  # noqa: B018


def test_every_error_is_public_and_caught_by_the_root() -> None:
    from latentpress import errors

    assert set(errors.__all__) <= set(latentpress.__all__)
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), latentpress.LatentpressError)
        assert f"{name}(" in errors.__doc__ or f"{name} " in errors.__doc__, f"{name} is missing in the drawing"
