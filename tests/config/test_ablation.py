"""Ablations and scales: every YAML at every scale, and invalid tables."""

import shutil

import pytest
from pydantic import ValidationError

from rp2k_lab.config import ablation
from rp2k_lab.config.ablation import Ablation, Level, Scale, experiment_overrides, find_scale
from rp2k_lab.config.choices import choices
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError

LATE_STAGES = ("grocery_val", "grocery_folds")
TABLE_SCALES = ("grozi", "grozi_frozen", "grocery_frozen", *LATE_STAGES)
PAPER = Scale(name="paper", settings={"size": 224})
LAPTOP = Scale(name="laptop", settings={"size": 48, "aug.crop": [0.25, 1.0]})
SMOKE = Scale(name="smoke", settings={})
# As published (published.md, tables 1 to 4, and the three networks' average).
PUBLISHED = {
    ("augmentation", "none"): 95.23,
    ("augmentation", "Cutout 28"): 95.30,
    ("augmentation", "Cutout 14"): 95.34,
    ("augmentation", "Cutout 7"): 95.22,
    ("augmentation", "RandAugment"): 94.79,
    ("augmentation", "Random Erasing"): 94.87,
    ("final_width", "SE-ResNeXt50"): 96.94,
    ("final_width", "SE-ResNeXt50 wider"): 97.20,
    ("final_width", "ResNet50-BAM"): 97.24,
    ("final_width", "ResNet50-BAM wider"): 97.32,
    ("ensemble", "SE-ResNeXt50"): 97.20,
    ("ensemble", "ResNet50-BAM"): 97.32,
    ("ensemble", "Inception-ResNet-v2"): 96.35,
    ("ensemble", "average, flip"): 97.49,
    ("fixres", "1.00 ×"): 96.62,
    ("fixres", "1.14 ×, 5 epochs"): 96.49,
    ("fixres", "1.14 ×, 25 epochs"): 96.63,
    ("fixres", "1.29 ×, 25 epochs"): 96.92,
}


def make_table(levels: dict, **changes) -> Ablation:
    values = {
        "name": "t",
        "question": "?",
        "source": "",
        "metric": "top1",
        "margin": 1.0,
        "baseline": "a",
        "seeds": [0],
        "baseline_seeds": None,
        "rounds": [],
    }
    values |= {"overrides": [], "at": {}}
    return Ablation.model_validate(values | {"levels": levels} | changes)


@pytest.fixture(scope="module")
def composed_tables(compose):
    """Return the ablation of every YAML by name."""
    return {name: parse(compose(f"ablation={name}")).ablation for name in ablation.names()}


def test_published_tables_exist_with_their_figures(composed_tables):
    expected = {"resize", "augmentation", "final_width", "batch_size", "epochs", "attention", "backbone", "tail"}
    expected |= {"fixres", "ensemble"}
    assert expected <= set(composed_tables)
    published = {(t, n): lv.published for t, a in composed_tables.items() for n, lv in a.levels.items() if lv.published}
    assert published == PUBLISHED
    assert composed_tables["resize"].levels["letterbox"].published_difference == 3.17


@pytest.mark.parametrize(
    ("scale", "name"),
    [
        pytest.param(scale, name, marks=() if scale == "paper" else pytest.mark.soak)
        for scale in choices("scale")
        for name in ablation.names()
        if not (scale in LATE_STAGES and name in ("backbone", "tail"))  # refused: the test below
    ],
)
def test_every_cell_composes(compose, composed_tables, name, scale, tmp_path):
    """The configuration of every level is valid, and no two levels of a table are the same run."""
    table = composed_tables[name]
    configs = {}
    (tmp_path / "photos.csv").touch()
    places = {"paper": [f"dataset.root={tmp_path}"]}
    places |= {key: [f"dataset.table={tmp_path}/photos.csv"] for key in TABLE_SCALES}
    for level in table.level_names(scale):
        overrides = table.run_overrides(level, find_scale(scale), places.get(scale, []))
        sources = table.source_levels(level, scale)
        earlier = [f"runs={[list(table.levels).index(source) for source in sources]}"] if sources else []
        config = parse(compose(*overrides, *earlier, "seed=0"))
        assert bool(sources) == bool(table.levels[level].runs) == (config.task.name != "train")
        assert set(sources) <= set(configs)
        assert config not in configs.values(), f"{level} is the same run as another"
        configs[level] = config
        if not sources:
            sets = {"paper": "rp2k"} | dict.fromkeys(TABLE_SCALES, "table")
            assert config.dataset.name == sets.get(scale, "shelf")
        if scale == "laptop" and not sources:
            assert 48 * 48 <= config.size[0] * config.size[1] <= 76 * 76
            assert (config.dataset.val_images, config.dataset.test_images) == (500, 2000)
    assert table.baseline in configs
    assert len(table.seeds) >= 3
    for level in configs:
        assert table.baseline_of(level) in {*configs, None}


