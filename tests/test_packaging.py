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

pytestmark = pytest.mark.slow

SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))
TINY = ("dataset.classes=8", "dataset.train_images=300", "dataset.val_images=60", "dataset.test_images=80",
        "dataset.min_train_images=5", "epochs=1", "model.width_multiplier=0.25")  # fmt: skip


def test_every_package_is_in_the_wheel():
    folders = {file.parent for file in (PROJECT / "rp2k_lab").rglob("__init__.py")}
    packages = {folder.relative_to(PROJECT).as_posix().replace("/", ".") for folder in folders}
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == packages | {"rp2k_lab.conf", "hydra_plugins"}


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


@pytest.mark.soak
def test_an_installed_wheel_trains_in_any_folder(tmp_path):
    (tmp_path / "source").mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for name in ("pyproject.toml", "README.md", "LICENSE", "rp2k_lab", "conf", "hydra_plugins"):  # pip builds in place
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, tmp_path / "source" / name if copy is shutil.copytree else tmp_path / "source")
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(tmp_path / "source")], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"rp2k_lab/conf/config.yaml", "rp2k_lab/py.typed", "rp2k_lab/analysis/error_page.js"} <= names
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    (tmp_path / "work").mkdir()
    for arguments in (TINY, ("-m", "hydra/sweeper=optuna", *TINY, "seed=1,2", "hydra.sweeper.n_trials=1")):
        options = {"cwd": tmp_path / "work", "env": environment(tmp_path / "site"), "capture_output": True}
        done = subprocess.run([sys.executable, "-m", "rp2k_lab", *arguments], **options, text=True)
        assert done.returncode == 0, done.stderr
    assert {"data", "mlruns", "outputs"} <= {path.name for path in (tmp_path / "work").iterdir()}


def environment(packages) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(packages)}
