"""Fixtures that run the real command in a separate process, with real files and a real MLflow store."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.helpers.tiny_runs import TINY, Command, Store


@pytest.fixture(scope="session")
def first_run(start) -> Command:
    """A finished tiny run, shared by tests that only read it."""
    command = start(*TINY, "tracking.run_name=resnet18_shelf_none_seed0")
    command.result = command.wait()
    return command


@pytest.fixture(scope="session")
def first_request(first_run, compose):
    """(configuration, index) of the first run."""
    from rp2k_lab.config.schema import parse
    from rp2k_lab.dataset.photo_index import build_index

    recorded = yaml.safe_load((first_run.folder / "out" / "config.yaml").read_text("utf-8"))
    composed = compose()
    config = parse(composed | recorded | {"task": composed["task"]})
    return config, build_index(config.dataset)


@pytest.fixture(scope="session")
def later_store(first_run, tmp_path_factory) -> Store:
    """A copy of the first run's store, for tasks that add runs: other tests count the runs in the original."""
    store = Store(tmp_path_factory.mktemp("later"))
    shutil.copy(first_run.folder / "mlflow.db", store.folder)
    return store


@pytest.fixture(scope="session")
def exported(later_store, start) -> Command:
    """The first run's network, exported by the real command."""
    options = ["device=gpu", "task.int8=true", "task.register=shelf"]  # writes on the CPU, always
    command = start("task=export", "runs=resnet18_shelf_none_seed0", *options, uri=later_store.uri)
    command.result = command.wait()
    return command


@pytest.fixture(scope="session")
def analyzed_run(first_run, start, tmp_path_factory) -> Command:
    """A finished task=errors on the first run's test split, in a copy of its store."""
    store = Store(tmp_path_factory.mktemp("analyzed"))
    shutil.copy(first_run.folder / "mlflow.db", store.folder)
    command = start("task=errors", "runs=last", "task.split=test", uri=store.uri)
    command.store, command.result = store, command.wait()
    return command


@pytest.fixture(scope="session")
def second_run(first_run, tmp_path_factory) -> Path:
    """Another run: the first run's weights, recorded with another size and crop."""
    folder = tmp_path_factory.mktemp("second")
    record = yaml.safe_load((first_run.folder / "out" / "config.yaml").read_text("utf-8"))
    (folder / "config.yaml").write_text(yaml.safe_dump(record | {"size": 40, "crop_ratio": 0.8}), "utf-8")
    shutil.copy(first_run.folder / "out" / "classes.txt", folder)
    (folder / "checkpoints").mkdir()
    return Path(shutil.copy(first_run.folder / "out" / "checkpoints" / "best.ckpt", folder / "checkpoints"))


@pytest.fixture
def request_of(first_run, later_store, compose, monkeypatch):
    """request_of(*overrides): the configuration of a task on the first run, for calls in this process."""
    from rp2k_lab.config.schema import parse
    from rp2k_lab.device import target

    monkeypatch.setattr(target, "set_up", lambda device: None)  # MindSpore refuses it once a kernel has run
    checkpoint = first_run.folder / "out" / "checkpoints" / "best.ckpt"
    recorded = yaml.safe_load((first_run.folder / "out" / "config.yaml").read_text("utf-8"))

    def request(*overrides: str, **changes):
        composed = compose(f"runs={checkpoint}", *overrides)
        stated = {key: composed[key] for key in ("task", "runs", "tracking", "ablation", "scale")}
        return parse(recorded | stated | {"tracking": {**composed["tracking"], "uri": later_store.uri}} | changes)

    return request
