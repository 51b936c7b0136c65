import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from omegaconf import OmegaConf
from pydantic import BaseModel, ValidationError

from rp2k_lab import PROJECT, plugins
from rp2k_lab.config.ablation import Scale
from rp2k_lab.config.choices import defaults_of
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.options import Source
from rp2k_lab.dataset.shelf.options import ShelfOptions

CONF = PROJECT / "conf"
# Without conf/hydra (tests/sweep) and recipes, which set keys of other groups (test_recipe.py).
CHOICES = [(file.parent.relative_to(CONF).as_posix(), file.stem) for file in sorted(CONF.glob("[!hr]*/**/[!_]*.yaml"))]
NEEDS = {
    ("dataset", "rp2k"): ["dataset.root=/"],
    ("dataset", "grocery_store"): ["dataset.root=/"],
    ("dataset", "folder"): ["dataset.root=/"],
    ("dataset", "table"): [f"dataset.table={PROJECT / 'experiments' / 'grozi120' / 'manifest.csv'}"],
    ("dataset", "coco"): [f"dataset.annotations={PROJECT / 'pyproject.toml'}"],
    ("task", "convert"): ["task.input=weights.pth"],
    ("task", "export"): ["runs=x"],
    ("task", "report"): ["ablation=resize"],
    ("task", "evaluate"): ["runs=x"],
    ("task", "ensemble"): ["runs=[x,y]"],
    ("task", "errors"): ["runs=x"],
    ("task", "fixres"): ["runs=x"],
    ("task", "extend"): ["runs=x", "task.input=/"],
    ("task", "predict"): ["runs=x", "task.input=/"],
    ("task", "embed"): ["runs=x", "task.input=/"],
}


def keys(file: Path) -> set[str]:
    return set(OmegaConf.load(file)) - {"defaults", "hydra"}


def schemas(annotation) -> list[type[BaseModel]]:
    """Return the classes of a group: one, or those of a union."""
    if isinstance(annotation, type):
        return [annotation]
    return [schema for part in get_args(annotation) if part is not None for schema in schemas(part)]


def schema_of(group: str, name: str) -> type[BaseModel]:
    """Return the class of a group's choice."""
    if group in plugins.GROUPS:
        registered = plugins.options_of(group)
        return registered.get(name) or registered["*"]
    found = schemas(Config.model_fields[group].annotation)
    kinds = {each: each.model_fields["name"].annotation for each in found}
    (schema,) = [each for each, kind in kinds.items() if name in get_args(kind) or kind is str]
    return schema


@pytest.mark.parametrize(("group", "choice"), CHOICES)
class TestEveryChoice:
    def test_composes_and_parses(self, compose, group, choice):
        composed = compose(f"{group}={choice}", *NEEDS.get((group, choice), ()))
        settings, value = composed, parse(composed)
        for part in group.split("/"):
            settings, value = settings[part], getattr(value, part)
        needed = {need.partition("=")[0] for need in NEEDS.get((group, choice), ())}
        defaults = defaults_of(group, choice)
        assert defaults.keys() == settings.keys(), "defaults_of composes as Hydra does"
        assert {k: v for k, v in defaults.items() if f"{group}.{k}" not in needed and v != settings[k]} == {}
        if group != "callback":
            assert settings["name"] == value.name
        elif choice != "none":
            assert settings[choice]["name"] == getattr(value, choice).name

    def test_every_leaf_is_a_field_of_the_schema(self, group, choice):
        settings = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text(encoding="utf-8"))
        if settings:
            schema = schema_of(group, settings["name"])
            assert set(settings) - {"defaults"} <= set(schema.model_fields)

    def test_name_is_the_file_name(self, group, choice):
        settings = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text(encoding="utf-8"))
        if "/" in group:  # a file may have other values of the same part
            assert settings["name"] in plugins.options_of(group)
        elif settings:
            assert settings["name"] == choice


def test_schema_has_all_root_keys_and_groups():
    groups = {group for group, _ in CHOICES if "/" not in group} | {"recipe"}
    assert keys(CONF / "config.yaml") | groups == set(Config.model_fields)


