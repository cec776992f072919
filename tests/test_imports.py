"""Imports only go down, and heavy packages stay in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "apinet_jax"
FILES = sorted(ROOT.rglob("*.py"))

# The floor of each module; a module imports from its own floor or below.
FLOORS = {
    0: (
        "array_types",
        "durations",
        "errors",
        "hosts",
        "mesh",
        "paths",
        "seal",
        "writer",
        "config",
        "signals",
    ),
    1: (
        "pairs",
        "losses",
        "metrics",
        "optim",
        "models",
        "data",
        "memory",
        "mirror",
        "sizing",
        "curves",
        "comparison",
        "calibration",
        "config_file",
        "program_costs",
    ),
    2: ("checkpoint", "checkpoint_files", "microbatches"),
    3: (
        "steps",
        "auto",
        "idle_settings",
        "assemble",
        "compilation",
        "run_lock",
        "run_record",
        "sweep_file",
        "sweep_runs",
    ),
    4: ("train", "evaluate", "loop", "report"),
    5: ("commands",),
    6: ("main", "__main__", "command_line"),
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Modules that a file imports, also inside functions; `import_from` with its submodules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def users_of(package: str) -> set[str]:
    return {
        module(path)
        for path in FILES
        if any(name == package or name.startswith(package + ".") for name in imports(path))
    }


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_only_go_down(path):
    if path == ROOT / "__init__.py":
        return
    own = FLOOR_OF[module(path).split(".")[1]]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "apinet_jax" and len(parts) > 1 and parts[1] in FLOOR_OF:
            assert FLOOR_OF[parts[1]] <= own, f"{module(path)} imports {name}, a floor above it"


def test_heavy_packages_stay_in_their_rooms():
    assert users_of("orbax") == {"apinet_jax.checkpoint"}
    assert users_of("grain") == {"apinet_jax.data.pipeline"}
    assert users_of("tensorflow") == set()
    assert users_of("torch") == {"apinet_jax.models.torch_files"}
    assert users_of("huggingface_hub") == {"apinet_jax.models.hub"}
    flax = {name for name in users_of("flax") if not name.startswith("apinet_jax.models")}
    assert flax == set()
    jax_in_data = {name for name in users_of("jax") if name.startswith("apinet_jax.data")}
    assert jax_in_data == set()


def test_no_file_wants_to_be_two():
    long = {module(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > 300} == {}
    assert not list(ROOT.rglob("utils.py"))


def test_a_training_run_loads_no_tensorflow():
    code = "import sys, apinet_jax.train; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, check=True)