@pytest.mark.parametrize("scale", LATE_STAGES)
def test_scales_of_late_stages_refuse_what_they_cannot_keep(compose, composed_tables, scale, tmp_path):
    (tmp_path / "photos.csv").touch()
    refused = {("backbone", "Inception-ResNet-v2"): "has no such stage", ("tail", "class-balanced sampling"): "sampler"}
    for (name, level), reason in refused.items():
        place = [f"dataset.table={tmp_path}/photos.csv"]
        overrides = composed_tables[name].run_overrides(level, find_scale(scale), place)
        with pytest.raises(RequestError, match=rf"^model\.freeze.*{reason}"):
            parse(compose(*overrides))


def test_paper_scale_is_the_published_recipe(composed_tables, compose, tmp_path):
    overrides = composed_tables["augmentation"].run_overrides("none", find_scale("paper"), [f"dataset.root={tmp_path}"])
    config = parse(compose(*overrides))
    assert (config.epochs, config.batch_size, config.size, config.crop_ratio) == (75, 128, (224, 224), 0.875)
    assert (config.aug.crop, config.aug.color, config.aug.flip) == ((0.08, 1.0), 0.4, 0.5)
    assert (config.optimizer.momentum, config.optimizer.weight_decay, config.schedule.lr_end) == (0.9, 1e-4, 1e-6)
    assert (config.model.name, config.loss.label_smoothing, config.device.name) == ("seresnext50", 0.1, "gpu")


def test_later_overrides_win():
    table = make_table({"a": {"overrides": ["size=64"]}, "b": {"overrides": ["resize=stretch"]}})
    assert table.run_overrides("a", LAPTOP) == ["size=64", "aug.crop=[0.25, 1.0]"]
    assert table.run_overrides("b", PAPER, ["size=32"]) == ["size=32", "resize=stretch"]


def test_at_adds_overrides_or_leaves_the_level_out():
    levels = {"a": {"overrides": ["resize=stretch", "epochs=25"], "at": {"smoke": ["epochs=1", "seed=7"]}}}
    levels["b"] = {"overrides": ["epochs=2"], "at": {"paper": None}, "against": "a"}
    table = make_table(levels, overrides=["batch_size=8", "epochs=9"], at={"smoke": ["batch_size=4"]})
    assert table.run_overrides("a", SMOKE) == ["batch_size=4", "epochs=1", "resize=stretch", "seed=7"]
    assert table.level_overrides("a", "smoke") == ["resize=stretch", "epochs=1", "seed=7"]
    assert table.run_overrides("a", PAPER) == ["size=224", "batch_size=8", "epochs=25", "resize=stretch"]
    assert table.common(SMOKE) == ["batch_size=4", "epochs=9"]
    assert table.level_names("paper") == ["a"]
    assert table.level_names("laptop") == ["a", "b"]


def test_seeds_of_a_level():
    levels = {name: {"overrides": []} for name in "abc"} | {"d": {"overrides": [], "against": "c"}}
    table = make_table(levels, seeds=[0, 1], baseline_seeds=[0, 1, 2])
    assert [table.seeds_of(name, PAPER) for name in "abcd"] == [(0, 1, 2), (0, 1), (0, 1, 2), (0, 1)]
    assert make_table(levels, seeds=[0, 1]).seeds_of("a", PAPER) == (0, 1)
    own = PAPER.model_copy(update={"seeds": (5,)})
    assert {table.seeds_of(name, own) for name in "abcd"} == {(5,)}


def test_a_level_may_be_run_at_some_scales_only():
    table = make_table({"a": {"overrides": []}, "b": {"overrides": [], "scales": ["smoke"]}})
    assert (table.level_names("smoke"), table.level_names("paper")) == (["a", "b"], ["a"])


def test_each_level_has_its_baseline():
    levels = {name: {"overrides": []} for name in "abc"} | {"d": {"overrides": [], "against": "c"}}
    table = make_table(levels)
    assert [table.baseline_of(name) for name in "abcd"] == [None, "a", None, "c"]


def test_level_that_starts_from_others_inherits_their_overrides():
    levels = {"a": {"overrides": []}, "b": {"overrides": [], "at": {"laptop": None}}}
    levels["c"] = {
        "overrides": ["task=ensemble", "crop_ratio=1"],
        "runs": ["a", "b"],
        "at": {"paper": ["crop_ratio=0.5"]},
    }
    table = make_table(levels)
    assert table.source_levels("c", "paper") == ["a", "b"]
    assert table.source_levels("c", "laptop") == ["a"]
    assert table.run_overrides("a", PAPER, ["epochs=3", "dataset.root=/x"]) == [
        "size=224",
        "epochs=3",
        "dataset.root=/x",
    ]
    assert table.run_overrides(
        "c", PAPER, ["epochs=3", "dataset.root=/x", "dataset=table", "dataset.table=/x.csv"]
    ) == [
        "task=ensemble",
        "crop_ratio=0.5",
        "dataset.root=/x",
    ]