def test_only_the_shelf_has_defaults_in_the_schema(defaults):
    """All other defaults are in conf/."""
    for name, field in Config.model_fields.items():
        assert field.is_required() or name == "callback", name
        if name == "callback":  # none is chosen by default
            continue
        for schema in schemas(field.annotation):
            if isinstance(schema, type) and issubclass(schema, BaseModel):
                optional = {key for key, f in schema.model_fields.items() if not f.is_required()}
                optional -= {"about", "by_seed", "seeds", "spread"} if schema is Scale else set()  # no choice of a run
                assert optional <= set(ShelfOptions.model_fields), schema


def test_every_key_has_a_description():
    """docs/config.md prints them."""
    models, missing = [Config], []
    while models:
        model = models.pop()
        for key, field in model.model_fields.items():
            nested = [schema for schema in schemas(field.annotation) if issubclass(schema, BaseModel)]
            models += nested
            if not nested and key != "name" and not field.description:
                missing.append(f"{model.__name__}.{key}")
    assert not missing


def test_shelf_yaml_has_the_options_defaults():
    settings = yaml.safe_load((CONF / "dataset" / "shelf.yaml").read_text(encoding="utf-8"))
    options = {key: value for key, value in settings.items() if key not in {"name", "defaults", *Source.model_fields}}
    assert set(options) == set(ShelfOptions.model_fields)
    assert ShelfOptions(**options) == ShelfOptions()


@pytest.mark.parametrize("name", ["rp2k", "grocery_store"])
def test_real_datasets_need_a_folder(compose, name):
    with pytest.raises(RequestError, match=r"dataset\.root") as error:
        parse(compose(f"dataset={name}"))
    assert len(str(error.value).splitlines()) <= 2


def test_root_becomes_absolute(defaults, tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path)
    defaults["dataset"]["root"] = "set"
    assert parse(defaults).dataset.root == tmp_path / "set"


@pytest.mark.parametrize(
    ("size", "sides"), [(48, (48, 48)), ([64, 96], (64, 96)), (32, (32, 32)), (2048, (2048, 2048))]
)
def test_size_is_one_side_or_two(defaults, size, sides):
    assert parse(defaults | {"size": size}).size == sides


@pytest.mark.parametrize(
    ("runs", "listed"), [("a", ("a",)), (["a"], ("a",)), ([123456], ("123456",)), (123456, ("123456",))]
)
def test_runs_are_text_or_the_digits_of_an_id(compose, runs, listed):
    assert parse(compose("task=export") | {"runs": runs}).runs == listed


@pytest.mark.parametrize("runs", [None, [], ["a", "b"]])
def test_export_takes_one_earlier_run(compose, runs):
    with pytest.raises(RequestError, match=r"^runs=(null|a,b): task=export takes 1 earlier run\nuse runs="):
        parse(compose("task=export") | {"runs": runs})


