"""Imports only go down, and heavy packages stay in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "apinet_jax"
FILES = sorted(ROOT.rglob("*.py"))

# Floors from the ground up; rooms on one floor do not know each other. A module imports from its
# own room or from lower floors.
FLOORS = (
    ("config", "config_checks", "system"),
    ("models", "data"),
    ("method",),
    ("workdir",),
    ("setup",),
    (
        *("training", "loop", "evaluation", "results", "feature_cache"),
        *("inference", "trained_network", "pretrained_trunk", "batches"),
    ),
    ("sweeps", "answers"),
    ("exports", "serving"),
    ("commands",),
    ("main", "__main__"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
STORY = FLOORS[5]  # one room, though its modules are files of their own: the top-level story
GROUND = FLOORS[0]
TOP = FLOORS[9]


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


def room(name: str) -> str:
    """The room of a module: its folder, or itself at the top level."""
    return name.split(".")[1]


def may_import(user: str, used: str) -> bool:
    """Whether a room may import another one."""
    same_room = user == used or any({user, used} <= set(rooms) for rooms in (STORY, GROUND, TOP))
    return same_room or FLOOR_OF[used] < FLOOR_OF[user]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_only_go_down(path):
    if path == ROOT / "__init__.py":
        return
    user = room(module(path))
    for name in imports(path):
        if name.startswith("apinet_jax."):
            used = room(name)
            assert used in FLOOR_OF, f"{module(path)} imports {name}, which has no floor"
            assert may_import(user, used), f"{module(path)} imports {name}: not a lower floor"


def test_every_module_has_a_floor():
    rooms = {room(module(path)) for path in FILES if path != ROOT / "__init__.py"}
    assert rooms <= set(FLOOR_OF)


def test_heavy_packages_stay_in_their_rooms():
    assert users_of("orbax") == {"apinet_jax.workdir.checkpoint"}
    assert users_of("grain") == {"apinet_jax.data.pipeline"}
    assert users_of("tensorflow") == set()
    assert users_of("torch") == {"apinet_jax.models.weights.files"}
    assert users_of("huggingface_hub") == {"apinet_jax.models.weights.hub"}
    flax = {name for name in users_of("flax") if not name.startswith("apinet_jax.models")}
    assert flax == {"apinet_jax.method.interaction"}
    jax_in_data = {name for name in users_of("jax") if name.startswith("apinet_jax.data")}
    assert jax_in_data == set()


def test_the_report_is_above_the_other_answers():
    users = users_of("apinet_jax.answers.report")
    others = {name for name in users if not name.startswith("apinet_jax.answers.report.")}
    assert {name for name in others if room(name) == "answers"} == set()


def test_no_file_wants_to_be_two():
    long = {module(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > 300} == {}
    assert not list(ROOT.rglob("utils.py"))


def test_a_training_run_loads_no_tensorflow():
    code = "import sys, apinet_jax.training; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, check=True)


def test_naming_a_photo_imports_only_what_it_needs():
    packages = ("grain", "matplotlib", "scipy", "sklearn", "tensorflow_datasets")
    code = f"import sys, apinet_jax.commands.predict; print(sys.modules.keys() & set({packages}))"
    found = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT.parent, text=True)
    assert found == "set()\n"


def test_names_of_test_files_are_unique():
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest imports test files by their names only"