def test_varied_keys_cannot_be_set():
    table = make_table({"a": {"overrides": ["aug=none"]}, "b": {"overrides": ["aug=cutout"]}})
    with pytest.raises(RequestError, match="aug=mixup: ablation=t varies aug"):
        table.run_overrides("a", PAPER, ["aug=mixup"])
    table = make_table({"a": {"overrides": [], "at": {"smoke": ["size=32"]}}})
    with pytest.raises(RequestError, match="size=64: ablation=t varies size"):
        table.run_overrides("a", SMOKE, ["size=64"])
    assert table.run_overrides("a", PAPER, ["size=64"]) == ["size=64"]


@pytest.mark.parametrize(
    ("levels", "changes", "message"),
    [
        ({"a": {"overrides": []}}, {"baseline": None}, "baseline"),
        ({"a": {"overrides": []}}, {"baseline": "z"}, "the baseline z is not one of them"),
        ({"a": {"overrides": [], "against": "z"}}, {}, "the baseline z is not one of them"),
        ({"a": {"overrides": []}}, {"seeds": [1, 1]}, "duplicate seed"),
        ({"a": {"overrides": []}}, {"seeds": []}, "seeds"),
        ({"a": {"overrides": []}}, {"baseline_seeds": [1, 1]}, r"baseline_seeds=\[1, 1\]: duplicate seed"),
        ({"a": {"overrides": []}}, {"rounds": [[1], [0]]}, r"seeds=\[0, 1, 0\]: duplicate seed"),
        ({"a": {"overrides": []}}, {"rounds": [[1], [2], [3]]}, "rounds"),
        ({"a": {"overrides": [], "scales": ["labtop"]}}, {}, "there is no scale labtop"),
        ({"a": {"override": []}}, {}, "override"),
        (
            {"a": {"overrides": [], "at": {"labtop": []}}},
            {},
            "there is no scale labtop; choose one of gro",
        ),
        ({"a": {"overrides": []}}, {"at": {"labtop": []}}, "there is no scale labtop"),
        ({"a": {"overrides": []}}, {"at": {"smoke": None}}, r"at\.smoke"),
        ({"a": {"overrides": [], "runs": ["b"]}, "b": {"overrides": []}}, {}, "a starts from b, which is not above it"),
    ],
)
def test_contradictions_are_refused(levels, changes, message):
    with pytest.raises(ValidationError, match=message):
        make_table(levels, **changes)


def test_machine_keys_are_no_experiment_overrides():
    machine = ["device.num_threads=4", "dataset.root=/x", "dataset.cache_gb=3", "tracking.uri=x", "debug=true"]
    machine += ["task.checkpoint_minutes=5", "task.checkpoints_kept=1"]
    experiment = ["dataset=rp2k", "device.precision=O2", "size=2"]
    assert experiment_overrides([*experiment[::-1], *machine]) == experiment


def test_a_level_needs_its_overrides():
    with pytest.raises(ValidationError):
        Level.model_validate({"published": 95.0})


def test_a_scale_is_a_file_that_may_build_on_another(tmp_path, monkeypatch, compose):
    """`conf/scale/overnight.yaml` is a scale: ablations name it, and its settings are overrides."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    from rp2k_lab.config import choices as files

    conf = tmp_path / "conf"
    shutil.copytree(files.CONF, conf)
    settings = "{epochs: 40, tracking.run_name: my night, aug.crop: [0.5, 1.0]}"
    (conf / "scale" / "overnight.yaml").write_text(f"defaults: [laptop]\nname: overnight\nsettings: {settings}\n")
    monkeypatch.setattr(files, "CONF", conf)
    with initialize_config_dir(str(conf), version_base="1.3"):
        composed = OmegaConf.to_container(hydra_compose("config", ["scale=overnight"]), resolve=True)
    scale = parse(composed).scale
    assert scale == find_scale("overnight")
    table = make_table({"a": {"overrides": ["epochs=80"], "at": {"overnight": ["size=64"]}}})
    overrides = table.run_overrides("a", scale)
    assert overrides[:2] == ["dataset=shelf", "dataset.ratio_spread=1"]
    assert set(overrides) >= {"epochs=80", "size=64", 'tracking.run_name="my night"', "aug.crop=[0.5, 1.0]"}
    config = parse(compose(*overrides))
    assert (config.tracking.run_name, config.aug.crop, config.epochs) == ("my night", (0.5, 1.0), 80)
