"""Points of a study from its command line."""

import dataclasses

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rp2k_lab.config.ablation import Ablation, Scale
from rp2k_lab.core.errors import RequestError
from rp2k_lab.sweep.space import AblationGrid, parse_search, parse_seeds, point_key
from tests.helpers import synthetic_results


def parsed(*arguments):
    return OverridesParser.create().parse_overrides(list(arguments))


@pytest.mark.parametrize(
    ("override", "distribution", "count"),
    [
        ("aug=none,cutout", CategoricalDistribution(["none", "cutout"]), 2),
        ("aug=none,cutout,none", CategoricalDistribution(["none", "cutout"]), 2),
        ("a=choice(1,2.5,x)", CategoricalDistribution([1, 2.5, "x"]), 3),
        ("a='x y','z'", CategoricalDistribution(["'x y'", "'z'"]), 2),
        ('a="1",2', CategoricalDistribution(['"1"', 2]), 2),
        ("size=[32,64],[64,64]", CategoricalDistribution(["[32,64]", "[64,64]"]), 2),
        ("a=range(5)", IntDistribution(0, 4), 5),
        ("a=range(1,10,3)", IntDistribution(1, 7, step=3), 3),
        ("a=range(5,1,-1)", IntDistribution(2, 5), 4),
        ("a=shuffle(range(0,10,2))", IntDistribution(0, 8, step=2), 5),
        ("a=range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1), 4),
        ("a=range(1.0,0.1,-0.3)", FloatDistribution(0.1, 1.0, step=0.3), 4),
        ("a=interval(1,5)", FloatDistribution(1, 5), float("inf")),
        ("a=int(interval(1,5))", IntDistribution(1, 5), 5),
        ("a=tag(log,interval(0.01,0.2))", FloatDistribution(0.01, 0.2, log=True), float("inf")),
        ("a=tag(log,int(interval(1,100)))", IntDistribution(1, 100, log=True), 100),
    ],
)
def test_sweep_syntax_gives_a_distribution(override, distribution, count):
    search = parse_search(parsed(override, "epochs=3"))
    assert list(search.space.values()) == [distribution]
    assert search.size == count
    assert search.fixed == ("epochs=3",)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("epochs=3", "nothing to search"),
        ("a=interval(5,1)", "low <= high"),
        ("a=tag(log,interval(0,1))", "low > 0"),
        ("a=range(0)", "no value"),
        ("ablation=resize,tail", "one table"),
    ],
)
def test_invalid_searches_are_refused(override, words):
    with pytest.raises(RequestError, match=words) as caught:
        parse_search(parsed(override))
    assert len(str(caught.value).splitlines()) <= 2


def test_a_search_never_reads_test():
    search = parse_search(parsed("aug=none,cutout", "task.test=true", "optimizer.lr=interval(0.1,0.2)"))
    overrides = search.overrides({"aug": "cutout", "optimizer.lr": 0.15})
    assert overrides == ["task.test=true", "aug=cutout", "optimizer.lr=0.15", "task.test=false"]


@pytest.mark.parametrize(
    ("override", "seeds"),
    [("seed=0,1", (0, 1)), ("seed=range(3)", (0, 1, 2)), ("seed=7", (7,)), ("seed=4294967295", (4294967295,))],
)
def test_seeds_are_parsed(override, seeds):
    assert parse_seeds(parsed(override)[0]) == seeds


@pytest.mark.parametrize(
    "override", ["seed=a", "seed=0,a", "seed=-1", "seed=0,0", "seed=[0,1]", "seed=interval(0,1)", "seed=0,4294967296"]
)
def test_invalid_seeds_are_refused(override):
    with pytest.raises(RequestError, match="different whole numbers"):
        parse_seeds(parsed(override)[0])


def test_equal_points_have_equal_keys():
    assert point_key({"b": 0.1, "a": "甲"}) == point_key({"a": "甲", "b": 0.1})
    assert point_key({"a": 1}) != point_key({"a": "1"})


def grid(**changes) -> AblationGrid:
    levels = {"a": {"overrides": ["aug=none"]}, "b": {"overrides": ["aug=cutout"]}}
    levels |= {"tuned": {"overrides": ["task=fixres"], "runs": ["b"]}}
    table = synthetic_results.table_of("a").model_dump() | {"name": "t", "baseline": "a", "levels": levels} | changes
    scale = Scale(name="smoke", settings={"dataset": "shelf"}, by_seed=["dataset.seed"])
    return AblationGrid(Ablation.model_validate(table), scale, None, ())


def test_baselines_may_have_more_seeds():
    plan = grid(seeds=[0, 1], baseline_seeds=[1, 2, 3])
    cells = [(point["level"], point["seed"]) for point in plan.points]
    assert cells == [
        ("a", 1), ("b", 1), ("tuned", 1), ("a", 2), ("a", 3), ("b", 0), ("tuned", 0),
    ]  # fmt: skip
    named = dataclasses.replace(plan, seeds=(7,)).points
    assert [(point["level"], point["seed"]) for point in named] == [("a", 7), ("b", 7), ("tuned", 7)]


def test_keys_by_seed_have_the_seed_as_their_value():
    plan = grid()
    assert plan.overrides({"level": "b", "seed": 4}) == ["dataset=shelf", "aug=cutout", "seed=4", "dataset.seed=4"]
    # A run that starts from another keeps that one's photos.
    assert plan.overrides({"level": "tuned", "seed": 4}, ["id"]) == ["task=fixres", "runs=[id]", "seed=4"]
    definition = plan.definition()
    assert "dataset.seed=${seed}" in definition["b"].split()
    assert "dataset.seed" not in definition["tuned"]


def test_a_level_that_others_start_from_is_replaced_by_a_run_only():
    plan = grid()
    assert [plan.reuse({"level": level, "seed": 0}) for level in ("a", "b")] == ["results", "runs"]
    assert parse_search(parsed("aug=none,cutout")).reuse({"aug": "none"}) == ""
