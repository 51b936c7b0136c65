"""Confirmation of a search: its points, seeds and result."""

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from rp2k_lab.sweep.confirmation import confirmed_points, mean_text, plan_confirmation
from rp2k_lab.sweep.space import fresh_seeds, parse_search, point_key

AUG, SEED = CategoricalDistribution(["none", "cutout", "mixup", "cutmix"]), IntDistribution(0, 2**32 - 1)


def trial(aug, top1, seed=None, state=TrialState.COMPLETE):
    params = {"aug": aug} | ({"seed": seed} if seed is not None else {})
    distributions = {"aug": AUG} | ({"seed": SEED} if seed is not None else {})
    attributes = {"point": point_key(params)}
    value = top1 if state != TrialState.FAIL else None
    return create_trial(state=state, value=value, params=params, distributions=distributions, user_attrs=attributes)


def searched(*trials):
    study = optuna.create_study(study_name="a", direction="maximize")
    study.add_trials(trials)
    return study


def search(*overrides, seeds=None):
    return parse_search(OverridesParser.create().parse_overrides(list(overrides)), seeds)


@pytest.mark.parametrize(
    ("used", "fresh"),
    [
        ((0,), (1, 2, 3)),
        ((7,), (8, 9, 10)),
        ((0, 1, 2, 3), (4, 5, 6, 7)),
        ((2, 0, 5), (6, 7, 8)),
        ((2**32 - 1, 0), (1, 2, 3)),
    ],
)
def test_fresh_seeds_are_the_next_ones_at_least_three(used, fresh):
    assert fresh_seeds(used) == fresh


def test_the_best_complete_points_run_on_fresh_seeds_without_test():
    pruned, failed = trial("cutmix", 0.9, state=TrialState.PRUNED), trial("cutmix", 0, state=TrialState.FAIL)
    study = searched(pruned, failed, trial("none", 0.5), trial("cutout", 0.7), trial("mixup", 0.6))
    plan = plan_confirmation(search("aug=none,cutout,mixup,cutmix", "seed=5", "epochs=2"), study, 2, 5)
    assert plan.points == [{"aug": aug, "seed": seed} for seed in (6, 7, 8) for aug in ("cutout", "mixup")]
    assert plan.overrides(plan.points[0]) == ["epochs=2", "aug=cutout", "seed=6", "task.test=false"]
    assert plan.name == "a.confirm"


def test_nothing_is_confirmed_without_a_complete_point_or_over_seeds_or_when_turned_off():
    plan, study = search("aug=none,cutout"), searched(trial("none", 0.5))
    assert plan_confirmation(plan, study, 3, 0)
    assert plan_confirmation(plan, study, 0, 0) is None
    assert plan_confirmation(plan, searched(), 3, 0) is None
    assert plan_confirmation(search("aug=none,cutout", "seed=0,1"), study, 3, 0) is None


def test_the_winner_is_chosen_by_fresh_values_alone():
    fresh = [trial("cutout", top1, seed) for seed, top1 in ((3, 0.25), (4, 0.375))]
    fresh += [trial("mixup", top1, seed) for seed, top1 in ((3, 0.5), (4, 0.25))]
    fresh += [trial("none", 0.875, 3), trial("none", 0, 4, state=TrialState.FAIL)]  # incomplete
    points = confirmed_points([trial("cutout", 0.75), trial("mixup", 0.625), trial("none", 0.5)], fresh)
    assert [(p.params, p.searched, p.mean) for p in points] == [
        ({"aug": "mixup"}, 0.625, 0.375),
        ({"aug": "cutout"}, 0.75, 0.3125),
    ]


def test_mean_text():
    assert mean_text([0.5]) == "50.0 %"
    assert mean_text([0.25, 0.5, 0.75]) == "50.0 ± 25.0 %"
