"""experiments/real_photos.py from the command line, on a small folder like Grocery Store's."""

import shutil
import subprocess
import sys

import pandas as pd
import pytest
from safetensors.numpy import load_file

from rp2k_lab import PROJECT
from rp2k_lab.dataset.shelf.generate import make_shelf
from rp2k_lab.dataset.shelf.options import ShelfOptions


@pytest.fixture
def grocery(tmp_path):
    """Photos of six classes of a shelf set, listed as Grocery Store lists its own."""
    options = ShelfOptions(classes=6, train_images=96, val_images=24, test_images=12, min_train_images=8)
    root = make_shelf(options, tmp_path / "shelf", num_processes=1)
    names = sorted(folder.name for folder in (root / "train").iterdir())
    rows = [f"{name},{i},{'Kind' if i < 3 else 'Other'}" for i, name in enumerate(names)]
    text = "\n".join(["Class Name (str),Class ID (int),Coarse Class Name (str)", *rows])
    (root / "classes.csv").write_text(f"{text}\n", "utf-8")
    for split in ("train", "val"):
        files = sorted((root / split).rglob("*.*"))
        lines = [f"{file.relative_to(root)}, {names.index(file.parent.name)}, 0" for file in files]
        (root / f"{split}.txt").write_text("\n".join(lines), "utf-8")
    return root


@pytest.mark.soak
def test_steps_of_a_recipe(tmp_path, grocery):
    """Runs in a copy of the scripts, which keeps the clone's results."""
    for folder in ("experiments", "conf", "rp2k_lab", "hydra_plugins"):
        shutil.copytree(PROJECT / folder, tmp_path / folder)
    shutil.copy(PROJECT / "run.py", tmp_path)
    script = tmp_path / "experiments" / "real_photos.py"
    script.write_text(script.read_text("utf-8").replace("SEEDS = (0, 1, 2)", "SEEDS = (0, 1)"), "utf-8")
    keys = [f"dataset.root={grocery}", "batch_size=16", "task.chance_guard.epochs=null"]
    command = [sys.executable, str(script), "grocery_store", *keys]
    done = subprocess.run([*command, "epochs=1"], cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "outputs" / "grocery_store" / "steps.csv")
    assert table["measure"].tolist() == ["top1"] * 4 + ["macro_top1"] * 4
    assert table["step"].tolist()[1:4] == ["all layers, 160 of 224 pixels", "FixRes at 224 pixels", "mirror image too"]
    assert set(table["photos"]) == set(table["units"]) == {24}
    gained = table[table["gain"].notna()]
    assert len(gained) == 6
    assert ((gained["low"] <= gained["gain"]) & (gained["gain"] <= gained["high"])).all()
    assert table["value"].between(0, 1).all()
    assert "coarse top-1" in done.stdout
    again = subprocess.run([*command, "epochs=1"], cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("nothing to do: run ") == 4  # FixRes starts again: it takes a minute
    keep = [sys.executable, str(script.with_name("keep_weights.py")), "last", str(tmp_path / "weights")]
    kept = subprocess.run(keep, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert kept.returncode == 0, kept.stderr
    assert load_file(tmp_path / "weights" / "model.safetensors")["classifier.weight"].shape == (6, 1280)
    assert str(tmp_path) not in (tmp_path / "weights" / "config.yaml").read_text("utf-8")


@pytest.mark.soak
def test_committed_weights_reach_their_card(start, tmp_path):
    """The commands of the card, on the real val photos: 250 of 296 are right."""
    photos, weights = PROJECT.parent / "shared" / "data" / "grocery_store", tmp_path / "weights"
    if not photos.is_dir():
        pytest.skip("the Grocery Store photos (../shared/data/grocery_store) are not on this machine")
    shutil.copytree(PROJECT / "experiments" / "grocery_store" / "weights", weights)
    checkpoint = weights / "checkpoints" / "model.ckpt"
    convert = ["task=convert", "model=efficientnet_lite0", "model.drop_rate=0.2", f"task.output={checkpoint}"]
    assert start(*convert, f"task.input={weights / 'model.safetensors'}").wait()[0] == 0
    code, printed, _ = start("task=evaluate", f"runs={checkpoint}", f"dataset.root={photos}").wait()
    assert code == 0
    assert "top-1          84.5 %" in printed
