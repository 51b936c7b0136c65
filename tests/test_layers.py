"""Allowed imports between packages; docs/design.md has the same list."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from rp2k_lab import PROJECT

PACKAGE = PROJECT / "rp2k_lab"
# Package to the packages that it may import; all may import core, and all but core native.
ALLOWED = {
    "core": "",
    "native": "",
    "aug": "",
    "device": "",
    "model": "",
    "dataset": "aug",
    "config": "",  # the option classes are the choices' own; rp2k_lab/plugins.py collects them
    "pages": "dataset",
    "tracking": "config extension",
    "extension": "",
    "evaluation": "config dataset device model tracking",
    "train": "aug config dataset device evaluation extension model tracking",
    "ablation": "config dataset evaluation pages tracking",
    "sweep": "ablation config dataset device evaluation tracking",
    "analysis": "config dataset device evaluation extension model pages sweep tracking train",
    "serving": "evaluation model tracking",
    "enrollment": "analysis config dataset evaluation extension model pages tracking train",
    "task": "ablation analysis config dataset device enrollment evaluation extension model pages serving sweep"
    " tracking train",
    "cli": "config device tracking",  # imports a task by name when it runs
    "demo": "analysis cli config dataset device evaluation model pages task tracking train",
    "notebook": "analysis cli config dataset device evaluation pages tracking train",
}


def imports(file: Path) -> set[str]:
    """Return the packages of rp2k_lab that a file imports, also inside functions."""
    found, tree = set(), ast.parse(file.read_text("utf-8"))
    if file == PACKAGE / "config" / "schema.py":  # its type checker knows the base classes of the choices
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "rp2k_lab":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    names = {name.removeprefix("rp2k_lab.").split(".")[0] for name in found if f"{name}.".startswith("rp2k_lab.")}
    names |= found & ALLOWED.keys()
    return names & ALLOWED.keys()


def test_packages_import_only_lower_packages():
    wrong = {
        f"{file.relative_to(PACKAGE)} imports {name}"
        for package, allowed in ALLOWED.items()
        for file in (PACKAGE / package).rglob("*.py")
        for name in imports(file) - {package, *allowed.split(), "core", *({"native"} if package != "core" else ())}
    }
    assert not wrong


def test_all_packages_are_listed_without_a_cycle():
    assert {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()} == ALLOWED.keys()
    TopologicalSorter({package: allowed.split() for package, allowed in ALLOWED.items()}).prepare()


def test_few_files_at_the_top():
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 5
