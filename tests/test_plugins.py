"""Choices of installed packages: tests/plugin_example/ is installed as users install theirs, and trains."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rp2k_lab import PROJECT
from tests.helpers.plain_photos import plain_photos

pytestmark = pytest.mark.slow

EXAMPLE = PROJECT / "tests" / "plugin_example"
PARTS = (
    "aug=gridmask", "loss=poly", "optimizer=signum", "schedule=polynomial", "callback=best_epoch", "tracking=csv",
    "model=tiny_cnn", "dataset=subfolders",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the installed example package."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(EXAMPLE, folder / "source")  # pip builds in place
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(folder / "site"), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "site"


@pytest.fixture
def run(site, tmp_path):
    """Return a function that runs a command with the example package and returns the ended process."""

    def run(*arguments: str, packages: Path | None = site) -> subprocess.CompletedProcess:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, filter(None, (packages, PROJECT))))}
        env |= {"RP2K_LAB_HOME": str(tmp_path)}
        command = [sys.executable, str(PROJECT / "run.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    return run


def test_help_lists_the_choices(run):
    done = run("--help")
    assert done.returncode == 0, done.stderr
    for part in PARTS:
        group, choice = part.split("=")
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"  {group}: ")]
        assert choice in line.split(": ")[1].split(", ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aug=gridmask", "aug.erase.p=2"], "aug.erase.p=2: input should be less than or equal to 1"),
        (["loss=poly", "loss.epsilon=-2"], "loss.epsilon=-2: input should be greater than or equal to -1"),
        (["callback=best_epoch", "callback.best_epoch.every=2"], "callback.best_epoch.every: there is no such key"),
    ],
)
def test_their_values_are_checked(run, arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == message
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.soak
def test_all_parts_train_together_and_the_record_needs_their_package(run, tmp_path):
    root = plain_photos(tmp_path / "photos", "brand {}/front")
    done = run(*PARTS, f"dataset.root={root}", "epochs=2", "batch_size=8", "size=32")
    assert done.returncode == 0, done.stderr
    (folder,) = {file.parent for file in (tmp_path / "outputs").rglob("config.yaml")}
    metrics = (folder / "metrics.csv").read_text().splitlines()
    assert any(",val/best_epoch," in line for line in metrics)
    assert any(",val/top3," in line for line in metrics)
    assert "top-3" in done.stdout
    resumed = run(*PARTS, f"dataset.root={root}", "epochs=2", "batch_size=8", "size=32", "task.resume=auto")
    assert "nothing to do" in resumed.stdout, resumed.stderr
    without = run("task=evaluate", "runs=last", packages=None)
    assert without.returncode == 2
    assert "no installed package has this choice" in without.stderr
    assert len(without.stderr.splitlines()) == 2


def other_package(folder: Path, module: str, text: str) -> Path:
    """Install a package of one module by hand."""
    (folder / f"{module}-1.dist-info").mkdir(parents=True)
    (folder / f"{module}.py").write_text(text)
    (folder / f"{module}-1.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    (folder / f"{module}-1.dist-info" / "entry_points.txt").write_text(f"[rp2k_lab.plugins]\n{module} = {module}\n")
    return folder


def test_two_packages_with_one_name_are_refused(run, site, tmp_path):
    text = (EXAMPLE / "shelf_parts" / "poly_loss.py").read_text()
    second = other_package(tmp_path / "second", "other_losses", text)
    done = run("epochs=1", packages=Path(f"{site}{os.pathsep}{second}"))
    assert done.returncode == 2
    first, way_out = done.stderr.splitlines()
    assert first.startswith("loss=poly: both ")
    assert "other_losses" in first
    assert "shelf_parts.poly_loss" in first
    assert way_out == "uninstall one of the two packages"


def test_a_package_that_cannot_be_imported_is_named(run, tmp_path):
    broken = other_package(tmp_path / "broken", "broken_parts", "import a_module_that_is_not_there\n")
    done = run("epochs=1", packages=broken)
    assert done.returncode == 2
    assert done.stderr.startswith("package broken_parts: cannot be imported (ModuleNotFoundError: No module named")
    assert len(done.stderr.splitlines()) == 2


def test_a_choice_without_its_method_is_refused(run, tmp_path):
    text = (EXAMPLE / "shelf_parts" / "poly_loss.py").read_text().replace("def build(", "def biuld(")
    done = run("epochs=1", packages=other_package(tmp_path / "half", "half_a_loss", text))
    assert done.returncode == 2
    assert done.stderr == "half_a_loss.Poly: has no build()\nwrite it, as docs/extending.md shows\n"


def test_the_options_of_all_choices_import_nothing_slow():
    """--help and a wrong option must answer at once."""
    slow = {"numpy", "cv2", "pandas", "mindspore", "mlflow"}
    code = f"import sys, rp2k_lab.config.schema; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