@pytest.mark.parametrize(("task", "least"), [("ensemble", 2), ("predict", 1)])
def test_some_tasks_take_a_minimum_number_of_earlier_runs(compose, task, least):
    composed = compose(f"task={task}", "runs=[a,b]", *(["task.input=/"] if task == "predict" else []))
    for count in (least, 7):
        assert len(parse(composed | {"runs": [str(i) for i in range(count)]}).runs) == count
    with pytest.raises(RequestError, match=rf"task={task} takes {least} or more earlier runs\nuse runs=\[a,b\]"):
        parse(composed | {"runs": ["a"] * (least - 1)})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.top_k=5", r"^task\.input: task=predict needs photos\nadd task\.input="),
        ("task.input=/no/such", r"^task\.input=/no/such: there is no such file or folder$"),
        ("task.output=/found.xls", r"^task\.output=/found\.xls: neither \.csv nor \.parquet\n"),
        ("task.output=/list.csv", r"^task\.output=.*/list\.csv: is the input\n"),
    ],
)
def test_predict_refuses_invalid_files(compose, tmp_path, override, message):
    composed = compose("task=predict", "runs=a", override)
    if "output" in override:
        file = tmp_path / "list.csv"
        file.touch()
        files = {"input": str(file)} | ({"output": str(file)} if "list" in override else {})
        composed["task"] |= files
    with pytest.raises(RequestError, match=message) as error:
        parse(composed)
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"^task\.input: task=embed needs photos\nuse task\.input=<.*> or task\.split="),
        (["task.input=/", "task.split=val"], r"^task\.input: task=embed takes no task\.split=val beside it\nuse "),
        (["task.input=/no/such"], r"^task\.input=/no/such: there is no such file or folder$"),
        (["task.split=val", "task.output=/a.csv"], r"^task\.output=/a\.csv: neither \.parquet nor \.npy\nuse "),
        (["task.split=val", "task.against=/a.npy"], r"^task\.against=/a\.npy: task\.neighbors is 0\nadd "),
        (["task.split=val", "task.neighbors=1", "task.against=/a"], r"^task\.against=/a: neither \.parquet nor "),
        (["task.split=val", "task.neighbors=1", "task.against=/a.npy"], r"^task\.against=/a\.npy: there is no such"),
        (["task.split=val", "task.index=hnsw"], r"^task\.index=hnsw: "),
        (["task.split=val", "task.neighbors=-1"], r"^task\.neighbors=-1: "),
    ],
)
def test_embed_refuses_invalid_files_and_numbers(compose, overrides, message):
    with pytest.raises(RequestError, match=message) as error:
        parse(compose("task=embed", "runs=a", *overrides))
    assert len(str(error.value).splitlines()) <= 2


def test_embed_needs_the_dataset_for_a_split_and_for_neighbors_in_train_alone(compose, tmp_path):
    for overrides, needs in (
        (["task.input=/"], False),
        (["task.split=val"], True),
        (["task.input=/", "task.neighbors=1"], True),
        (["task.input=/", "task.neighbors=1", f"task.against={tmp_path}/a.npy"], False),
    ):
        (tmp_path / "a.npy").touch()
        assert parse(compose("task=embed", "runs=a", *overrides)).task.reads_images == needs


