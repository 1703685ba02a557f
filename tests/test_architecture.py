"""The package keeps its shape: imports point one way, frameworks stay behind the seam, files stay short."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PACKAGE = Path(__file__).resolve().parents[1] / "keras_robust"
BASE = {"checks", "files", "norms", "losses", "digests"}
TOOLS = BASE | {"backend", "prediction", "stateless"}
ARROWS = {
    "__init__": {"layers"},
    "bars": set(),
    "checks": set(),
    "files": set(),
    "norms": {"checks"},
    "digests": set(),
    "stateless": {"checks"},
    "losses": {"checks"},
    "layers": {"checks", "backend"},
    # The reference copies of our nets in PyTorch lay out KAP's grid.
    "backend": {"checks", "files", "layers", "stateless"},
    "prediction": {"checks", "backend", "stateless"},
    "models": {"checks", "layers"},
    "augmentations": {"checks"},
    "datasets": {"checks", "files"},
    "corruptions": {"checks", "prediction"},
    "attacks": TOOLS,
    "certification": TOOLS,
    "training": TOOLS | {"attacks", "layers"},  # subnets are cut through gates
    "evaluation": TOOLS | {"attacks", "corruptions", "certification", "datasets"},
    "analysis": TOOLS | {"models", "attacks", "layers"},
    # A probe is computed in full float32, which an accelerator does on demand only.
    "zoo": {"checks", "files", "models", "backend", "evaluation.metrics", "training.recipe"},
}
EVERYTHING_BUT_CLI = {"pipeline", "feed", "subject", "experiments"}
FRAMEWORKS = {"jax", "tensorflow", "torch"}
# TensorFlow Datasets reads its files with TensorFlow, whatever backend runs.
OWN_LIBRARY = {"attacks": {"cleverhans"}, "datasets": {"tensorflow_datasets", "tensorflow"}}


def modules():
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file, file.relative_to(PACKAGE).parts[0].removesuffix(".py"), ast.parse(file.read_text())


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        if node.module == "keras_robust":
            return [f"keras_robust.{alias.name}" for alias in node.names]
        return [node.module]
    return []


def test_imports_point_one_way():
    wrong = []
    for file, package, tree in modules():
        if package == "cli" or package in EVERYTHING_BUT_CLI:
            continue
        for name in (name for node in ast.walk(tree) for name in imported(node)):
            if not name.startswith("keras_robust."):
                continue
            target = name.split(".")[1]
            two = ".".join(name.split(".")[1:3])
            if target in (package, "__version__") or {target, two} & ARROWS[package]:
                continue
            wrong.append(f"{file.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_nothing_imports_the_command_line():
    for file, package, tree in modules():
        names = [name for node in ast.walk(tree) for name in imported(node)]
        assert package == "cli" or "keras_robust.cli" not in names, file


def test_frameworks_are_imported_behind_the_seam_only():
    wrong = []
    for file, package, tree in modules():
        if package == "backend":
            continue
        for name in (name for node in ast.walk(tree) for name in imported(node)):
            if name.split(".")[0] in FRAMEWORKS - OWN_LIBRARY.get(package, set()):
                wrong.append(f"{file.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_libraries_of_one_job_are_imported_inside_functions():
    for file, package, tree in modules():
        for name in (name for node in tree.body for name in imported(node)):
            library = name.split(".")[0]
            assert library not in OWN_LIBRARY.get(package, ()), f"{file} imports {name} at its head"


def test_only_the_seam_asks_which_backend_runs():
    for file, package, _ in modules():
        if package != "backend" and package not in OWN_LIBRARY:
            assert not re.search(r"backend\(\) *[!=]=", file.read_text()), file


def test_no_file_is_longer_than_400_lines():
    long = {file.name: len(file.read_text().splitlines()) for file, _, _ in modules()}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


PROGRAM = """
import sys, time
import keras
before, start = set(sys.modules), time.perf_counter()
import keras_robust
seconds = time.perf_counter() - start
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(seconds, *sorted(new & {"jax", "tensorflow", "torch", "tensorflow_datasets", "sklearn", "matplotlib"}))
"""


@pytest.mark.slow
def test_importing_the_package_is_quick_and_takes_no_other_framework():
    best, extra = 9.0, []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=os.environ, capture_output=True, text=True, check=True
        )
        seconds, *extra = done.stdout.split()
        best = min(best, float(seconds))
        assert extra == []
    assert best < 0.5
