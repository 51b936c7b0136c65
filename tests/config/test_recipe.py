"""`recipe=…`: its values equal the published ones, and the command line overrides them."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from rp2k_lab import PROJECT
from rp2k_lab.config import ablation
from rp2k_lab.config.ablation import find_scale
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.image import resized_size

# docs/published.md, "What was actually run": the learning rate of the code, the standard cardinality.
PUBLISHED = {
    "recipe": "giantpanda",
    "resize": "letterbox",
    "size": 224,
    "crop_ratio": 0.875,
    "aug.crop": [0.08, 1.0],
    "aug.flip": 0.5,
    "aug.color": 0.4,
    "aug.name": "cutout",
    "aug.erase.name": "cutout",
    "aug.erase.length": 14,
    "batch_size": 128,
    "epochs": 75,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.05,
    "schedule.lr_end": 1e-6,
    "schedule.warmup_epochs": 0,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "loss.name": "cross_entropy",
    "loss.label_smoothing": 0.1,
    "dataset.mean": [0.4716, 0.4250, 0.3540],
    "dataset.std": [0.2178, 0.2079, 0.1935],
    "model.cardinality": 32,
    "model.base_width": 4,
}
NOT_PUBLISHED = ("lr_batch_size", "accumulate_steps", "clip_norm", "ema_decay")
DEVICES = {
    "cpu": {"precision": "float32", "loss_scale": 1, "sinks": False},
    "gpu": {"precision": "O2", "loss_scale": "dynamic", "sinks": True},
    "ascend": {"precision": "O3", "loss_scale": "dynamic", "sinks": True},
}
PAPER = ("recipe=giantpanda", "dataset=rp2k", "model=seresnext50")


def at(settings: dict, key: str):
    return OmegaConf.select(OmegaConf.create(settings), key, throw_on_missing=True)


@pytest.mark.parametrize("device", DEVICES)
def test_all_values_are_the_published_ones(compose, tmp_path, device):
    settings = compose(*PAPER, f"device={device}", f"dataset.root={tmp_path}")
    assert {key: at(settings, key) for key in PUBLISHED} == PUBLISHED
    config = parse(settings)
    assert resized_size(config.size, config.crop_ratio) == (256, 256)
    options = config.device
    values = {"precision": options.precision, "loss_scale": options.loss_scale, "sinks": options.sink_steps > 0}
    assert values == DEVICES[device]


def test_unpublished_options_are_off(compose, defaults):
    optimizer = compose("recipe=giantpanda")["optimizer"]
    for key in NOT_PUBLISHED:
        assert optimizer[key] == defaults["optimizer"][key] == (1 if key == "accumulate_steps" else None)


def test_published_values_cover_all_keys_of_the_recipe():
    recipe = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / "recipe" / "giantpanda.yaml"))
    del recipe["defaults"]
    flat = {
        f"{group}.{key}" if isinstance(keys, dict) else group
        for group, keys in recipe.items()
        for key in (keys if isinstance(keys, dict) else [None])
    }
    assert flat <= set(PUBLISHED)


def test_default_is_no_recipe(defaults):
    assert (defaults["recipe"], defaults["epochs"], defaults["batch_size"]) == ("none", 5, 32)
    assert (defaults["aug"]["name"], defaults["aug"]["crop"]) == ("none", [0.5, 1.0])


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("batch_size=64", "batch_size", 64),
        ("optimizer.lr=0.1", "optimizer.lr", 0.1),
        ("aug.crop=[0.25,1.0]", "aug.crop", [0.25, 1.0]),
        ("aug.erase.length=28", "aug.erase.length", 28),
        ("loss=logit_adjusted", "loss.tau", 1.0),
        ("model.cardinality=7", "model.cardinality", 7),
        ("resize=stretch", "resize", "stretch"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_the_command_line_wins_in_either_order(compose, override, key, value, first):
    overrides = [*PAPER, override] if first else [override, *PAPER]
    assert at(compose(*overrides), key) == value


def test_another_optimizer_and_schedule_have_the_keys_of_their_own(compose, tmp_path):
    config = parse(compose(*PAPER, f"dataset.root={tmp_path}", "optimizer=adamw", "schedule=one_cycle"))
    assert (config.optimizer.name, config.optimizer.weight_decay, config.epochs) == ("adamw", 0.05, 75)
    assert (config.schedule.name, config.schedule.warmup_epochs) == ("one_cycle", 0)


@pytest.mark.parametrize("choice", ["none", "cutmix", "autoaugment", "randaugment", "random_erasing"])
def test_other_augmentations_keep_the_published_crop_flip_and_color(compose, choice):
    settings = compose("recipe=giantpanda", f"aug={choice}")["aug"]
    alone = compose(f"aug={choice}")["aug"]
    assert settings == alone | {"crop": [0.08, 1.0], "flip": 0.5, "color": 0.4}
    assert "length" not in settings["erase"]


def test_augmentation_levels_of_the_paper_scale(compose, tmp_path):
    table = parse(compose("ablation=augmentation")).ablation
    lengths = {}
    for level in table.level_names("paper"):
        config = parse(compose(*table.run_overrides(level, find_scale("paper"), [f"dataset.root={tmp_path}"])))
        assert (config.recipe, config.aug.crop, config.schedule.warmup_epochs) == ("giantpanda", (0.08, 1.0), 0)
        lengths[level] = getattr(config.aug.erase, "length", None)
    cutout = {"Cutout 28": 28, "Cutout 14": 14, "Cutout 7": 7}
    assert lengths == dict.fromkeys(table.level_names("paper")) | cutout


@pytest.mark.parametrize("name", sorted(set(ablation.names()) - {"augmentation"}))
def test_other_tables_have_no_cutout_at_the_paper_scale(compose, tmp_path, name):
    table = parse(compose(f"ablation={name}")).ablation
    config = parse(compose(*table.run_overrides(table.baseline, find_scale("paper"), [f"dataset.root={tmp_path}"])))
    assert (config.recipe, config.aug.name, config.aug.crop) == ("giantpanda", "none", (0.08, 1.0))


def test_record_has_the_name_of_the_recipe(compose):
    record = parse(compose("recipe=giantpanda")).model_dump(mode="json")
    assert record["recipe"] == "giantpanda"
    assert parse(record).model_dump(mode="json") == record


def test_recipes_of_real_photos_need_only_the_photos(compose, tmp_path):
    (tmp_path / "index.csv").write_text("path,label,split\n")
    places = {"grocery_store": f"dataset.root={tmp_path}", "grozi120": f"dataset.table={tmp_path}/index.csv"}
    for name, place in places.items():
        config = parse(compose(f"recipe={name}", place))
        assert (config.recipe, config.model.name, config.model.pretrained) == (name, "efficientnet_lite0", "imagenet")
        assert not config.task.test  # read once, by a separate command
        changed = parse(compose("optimizer.lr=0.5", f"recipe={name}", place, "aug=cutout"))
        assert (changed.optimizer.lr, changed.aug.name) == (0.5, "cutout")


def test_the_task_after_a_recipe_is_valid(compose, tmp_path):
    config = parse(compose("recipe=grocery_store", f"dataset.root={tmp_path}"))
    following = parse(compose(*config.task.then, "runs=a"))
    assert (following.task.name, following.size) == ("fixres", (224, 224))


def test_unknown_recipe_is_refused(defaults):
    with pytest.raises(RequestError, match=r"^recipe=ours: "):
        parse(defaults | {"recipe": "ours"})


@pytest.mark.slow
def test_cfg_job_prints_the_published_values(tmp_path):
    command = [sys.executable, str(PROJECT / "run.py"), *PAPER, "device=ascend", "--cfg", "job"]
    printed = OmegaConf.create(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert {key: at(printed, key) for key in PUBLISHED} == PUBLISHED
    assert (printed.device.precision, printed.device.loss_scale) == ("O3", "dynamic")
