"""`runs=` of a training with `loss.distillation`: its teachers, and the same training resumed or verified."""

import pytest
import yaml

from rp2k_lab import PROJECT
from rp2k_lab.config.migrations import parse_record
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.provenance import fingerprint
from rp2k_lab.tracking.run_restore import restore
from rp2k_lab.tracking.tracker import MlflowTracker

pytestmark = pytest.mark.slow

NOT_RECORDED = {"ablation": True, "scale": True, "task": {"resume", "verify"}}
DISTILLED = ("loss.distillation=0.5", "batch_size=7")


@pytest.fixture(scope="module")
def store(compose, empty_store, tmp_path_factory):
    """(uri, ids): two teachers of other networks and normalization, and a training that they taught."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "mlflow.db").write_bytes(empty_store)
    uri, ids = f"sqlite:///{folder}/mlflow.db", {}
    requests = {
        "first": ["model=resnet50", "dataset.mean=[0.1,0.2,0.3]", "size=64"],
        "second": ["model=swin_tiny", "loss=focal"],
        "taught": [*DISTILLED, "runs=[first,second]"],
    }
    for name, overrides in requests.items():
        record = parse(compose(*overrides)).model_dump(mode="json", exclude=NOT_RECORDED)
        if name == "taught":
            record["runs"] = [ids["first"], ids["second"]]
        (folder / name).mkdir()
        (folder / name / "config.yaml").write_text(yaml.safe_dump(record), "utf-8")
        with MlflowTracker(parse(compose(f"tracking.uri={uri}")).tracking, name, folder / name) as tracker:
            tracker.log_artifact(folder / name / "config.yaml")
        (run,) = RunStore(uri).find(name)
        ids[name] = run.local_id
    return uri, ids


@pytest.fixture
def restored(compose, store):
    """restored(*overrides): (the configuration of the training, those of the teachers)."""
    from hydra import initialize_config_dir

    def restored(*overrides):
        overrides = [f"tracking.uri={store[0]}", *overrides]
        composed = compose(*overrides)
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            config, *teachers = restore(parse(composed), composed, overrides)
        return config, teachers

    return restored


def test_a_new_training_keeps_its_own_configuration_and_names_its_teachers_by_id(restored, store):
    _, ids = store
    config, teachers = restored(*DISTILLED, f"runs=[first,'{ids['second'][:8]}']")
    assert (config.model.name, config.batch_size, config.loss.name) == ("resnet18", 7, "cross_entropy")
    assert config.runs == config.teachers == (ids["first"], ids["second"])
    assert [teacher.runs for teacher in teachers] == [config.runs] * 2


def test_a_teacher_has_its_network_and_normalization_at_the_students_size(restored):
    config, (first, second) = restored(*DISTILLED, "runs=[first,second]", "size=96")
    assert (first.model.name, second.model.name) == ("resnet50", "swin_tiny")
    assert (first.dataset.mean, first.dataset.name) == ((0.1, 0.2, 0.3), "shelf")
    assert second.dataset.mean == config.dataset.mean != first.dataset.mean
    assert first.size == second.size == (96, 96)


def test_teachers_are_part_of_the_fingerprint(restored, compose):
    taught, _ = restored(*DISTILLED, "runs=[first,second]")
    others = [restored(*DISTILLED, f"runs={runs}")[0] for runs in ("first", "[second,first]")]
    plain = parse(compose("batch_size=7"))
    assert len({fingerprint(config) for config in (taught, *others, plain)}) == 4
    record = yaml.safe_load(yaml.safe_dump(taught.model_dump(mode="json", exclude=NOT_RECORDED)))
    assert fingerprint(parse_record(record)) == fingerprint(taught)  # task.resume=auto finds the run


@pytest.mark.parametrize("how", ["task.resume=continue", "task.verify=true"])
def test_a_resumed_or_verified_training_has_the_teachers_of_its_record(restored, store, how):
    _, ids = store
    config, teachers = restored("runs=taught", how)
    assert config.runs == ("taught", ids["first"], ids["second"])
    assert config.teachers == (ids["first"], ids["second"])
    assert [teacher.model.name for teacher in teachers] == ["resnet50", "swin_tiny"]
    assert fingerprint(config) == fingerprint(restored(*DISTILLED, "runs=[first,second]")[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["runs=taught", "loss.distillation=0.1"], "runs=taught: was trained with loss.distillation=0.5 .here 0.1"),
        (["runs=taught", "loss.distillation=0"], "runs=taught: was trained with loss.distillation=0.5 .here 0"),
        (["runs=first", "loss.distillation=0.1"], "runs=first: was trained with loss.distillation=0.0 .here 0.1"),
        (["runs=[taught,first]", "loss.distillation=0.5"], "runs=taught,first: one run is resumed.*\nuse runs=taught"),
    ],
)
def test_a_resumed_training_keeps_its_teachers(restored, overrides, message):
    with pytest.raises(RequestError, match=message):
        restored("task.resume=continue", *overrides)


def test_an_unknown_teacher_is_refused(restored):
    with pytest.raises(RequestError, match="runs=nobody: there is no such run"):
        restored(*DISTILLED, "runs=nobody")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.distillation=0.5"], "loss.distillation=0.5: needs trained networks as teachers\nadd runs="),
        (["runs=a"], "runs=a: task=train takes no earlier run\nadd task.resume=continue, task.verify=true or loss.dis"),
        (["runs=[a,b]", "task.resume=continue"], "runs=a,b: task=train takes 1 earlier run"),
        (["loss.distillation=0.5", "task.resume=continue"], "runs=null: task=train takes 1 or more earlier runs"),
    ],
)
def test_the_number_of_runs(compose, overrides, message):
    with pytest.raises(RequestError) as error:
        parse(compose(*overrides))
    assert str(error.value).startswith(message)