def test_export_needs_no_dataset_and_writes_relative_to_the_shells_folder(compose, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = parse(compose("task=export", "task.output=out", "runs=a", "dataset.root=/no/such/folder"))
    assert config.task.output == tmp_path / "out"
    assert config.dataset.root == Path("/no/such/folder")


WRONG = [
    ("seed", -1), ("seed", 1.5), ("seed", 2**32), ("seed", "x"), ("seed", None),
    ("epochs", 0), ("epochs", "five"), ("epochs", 2.5), ("epochs", True),
    ("batch_size", 0), ("batch_size", [32]),
    ("size", 31), ("size", 2049), ("size", [64]), ("size", [64, 64, 3]), ("size", 64.0), ("size", "64"), ("size", True),
    ("size", [64, 16]),
    ("resize", "crop"), ("crop_ratio", 0), ("crop_ratio", 1.01), ("crop_ratio", float("nan")),
    ("debug", "yes"), ("debug", 1),
    ("runs", "earlier"), ("runs", 1.5), ("runs", True), ("runs", [""]), ("task.name", "trian"), ("task.output", "x"),
    ("dataset.root", "/no/such/folder"), ("dataset.mean", [0.5, 0.5]), ("dataset.mean", [127, 127, 127]),
    ("dataset.std", [0.0, 0.2, 0.2]), ("dataset.val_fraction", 0), ("dataset.val_fraction", 1),
    ("dataset.val_seed", -1),
    ("dataset.classes", 1), ("dataset.classes", "40"), ("dataset.jpeg_quality", [95, 60]), ("dataset.side_px", [8, 9]),
    ("dataset.noisy_splits", ["training"]), ("dataset.name", "imagenet"),
    ("model.name", "resnet19"), ("model.cardinality", 0), ("model.final_width", 2048.5),
    ("model.width_multiplier", 0), ("model.width_multiplier", 4.5), ("model.width_multiplier", "half"),
    ("model.depth_multiplier", -1), ("model.depth_multiplier", 5), ("model.depth_multiplier", float("nan")),
    ("aug.flip", 1.5), ("aug.flip", float("nan")), ("aug.color", 1), ("aug.crop", [0.9, 0.1]), ("aug.crop", [0, 1]),
    ("aug.crop", [0.5, 1.5]), ("aug.crop", 0.5), ("aug.name", "mixup-typo"),
    ("loss.label_smoothing", 1), ("loss.label_smoothing", -0.1),
    ("optimizer.lr", 0), ("optimizer.lr", "fast"), ("optimizer.lr", float("inf")), ("schedule.lr_end", -1),
    ("schedule.warmup_epochs", -1), ("optimizer.momentum", 1), ("optimizer.weight_decay", -1e-4),
    ("optimizer.lr_batch_size", 0), ("optimizer.lr_batch_size", 25.6), ("optimizer.accumulate_steps", 0),
    ("optimizer.accumulate_steps", None), ("optimizer.clip_norm", 0), ("optimizer.clip_norm", float("inf")),
    ("optimizer.ema_decay", 0), ("optimizer.ema_decay", 1), ("optimizer.ema_decay", "slow"), ("recipe", "ours"),
    ("device.precision", "fp16"), ("device.loss_scale", 0), ("device.loss_scale", "auto"), ("device.precision", "tf32"),
    ("device.deterministic", "yes"), ("device.sink_steps", -1), ("device.graph", True),
    ("device.num_threads", 0),
    ("tracking.experiment", ""), ("tracking.uri", 5000), ("tracking.flush_seconds", 0), ("tracking.run_name", ""),
    ("nonsense", 1), ("optimizer.nonsense", 1), ("model.depth", 50), ("dataset.nonsense", 1), ("aug.nonsense", 1),
    ("aug.length", 14), ("aug.erase.length", 14), ("aug.erase.name", "cutout-typo"), ("aug.policy", None),
]  # fmt: skip


def put(tree: dict, key: str, value) -> None:
    *groups, leaf = key.split(".")
    for group in groups:
        tree = tree[group]
    tree[leaf] = value


@pytest.mark.parametrize(("key", "value"), WRONG, ids=[f"{key}={value}" for key, value in WRONG])
def test_wrong_value_is_reported_with_its_key_in_at_most_two_short_lines(defaults, key, value):
    put(defaults, key, value)
    with pytest.raises(RequestError) as error:
        parse(defaults)
    lines = str(error.value).splitlines()
    assert lines[0].startswith(key)
    assert len(lines) <= 2
    assert max(map(len, lines)) < 300, "the message contains a whole group"


WRONG_AUG = [
    ("cutout", "erase.length", 0), ("cutout", "erase.length", 225), ("cutout", "erase.length", 14.5),
    ("cutout", "erase.length", None), ("random_erasing", "erase.p", 1.1),
    ("random_erasing", "erase.area", [0.4, 0.02]), ("random_erasing", "erase.area", [0.02, 1.1]),
    ("random_erasing", "erase.area", [0, 0.4]), ("random_erasing", "erase.area", None),
    ("random_erasing", "erase.ratio", 0), ("random_erasing", "erase.ratio", 3.3),
    ("random_erasing", "erase.fill", "noise"), ("random_erasing", "flip", 2), ("autoaugment", "policy", "cifar10"),
    ("autoaugment", "color", 1), ("randaugment", "policy.operations", "torchvision"),
    ("randaugment", "policy.num_ops", 0), ("randaugment", "policy.num_ops", 17),
    ("randaugment", "policy.num_ops", 1.5), ("randaugment", "policy.p", -0.1), ("randaugment", "policy.magnitude", -1),
    ("randaugment", "policy.magnitude", 31), ("randaugment", "policy.magnitude", 10.5),
    ("randaugment", "policy.magnitude_std", -0.5), ("randaugment", "policy.magnitude_std", float("inf")),
    ("randaugment", "policy.magnitude_max", 0), ("randaugment", "policy.magnitude_max", 31),
    ("randaugment", "policy.increasing", 1), ("mixup", "mix.alpha", 0), ("mixup", "mix.alpha", float("inf")),
    ("mixup", "mix.p", 0.5), ("cutmix", "mix.alpha", -1), ("cutmix", "mix.p", 1.5),
]  # fmt: skip


@pytest.mark.parametrize(("choice", "key", "value"), WRONG_AUG)
def test_wrong_value_of_an_augmentation_is_reported_in_a_line(compose, choice, key, value):
    composed = compose(f"aug={choice}")
    put(composed, f"aug.{key}", value)
    with pytest.raises(RequestError, match=rf"^aug\.{re.escape(key)}[:=.].{{,120}}\Z"):
        parse(composed)


def test_magnitudes_above_10_need_a_higher_limit(compose):
    settings = compose("aug=randaugment", "aug.policy.magnitude=15", "aug.policy.magnitude_max=30")
    assert parse(settings).aug.policy.magnitude == 15


@pytest.mark.parametrize("key", ["seed", "optimizer.lr", "aug.crop"])
def test_missing_key_is_reported(defaults, key):
    *groups, leaf = key.split(".")
    tree = defaults
    for group in groups:
        tree = tree[group]
    del tree[leaf]
    with pytest.raises(RequestError, match=f"^{key}"):
        parse(defaults)


def test_further_problems_are_counted(defaults):
    put(defaults, "epochs", 0)
    put(defaults, "optimizer.lr", -1)
    put(defaults, "aug.flip", 2)
    with pytest.raises(RequestError, match=r"and 2 more"):
        parse(defaults)


@pytest.mark.parametrize("key", ["seed", "model.final_width", "dataset.classes", "aug.flip", "tracking.uri"])
def test_configuration_is_frozen(defaults, key):
    *groups, leaf = key.split(".")
    node = parse(defaults)
    for group in groups:
        node = getattr(node, group)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(node, leaf, 1)


def test_parsing_does_not_change_its_argument(defaults, compose):
    parse(defaults)
    assert defaults == compose()


def test_recorded_configuration_parses_to_the_same(defaults):
    """config.yaml of a run contains model_dump(mode="json")."""
    config = parse(defaults)
    assert parse(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_drop_catch_all_needs_a_catch_all_class(compose, tmp_path):
    with pytest.raises(RequestError, match=r"dataset\.drop_catch_all=true: grocery_store has no catch-all class"):
        parse(compose("dataset=grocery_store", f"dataset.root={tmp_path}", "dataset.drop_catch_all=true"))


@pytest.mark.parametrize("value", [-0.1, "one", float("inf"), None])
def test_wrong_tau_is_reported_in_a_line(compose, value):
    composed = compose("loss=logit_adjusted")
    composed["loss"]["tau"] = value
    with pytest.raises(RequestError, match=r"^loss\.tau=.{1,120}\Z"):
        parse(composed)


def test_loss_and_sampler_cannot_both_balance_classes(compose):
    balanced = "dataset.sampler=class_balanced"
    assert parse(compose("loss=logit_adjusted")).loss.tau == 1.0
    assert parse(compose(balanced)).loss.name == "cross_entropy"
    with pytest.raises(RequestError, match=r"^loss=logit_adjusted: dataset\.sampler=class_balanced .*\n.*\Z"):
        parse(compose("loss=logit_adjusted", balanced))


@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_a_network_without_stages_keeps_the_outputs_of_its_whole_backbone_alone(compose, monkeypatch, freeze):
    """As a network of an installed package, which need not run in parts."""
    config = parse(compose(f"model.freeze={freeze}", "aug.crop=null", "aug.flip=0", "aug.color=0"))
    monkeypatch.setattr(type(config.model), "num_stages", 0)
    assert config.kept_views == (freeze == "backbone")
