"""Names of files and classes that contain markup, control characters, formulas or paths."""

import pytest
import yaml

CLASSES = ("<img src=x onerror=alert(1)>", "\x1b[2Joops\tline", "=HYPERLINK(1)$x_{$", "..\\..\\up {{ 7*7 }} \u202eoc")


@pytest.fixture(scope="module")
def trained(start, tmp_path_factory, write_photo):
    """A finished run on images whose classes and files have such names."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 8), ("test", 3)):
        for number, name in enumerate(CLASSES):
            for i in range(count):
                write_photo(root / split / name / f"{i}\n{name}.png", seed=10 * number + i)
    options = ["dataset=rp2k", f"dataset.root={root}", "size=32", "epochs=1", "batch_size=8", "dataset.cache_gb=0"]
    command = start(*options, "model.width_multiplier=0.25", "schedule.warmup_epochs=0")
    command.result = command.wait()
    (command.run,) = command.store.runs()
    return command


def test_run_escapes_them_and_writes_only_in_its_folders(trained):
    code, out, err = trained.result
    assert code == 0, err
    assert err == ""
    assert all(line.isprintable() for line in out.splitlines())
    inside = {trained.folder / "mlflow.db", trained.folder / "mlflow.db.lock"}
    written = {file for file in trained.folder.rglob("*") if file.is_file()} - inside
    assert all(file.is_relative_to(trained.folder / "out") or "artifacts" in file.parts for file in written)
    assert not [file for file in written if any(part in file.name for part in ("img", "HYPERLINK", "7*7", "oops"))]
    artifacts = trained.store.artifacts(trained.run)
    assert {file.suffix for file in artifacts.rglob("*") if file.is_file()} >= {".parquet", ".png", ".ckpt", ".yaml"}


@pytest.mark.parametrize("task", ["inspect", pytest.param("errors", marks=pytest.mark.soak)])
def test_page_shows_them_as_text(trained, start, task):
    options = [f"runs={trained.run.info.run_id}", "task.split=test"] if task == "errors" else []
    config = yaml.safe_load((trained.folder / "out" / "config.yaml").read_text())
    dataset = [] if options else ["dataset=rp2k", f"dataset.root={config['dataset']['root']}"]
    command = start(f"task={task}", *options, *dataset, uri=trained.store.uri)
    code, out, err = command.wait()
    assert code == 0, err
    assert all(line.isprintable() for line in out.splitlines())
    pages = [file for file in command.folder.rglob("*.html") if file.is_file()]
    assert pages
    for page in pages:
        text = page.read_text("utf-8")
        assert "<img src=x" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
