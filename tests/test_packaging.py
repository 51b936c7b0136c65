"""What an installed package needs that a clone has anyway."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

import rp2k_lab
from rp2k_lab import PROJECT
from tests.helpers.plain_photos import plain_photos

pytestmark = pytest.mark.slow

SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))


def test_every_package_is_in_the_wheel():
    folders = {file.parent for file in (PROJECT / "rp2k_lab").rglob("__init__.py")}
    packages = {folder.relative_to(PROJECT).as_posix().replace("/", ".") for folder in folders}
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == packages | {"rp2k_lab.conf", "hydra_plugins"}


def test_the_extra_for_a_gpu_is_pinned_and_for_its_platform_alone():
    """Each name is a wheel of 11.8's series: another version may have libraries of other names."""
    pinned = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text().splitlines())
    wheels = [requirement.split("; ") for requirement in SETTINGS["project"]["optional-dependencies"]["gpu"]]
    assert len(wheels) == 8
    assert all(name in pinned and name.endswith("-cu11") for name, _ in wheels)
    assert {marker for _, marker in wheels} == {"sys_platform == 'linux' and platform_machine == 'x86_64'"}


def test_names_that_users_import():
    assert rp2k_lab.__version__ == "0.1.0"
    assert callable(rp2k_lab.create_model)
    assert "resnet18" in rp2k_lab.list_models()
    with pytest.raises(AttributeError, match="has no attribute 'create_network'"):
        _ = rp2k_lab.create_network


def test_the_module_is_a_command_like_run_py(tmp_path):
    command = [sys.executable, "-m", "rp2k_lab", "aug=cutout", "--cfg", "job"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment(PROJECT), check=True)
    assert "name: cutout" in done.stdout


@pytest.fixture(scope="module")
def wheel_environment(tmp_path_factory):
    """A fresh environment with the wheel and its dependencies, as a user makes it; returns its folder of commands."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "rp2k_lab", "conf", "hydra_plugins"):
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, folder / "source" / name if copy is shutil.copytree else folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(folder / "source")], check=True)
    (wheel,) = folder.glob("*.whl")
    modes = {entry.filename: entry.external_attr >> 16 for entry in zipfile.ZipFile(wheel).infolist()}
    assert {"rp2k_lab/conf/config.yaml", "rp2k_lab/py.typed", "rp2k_lab/analysis/error_page.js"} <= modes.keys()
    assert modes["rp2k_lab/device/cuda_home/bin/nvcc"] & 0o111  # MindSpore executes it
    subprocess.run([sys.executable, "-m", "venv", str(folder / "fresh")], check=True)
    commands = folder / "fresh" / "bin"
    pip = [str(commands / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, "--constraint", str(PROJECT / "constraints.txt"), str(wheel)], check=True)
    return commands


@pytest.mark.soak
@pytest.mark.parametrize("home", [None, "elsewhere"])
def test_an_installed_wheel_trains_on_a_folder_of_photos(wheel_environment, tmp_path, home):
    """The path of a new user: one command, then one page of errors, without a clone."""
    photos = plain_photos(tmp_path / "photos")
    (tmp_path / "work").mkdir()
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RP2K_LAB_HOME")}
    env |= {"RP2K_LAB_HOME": str(tmp_path / home)} if home else {}

    def run(command: str, *arguments: str) -> str:
        options = {"cwd": tmp_path / "work", "env": env, "capture_output": True, "text": True}
        done = subprocess.run([str(wheel_environment / command), *arguments], **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    data = ("dataset=folder", f"dataset.root={photos}")
    trained = run("rp2k-lab", *data, "epochs=2", "batch_size=8", "model.width_multiplier=0.25")
    assert "rp2k-lab-ui" in trained
    assert "run.py" not in trained
    assert "page" in run("python", "-m", "rp2k_lab", "task=errors", "runs=last")
    run("rp2k-lab", "-m", "hydra/sweeper=optuna", *data, "epochs=1", "batch_size=8", "seed=1,2",
        "model.width_multiplier=0.25", "hydra.sweeper.n_trials=1")  # fmt: skip
    where = tmp_path / (home or "work")
    assert {"data", "mlruns", "outputs"} <= {path.name for path in where.iterdir()}


def environment(packages) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(packages)}
