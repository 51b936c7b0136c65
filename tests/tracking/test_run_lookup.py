"""`runs=`: find earlier runs in a real store and restore their configuration."""

import contextlib
import copy
import shutil

import pytest
import yaml

from rp2k_lab import PROJECT
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.run_lookup import find_run
from rp2k_lab.tracking.run_restore import merge, restore
from rp2k_lab.tracking.tracker import MlflowTracker

pytestmark = pytest.mark.slow

CLASSES = ("others", "冰炫", " b", "a\x85c", "a b")  # in label order, not sorted


@pytest.fixture(scope="module")
def recorded(compose):
    settings = compose("aug=cutout", "aug.erase.length=20", "batch_size=7", "optimizer.lr=0.2", "dataset.classes=12")
    return parse(settings).model_dump(mode="json")


def write_run(folder, recorded):
    """Write the files of a finished run into a folder; return the folder."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(recorded, allow_unicode=True), "utf-8")
    (folder / "classes.txt").write_bytes(("\n".join(CLASSES) + "\n").encode())
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    return folder


@pytest.fixture(scope="module")
def store(compose, recorded, tmp_path_factory):
    """(uri, [(run name, id)], oldest first): finished runs, and one killed before its first epoch."""
    folder = tmp_path_factory.mktemp("store")
    run_folder = write_run(folder / "run", recorded)
    ids = []
    uri = f"sqlite:///{folder}/mlflow.db"
    for name in ("it's 冰炫", "twice", "twice", "killed"):
        tracking = parse(compose(f"tracking.uri={uri}")).tracking
        with contextlib.suppress(KeyboardInterrupt), MlflowTracker(tracking, name, folder / "out") as tracker:
            tracker.set_tags({"folder": folder / name})
            tracker.log_artifact(run_folder / "config.yaml")
            tracker.log_artifact(run_folder / "classes.txt")
            if name == "killed":
                raise KeyboardInterrupt
            tracker.log_artifact(run_folder / "checkpoints" / "best.ckpt", "checkpoints")
        ids.append((name, tracker.run_id))
    return uri, ids


@pytest.mark.parametrize("reference", ["it's 冰炫", "id", "prefix"])
def test_run_is_found_by_name_id_and_prefix(store, recorded, tmp_path, reference):
    uri, ids = store
    run_id = ids[0][1]
    reference = {"id": run_id, "prefix": run_id[:6]}.get(reference, reference)
    run = find_run(uri, reference, tmp_path)
    assert (run.reference, run.name, run.run_id) == (reference, "it's 冰炫", run_id)
    assert run.config == recorded
    assert run.classes == CLASSES
    assert run.checkpoint.read_bytes() == b"weights"


def test_run_is_found_by_its_checkpoint_file(recorded, tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", recorded)
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"last")
    monkeypatch.chdir(tmp_path)
    run = find_run("sqlite:////no/store.db", "run/checkpoints/last.ckpt", tmp_path)
    assert (run.name, run.run_id) == ("run/checkpoints/last.ckpt", None)
    assert run.checkpoint == folder / "checkpoints" / "last.ckpt"
    assert (run.config, run.classes) == (recorded, CLASSES)


def test_ambiguous_name_lists_runs_newest_first(store, tmp_path):
    uri, ids = store
    older, newer = (run_id[:8] for name, run_id in ids if name == "twice")
    with pytest.raises(RequestError, match=f"^runs=twice: 2 runs .*\n.*{newer} .*:.*, {older} .*:"):
        find_run(uri, "twice", tmp_path)


def test_unknown_run_is_refused_with_the_newest_runs(store, tmp_path):
    uri, ids = store
    for reference in ("nope", ids[0][1][:5], "0" * 32):
        with pytest.raises(RequestError, match=f"^runs={reference}: there is no such run\n.*killed") as error:
            find_run(uri, reference, tmp_path)
        assert len(str(error.value).splitlines()) == 2
    with pytest.raises(RequestError, match=r"^runs=no\.ckpt: there is no such file$"):
        find_run(uri, "no.ckpt", tmp_path)


def test_lookup_creates_no_store(tmp_path):
    with pytest.raises(RequestError, match=r"^tracking\.uri=sqlite:.*there is no such store"):
        find_run(f"sqlite:///{tmp_path}/mlflow.db", "run", tmp_path)
    assert not list(tmp_path.iterdir())


def test_run_without_best_weights_is_refused(store, recorded, tmp_path):
    uri, _ = store
    with pytest.raises(RequestError, match=r"^runs=killed: the run is KILLED and logged no best weights\n"):
        find_run(uri, "killed", tmp_path)
    (run,) = RunStore(uri).find("killed")
    folder = write_run(tmp_path.parent / "killed-folder", recorded)
    shutil.copytree(folder, run.folder)
    with pytest.raises(RequestError, match=r"\nuse those in its folder: runs=.*/killed/checkpoints/best\.ckpt"):
        find_run(uri, "killed", tmp_path)
    shutil.rmtree(run.folder)


@pytest.mark.parametrize("name", ["config.yaml", "classes.txt"])
def test_checkpoint_without_its_run_folder_is_refused(recorded, tmp_path, name):
    folder = write_run(tmp_path / "run", recorded)
    (folder / name).unlink()
    with pytest.raises(RequestError, match=rf"the run has no {name} \(looked for {folder}"):
        find_run(None, str(folder / "checkpoints" / "best.ckpt"), tmp_path)


def no_defaults(group, choice):
    raise AssertionError("the recorded choice is today's")


def test_recorded_values_hold_without_overrides(defaults, recorded):
    aug = recorded["aug"] | {"erase": {"name": "cutout", "length": 14}}
    composed = defaults | {"runs": "x", "task": {"name": "export"}, "aug": aug}
    merged = merge(composed, recorded, ["task=export", "runs=x"], no_defaults)
    same = {key for key in recorded if key not in ("task", "tracking", "runs", "scale")}
    assert {key: merged[key] for key in same} == {key: recorded[key] for key in same}
    assert {key: merged[key] for key in ("task", "tracking", "runs")} == {
        key: composed[key] for key in ("task", "tracking", "runs")
    }


@pytest.mark.parametrize("override", ["batch_size", "optimizer.lr", "+dataset.classes", "crop_ratio"])
def test_override_of_a_key_changes_only_that_key(defaults, recorded, override):
    composed, key = defaults | {"aug": recorded["aug"], "crop_ratio": 0.5}, override.lstrip("+")
    merged = merge(composed, recorded, [f"{override}=stated"], no_defaults)
    expected = copy.deepcopy(recorded)
    group, _, leaf = key.partition(".")
    if leaf:
        expected[group][leaf] = composed[group][leaf]
    else:
        expected[group] = composed[group]
    for name in ("batch_size", "crop_ratio", "optimizer", "dataset", "aug", "size"):
        assert merged[name] == expected[name]


def test_override_of_a_choice_replaces_its_group(defaults, recorded):
    merged = merge(defaults, recorded, ["aug=none", "aug.flip=0"], lambda group, values: values)
    assert merged["aug"] == defaults["aug"]
    assert merged["optimizer"] == recorded["optimizer"]


def test_missing_key_gets_the_default_of_its_choice(defaults, recorded):
    older = copy.deepcopy(recorded)
    del older["crop_ratio"], older["optimizer"]["momentum"], older["aug"]["color"]
    merged = merge(defaults, older, [], lambda group, values: {"color": f"of {group}={values['name']}"} | values)
    assert merged["crop_ratio"] == defaults["crop_ratio"]
    assert merged["optimizer"] == recorded["optimizer"] | {"momentum": defaults["optimizer"]["momentum"]}
    assert merged["aug"] == recorded["aug"] | {"color": "of aug=cutout"}


def test_unknown_recorded_key_is_refused(defaults, recorded):
    older = recorded | {"aug": defaults["aug"] | {"gone": 1}}
    with pytest.raises(RequestError, match=r"^aug\.gone: there is no such key"):
        parse(merge(defaults, older, [], no_defaults))


@pytest.mark.parametrize("name", ["none", "giantpanda"])
def test_recipe_is_restored_by_name_and_cannot_be_overridden(compose, defaults, recorded, name):
    by_recipe = parse(compose("recipe=giantpanda")).model_dump(mode="json")
    config = parse(merge(defaults, by_recipe, ["batch_size=32"], lambda group, values: values))
    assert (config.recipe, config.epochs, config.batch_size, config.aug.crop) == ("giantpanda", 75, 32, (0.08, 1.0))
    with pytest.raises(RequestError, match=rf"^recipe={name}: runs= brings its own recipe \(none\)\nname the keys"):
        merge(defaults, recorded, [f"recipe={name}"], lambda group, values: values)


def test_merge_does_not_modify_its_arguments(defaults, recorded, compose):
    before = copy.deepcopy(recorded)
    merge(defaults, recorded, ["optimizer.lr=1", "aug=none"], lambda group, values: values)
    assert recorded == before
    assert defaults == compose()


def test_restore_composes_recorded_choices_without_a_data_folder(compose, recorded, tmp_path):
    """Inside Hydra, as in cli.run_task, with a record of another data set whose folder is gone."""
    from hydra import initialize_config_dir

    rp2k = compose("dataset=rp2k")["dataset"] | {"root": "/no/such/folder"}
    del rp2k["val_fraction"]
    folder = write_run(tmp_path / "run", recorded | {"dataset": rp2k})
    overrides = ["task=export", f"runs={folder}/checkpoints/best.ckpt", "batch_size=9", "task.batch_size=3"]
    composed = compose(*overrides)
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        (config,) = restore(parse(composed), composed, overrides)
    assert (config.dataset.name, str(config.dataset.root)) == ("rp2k", "/no/such/folder")
    assert config.dataset.val_fraction == 0.05
    assert (config.batch_size, config.task.batch_size) == (9, 3)
    assert (config.aug.erase.length, config.optimizer.lr) == (20, 0.2)


@pytest.fixture(scope="module")
def on_rp2k(compose, recorded):
    """A record with another network, data set, normalization, size and resize."""
    composed = compose("dataset=rp2k", "model=swin_tiny", "size=[64,48]", "resize=stretch")
    return recorded | {key: composed[key] for key in ("dataset", "model", "size", "resize")}


@pytest.fixture
def restored(compose, recorded, on_rp2k, tmp_path):
    """restored(*overrides): the configurations of a run on shelf and of one on rp2k."""
    from hydra import initialize_config_dir

    def restored(*overrides):
        folders = [write_run(tmp_path / name, record) for name, record in (("a", recorded), ("b", on_rp2k))]
        runs = ",".join(f"{folder}/checkpoints/best.ckpt" for folder in folders)
        overrides = ["task=ensemble", f"runs=[{runs}]", *overrides]
        composed = compose(*overrides)
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            return restore(parse(composed), composed, overrides)

    return restored


def test_several_runs_use_the_first_data_set_and_keep_their_networks(restored, recorded, on_rp2k):
    first, second = restored()
    assert (first.dataset.name, first.dataset.classes) == (second.dataset.name, second.dataset.classes) == ("shelf", 12)
    assert (first.model.name, second.model.name) == ("resnet18", "swin_tiny")
    assert (first.size, second.size) == ((32, 32), (64, 48))
    assert (first.resize, second.resize) == ("letterbox", "stretch")
    assert list(first.dataset.mean) == recorded["dataset"]["mean"]
    expected = on_rp2k["dataset"]
    assert (list(second.dataset.mean), list(second.dataset.std)) == (expected["mean"], expected["std"])


def test_overrides_hold_for_every_run_except_normalization(restored, recorded, tmp_path):
    first, second = restored("size=96", "dataset=grocery_store", f"dataset.root={tmp_path}")
    assert first.size == second.size == (96, 96)
    assert first.dataset.name == second.dataset.name == "grocery_store"
    assert list(first.dataset.mean) == recorded["dataset"]["mean"]
    assert first.dataset.mean != second.dataset.mean


@pytest.mark.parametrize("key", ["dataset.mean", "dataset.std"])
def test_normalization_on_the_command_line_is_refused(restored, key):
    with pytest.raises(
        RequestError, match=rf"^{key}=.*: a trained network keeps its normalization .*\nleave out {key}$"
    ):
        restored(f"{key}=[0.5,0.5,0.5]")


def test_run_without_training_names_its_parent(compose, recorded, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with MlflowTracker(parse(compose(f"tracking.uri={uri}")).tracking, "evaluation", tmp_path) as tracker:
        tracker.set_tags({"parent": "abc"})
    with pytest.raises(RequestError, match=r"no best weights\nit trained nothing: use its parent, runs=\[abc\]"):
        find_run(uri, "evaluation", tmp_path)


@pytest.fixture
def resumed(compose, recorded, tmp_path):
    """resumed(*overrides, name="run"): the configuration of `task.resume=continue` for a recorded run."""
    from hydra import initialize_config_dir

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tasks = {
        "run": {"name": "train", "test": False},
        "evaluated": {"name": "evaluate", "split": ["val"], "tta": "none"},
    }
    for name, task in tasks.items():
        run_folder = write_run(tmp_path / name, recorded | {"task": task})
        with MlflowTracker(parse(compose(f"tracking.uri={uri}")).tracking, name, tmp_path) as tracker:
            tracker.log_artifact(run_folder / "config.yaml")

    def resumed(*overrides, name="run"):
        overrides = [f"runs='{name}'", "task.resume=continue", f"tracking.uri={uri}", *overrides]
        composed = compose(*overrides)
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            (config,) = restore(parse(composed), composed, overrides)
        return config

    return resumed


def test_resume_keeps_the_recorded_configuration(resumed, compose, recorded):
    # A study may pass the recorded normalization.
    normalization = [f"dataset.{key}={recorded['dataset'][key]}" for key in ("mean", "std")]
    config = resumed("device.num_threads=3", "task.checkpoint_minutes=1", "batch_size=7", *normalization)
    assert (config.batch_size, config.optimizer.lr, config.aug.erase.length) == (7, 0.2, 20)
    assert (config.task.test, config.task.resume) == (False, "continue")
    assert config.task.checkpoints_kept == compose()["task"]["checkpoints_kept"]
    assert (config.device.num_threads, config.task.checkpoint_minutes) == (3, 1.0)


def test_resume_with_a_changed_configuration_lists_three_differences(resumed):
    with pytest.raises(RequestError) as error:
        resumed("batch_size=8", "aug=none", "task.test=true", "optimizer.lr=0.1")
    assert str(error.value) == (
        "runs=run: was trained with aug.erase.length=20 (here None), aug.erase.name=cutout (here none), "
        "aug.name=cutout (here none) and 3 more\nleave out these keys, or train a new run"
    )


def test_resume_with_another_normalization_is_refused(resumed):
    with pytest.raises(RequestError, match=r"^runs=run: was trained with dataset\.std="):
        resumed("dataset.std=[0.5,0.5,0.5]")


def test_only_a_recorded_training_can_be_resumed(resumed, compose, recorded, tmp_path):
    with pytest.raises(RequestError, match=r"^runs=evaluated: a run of task=evaluate\nname a run of task=train"):
        resumed(name="evaluated")
    file = tmp_path / "run" / "checkpoints" / "best.ckpt"
    with pytest.raises(RequestError, match=r"best\.ckpt: cannot resume from a checkpoint file\n"):
        resumed(name=str(file))
