"""The real command on folders with corrupt images."""

import os
import shutil

import pandas as pd
import pytest

from tests.helpers.corrupt_images import folder_state

RUN = ("dataset=rp2k", "model=resnet18", "size=32", "epochs=1", "batch_size=8", "schedule.warmup_epochs=0")


@pytest.fixture(scope="module")
def clean(tmp_path_factory, write_photo):
    """Two classes with train, val and test; a fixed val keeps bad images from changing the split."""
    root = tmp_path_factory.mktemp("photos") / "set"
    for number, name in enumerate(("冰炫", "红茶 500ml")):
        for split, count in (("train", 12), ("val", 5), ("test", 5)):
            for i in range(count):
                write_photo(root / split / name / f"{i:02}.{'jpg' if i % 2 else 'png'}", 40, 80, seed=50 * number + i)
    return root


@pytest.fixture(scope="module")
def corrupt(clean, tmp_path_factory):
    """The same with three bad images: an intact header, an empty one in test, a name that is not UTF-8."""
    root = tmp_path_factory.mktemp("corrupt") / "set"
    shutil.copytree(clean, root)
    whole = (clean / "train" / "冰炫" / "01.jpg").read_bytes()
    (root / "train" / "冰炫" / "a\nb.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "test" / "红茶 500ml" / "empty.jpg").touch()
    with open(os.path.join(os.fsencode(root / "train" / "冰炫"), "冰.jpg".encode("gbk")), "wb") as file:
        file.write(whole)
    return root


@pytest.fixture
def untouched(corrupt):
    """The folder, read-only during a test; its content and times must not change."""
    paths = [corrupt, *corrupt.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = folder_state(corrupt)
    yield corrupt
    assert folder_state(corrupt) == before
    for path, mode in modes.items():
        path.chmod(mode)


def test_skip_lists_bad_images_and_changes_nothing_else(start, clean, untouched):
    """The metrics equal those of the clean set."""
    options = (f"dataset.root={untouched}", "dataset.on_bad_image=skip", "dataset.cache_gb=0.1")
    skipping, reference = start(*RUN, *options), start(*RUN, f"dataset.root={clean}")
    code, out, err = skipping.wait()
    assert code == 0, err
    assert err == ""
    assert "3 of 47 photos cannot be read and are skipped, the first " in out
    (run,) = skipping.store.runs()
    assert run.info.status == "FINISHED"
    assert run.data.tags["skipped_photos"] == "3"
    listed = pd.read_csv(skipping.store.artifacts(run) / "skipped.csv")
    whole = (clean / "train" / "冰炫" / "01.jpg").stat().st_size
    assert sorted(listed.itertuples(index=False, name=None)) == [
        ("test/红茶 500ml/empty.jpg", "红茶 500ml", "test", "zero bytes"),
        (r"train/冰炫/\xb1\xf9.jpg", "冰炫", "train", "its name is not UTF-8 (convmv -f gbk -t utf8 renames a copy)"),
        ("train/冰炫/a\nb.jpg", "冰炫", "train", f"a truncated or damaged JPEG of {whole // 2} bytes"),
    ]
    assert reference.wait()[0] == 0
    (clean_run,) = reference.store.runs()
    assert "skipped_photos" not in clean_run.data.tags
    assert skipping.store.history(run) == reference.store.history(clean_run)
    assert run.data.tags["dataset_fingerprint"] == clean_run.data.tags["dataset_fingerprint"]


def test_error_names_an_image_whose_header_is_intact(start, clean, tmp_path):
    """The bad image is in val, which is read after training has started."""
    root = tmp_path / "set"
    shutil.copytree(clean, root)
    file = root / "val" / "冰炫" / "02.png"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    before = folder_state(root)
    command = start(*RUN, f"dataset.root={root}")
    code, _, err = command.wait()
    assert code == 3
    assert folder_state(root) == before
    first, second = err.splitlines()
    assert first == f"{file}: a truncated or damaged PNG of {len(data) // 2} bytes"
    assert "task=inspect" in second
    assert "dataset.on_bad_image=skip" in second
    (run,) = command.store.runs()
    assert run.info.status == run.data.tags["status"] == "FAILED"
