"""Verdicts on synthetic results with a known truth."""

import math

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.ablation.judged_table import RP2K_TEST_IMAGES
from rp2k_lab.ablation.results import check_results, image_row
from rp2k_lab.ablation.verdict import judge_table
from rp2k_lab.config.ablation import names
from tests.helpers import synthetic_results

SCALES = ("paper", "laptop", "smoke")
TABLE = synthetic_results.table_of("plain", "good", "same", "bad")
TRUTH = {"plain": 0.6, "good": 0.66, "same": 0.6, "bad": 0.54}


def judged(cells, images, ablation=TABLE, scale="laptop"):
    return judge_table(ablation, scale, check_results(pd.DataFrame(cells), pd.DataFrame(images), "synthetic"))


@pytest.fixture(scope="module")
def results():
    return synthetic_results.results(TRUTH)


@pytest.fixture(scope="module")
def whole(results):
    return judged(*results)


def by_name(table):
    return {row.level: row for row in table.rows}


def test_verdicts_match_the_truth(whole):
    rows = by_name(whole)
    assert {name: row.word for name, row in rows.items()} == {
        "plain": "",
        "good": "better",
        "same": "inconclusive",
        "bad": "worse",
    }
    assert rows["plain"].baseline is None
    for name, row in rows.items():
        assert row.mean == pytest.approx(TRUTH[name], abs=0.025)
        assert 0 < row.sd < 0.02
        assert (row.seeds, row.missing, row.failed, row.running, row.images) == ((0, 1, 2, 3, 4), (), {}, (), 2000)
    for name in ("good", "same", "bad"):
        assert rows[name].verdict.low < TRUTH[name] - TRUTH["plain"] < rows[name].verdict.high
    assert (whole.comparisons, whole.missing_cells, whole.cells) == (3, 0, 20)
    assert whole.hours == pytest.approx(20 * 60 / 3600)
    assert whole.commits == {"c" * 10: 20}


def test_few_seeds_leave_a_real_difference_inconclusive():
    row = by_name(
        judged(
            *synthetic_results.results({"plain": 0.6, "good": 0.63}, range(3), 600),
            synthetic_results.table_of("plain", "good"),
        )
    )
    assert row["good"].word == "inconclusive"
    assert row["good"].verdict.bound > 0.03


def test_a_level_within_the_margin_is_equal(results):
    wide = synthetic_results.table_of("plain", "good", "same", "bad", margin=20.0)
    words = {row.level: row.word for row in judged(*results, wide).rows}
    assert words == {"plain": "", "good": "better", "same": "equal", "bad": "worse"}


def test_means_match_the_cells(results, whole):
    cells = results[0]
    for row in whole.rows:
        of_level = cells[cells["level"] == row.level]
        for metric, value in row.means.items():
            assert value == pytest.approx(of_level[metric].mean())
        assert row.sd == pytest.approx(np.std(of_level["top1"], ddof=1))


def test_images_of_groups_are_counted(results, whole):
    groups = synthetic_results.split_of(2000)[2]
    assert whole.images_of == {
        "top1": 2000,
        **{f"{g}_top1": (groups == i).sum() for i, g in enumerate(("head", "medium", "tail"))},
    }


def test_seeds_that_one_of_two_levels_lacks_count_as_far_as_seeds_do_not_decide(results):
    cells, images = results
    cells = cells[
        ~((cells["level"] == "good") & (cells["seed"] < 2)) & ~((cells["level"] == "plain") & (cells["seed"] > 3))
    ]
    row = by_name(judged(cells, images))["good"]
    assert row.seeds == (2, 3, 4)
    assert row.missing == (0, 1)
    assert row.verdict.seeds == (3, 4)
    all_seeds, both = (
        cells.groupby("level")["top1"].mean(),
        cells[cells["seed"].isin([2, 3])].groupby("level")["top1"].mean(),
    )
    ends = sorted(means["good"] - means["plain"] for means in (all_seeds, both))
    assert ends[0] - 0.01 < row.verdict.value < ends[1] + 0.01


@pytest.mark.parametrize(
    ("level", "keep", "reason"),
    [
        ("good", [], "no finished run of good"),
        ("plain", [], "no finished run of plain"),
        ("good", [7], "no seed is finished in both"),
    ],
)
def test_no_common_seed_gives_no_comparison(results, level, keep, reason):
    cells, images = results
    own = cells["level"] == level
    cells = pd.concat([cells[~own], cells[own].iloc[: len(keep)].assign(seed=keep)])
    row = by_name(judged(cells, images))["good"]
    assert (row.verdict, row.word, row.not_compared) == (None, "", reason)


def test_pending_comparisons_count(results, whole):
    """Verdicts still hold when the missing cells arrive."""
    cells, images = results
    two = cells[cells["level"].isin(["plain", "good"])]
    pending = by_name(judged(two, images))["good"].verdict
    alone = by_name(judged(two, images, synthetic_results.table_of("plain", "good")))["good"].verdict
    assert pending.value == alone.value == pytest.approx(by_name(whole)["good"].verdict.value)
    assert pending.half_width > 1.1 * alone.half_width
    assert pending.p >= alone.p


def test_one_seed_gives_an_interval_without_a_verdict(results):
    cells, images = results
    row = by_name(judged(cells[cells["seed"] == 0], images))["good"]
    assert row.word == ""
    assert math.isnan(row.sd)
    assert row.verdict.low < 0.06 < row.verdict.high


def test_different_images_are_not_paired(results):
    cells, images = results
    other = synthetic_results.split_of(2000, salt="other")
    changed = (cells["level"] == "good") & (cells["seed"] > 2)
    cells = cells.assign(images_digest=cells["images_digest"].where(~changed, other[0]))
    table = judged(cells, pd.concat([images, pd.DataFrame([image_row(*other)])]))
    row = by_name(table)["good"]
    assert row.verdict is None
    assert row.not_compared.startswith("the runs were tested on different photos (")
    assert other[0] in row.not_compared
    assert by_name(table)["bad"].word == "worse"
    assert table.images_of == {}


def test_failed_running_and_missing_cells_are_recorded(results):
    cells, images = results
    cells = cells[~((cells["level"] == "same") & (cells["seed"] < 3))]
    more = [
        synthetic_results.unfinished("same", 0, "failed", "loss is nan"),
        synthetic_results.unfinished("same", 1, "running"),
    ]
    table = judged(pd.concat([cells, pd.DataFrame(more)]), images)
    row = by_name(table)["same"]
    assert (row.seeds, row.failed, row.running, row.missing) == ((3, 4), {0: "loss is nan"}, (1,), (2,))
    assert table.missing_cells == 3
    assert row.seconds == 2 * 60 + 2 * 5


def test_a_table_without_finished_cells_is_judged():
    table = judged(
        [synthetic_results.unfinished("good", 0, "failed", "x")], [image_row(*synthetic_results.split_of(9))]
    )
    assert all(row.verdict is None and math.isnan(row.mean) for row in table.rows)
    assert table.missing_cells == table.cells


def test_macro_accuracy_weights_all_classes_equally():
    """A level that gains on the tail and loses on the head differs more by macro accuracy."""
    where = synthetic_results.split_of(3000)
    groups, rng, cells = where[2], np.random.default_rng(0), []
    for level, chances in (("plain", (0.8, 0.5, 0.2)), ("good", (0.72, 0.5, 0.6))):
        for seed in range(5):
            cells.append(synthetic_results.cell(level, seed, rng.random(3000) < np.array(chances)[groups], where))
    table = synthetic_results.table_of("plain", "good", metric="macro_top1")
    row = by_name(judged(cells, [image_row(*where)], table))["good"]
    frame = pd.DataFrame(cells).groupby("level")["macro_top1"].mean()
    assert row.verdict.value == pytest.approx(frame["good"] - frame["plain"])
    assert row.mean == pytest.approx(frame["good"])
    assert row.word == "better"
    by_image = by_name(judged(cells, [image_row(*where)], synthetic_results.table_of("plain", "good")))["good"]
    assert by_image.verdict.value < row.verdict.value


def test_published_differences_have_the_resolution_of_single_runs():
    table = synthetic_results.ablation("augmentation")
    found = by_name(judged(*synthetic_results.results(dict.fromkeys(table.levels, 0.6), range(2)), table))
    cutout = found["Cutout 14"].published_difference
    assert (found["Cutout 14"].published, cutout.accuracy) == pytest.approx((0.9534, 0.9523))
    assert cutout.difference == pytest.approx(0.0011)
    assert cutout.unknown.images == cutout.as_measured.images == RP2K_TEST_IMAGES
    assert (cutout.unknown.answer, cutout.unknown.seed_sd) == ("depends", 0)
    assert cutout.as_measured.answer == "no"
    cells = synthetic_results.results(dict.fromkeys(table.levels, 0.6), range(2))[0]
    spreads = [np.var(cells.loc[cells["level"] == name, "top1"], ddof=1) for name in ("none", "Cutout 14")]
    assert cutout.as_measured.seed_sd == pytest.approx(math.sqrt(np.mean(spreads)))
    assert 0.2 < cutout.as_measured.measured.disagreement < 0.5
    assert found["AutoAugment"].published_difference is found["none"].published_difference is None


def test_a_published_difference_without_accuracy_assumes_the_largest_noise():
    table = synthetic_results.ablation("resize")
    row = by_name(judged(*synthetic_results.results({"stretch": 0.6}, [0]), table))["letterbox"]
    assert row.published_difference.accuracy is None
    assert row.published_difference.difference == pytest.approx(0.0317)
    assert row.published_difference.unknown.independent.disagreement == pytest.approx(0.5)
    assert (row.published_difference.unknown.answer, row.published_difference.as_measured) == ("yes", None)


@pytest.mark.parametrize(
    ("changes", "of", "note"),
    [
        ({"commit": "d" * 40}, [0], f"its cells are of 2 commits: {'c' * 10}, {'d' * 10}"),
        ({"commit": "d" * 40}, [0, 1, 2, 3, 4], "another commit than plain's"),
        ({"dirty": True}, [1, 3], "run with uncommitted changes: seed 1, 3"),
        ({"dataset_fingerprint": "e" * 16}, [0], "its cells are of 2 data sets"),
        ({"dataset_fingerprint": "e" * 16}, [0, 1, 2, 3, 4], "another data set than plain's"),
    ],
)
def test_different_origins_are_noted(results, changes, of, note):
    cells, images = results
    changed = (cells["level"] == "good") & cells["seed"].isin(of)
    cells = cells.assign(**{column: cells[column].where(~changed, value) for column, value in changes.items()})
    table = judged(cells, images)
    assert any(text.startswith(note) for text in by_name(table)["good"].notes)
    assert by_name(table)["bad"].notes == ()
    assert sum(table.commits.values()) == 20


def test_levels_of_other_scales_are_ignored():
    table = synthetic_results.ablation("resize")
    truth = dict.fromkeys([*table.levels, "no such level"], 0.6)
    found = judged(*synthetic_results.results(truth, [0]), table, "paper")
    assert [row.level for row in found.rows] == ["stretch", "letterbox"]
    assert found.ignored == (
        *[level for level in table.levels if level not in ("stretch", "letterbox")],
        "no such level",
    )
    assert found.comparisons == 1


ASKED = [
    (name, scale)
    for name in names()
    for scale in (*SCALES, "grocery_val")
    if len(synthetic_results.ablation(name).level_names(scale)) > 1
]


@pytest.mark.parametrize(("name", "scale"), ASKED)
def test_every_table_is_judged(name, scale):
    table = synthetic_results.ablation(name)
    found = judged(*synthetic_results.results(dict.fromkeys(table.levels, 0.6), [0], images=200), table, scale)
    assert [row.level for row in found.rows] == table.level_names(scale)
    assert found.comparisons == sum(row.baseline is not None for row in found.rows) >= 1
    assert all((row.verdict is None) == (row.baseline is None) for row in found.rows)


def test_seeds_beyond_the_table_are_an_unplanned_look():
    planned = synthetic_results.table_of("plain", "good", seeds=[0, 1, 2], baseline_seeds=None, rounds=[[3], [4, 5]])
    truth = {"plain": 0.6, "good": 0.62}

    def look(seeds, table=planned):
        found = judged(*synthetic_results.results(truth, seeds, 900), table, "paper")
        return found.look, by_name(found)["good"]

    first, row = look(range(3))
    assert (first.number, first.of, first.is_planned, first.added) == (1, 3, True, ())
    assert first.alpha == pytest.approx(0.05 / 3)
    _, row_alone = look(range(3), planned.model_copy(update={"rounds": ()}))
    assert row_alone.verdict.half_width < row.verdict.half_width
    second, row = look(range(4))
    assert (second.number, second.is_planned, second.added, row.wanted) == (2, True, (3,), (0, 1, 2, 3))
    assert look(range(6))[0].number == 3
    other, row = look([0, 1, 2, 9])
    assert (other.is_planned, other.added, row.wanted) == (False, (9,), (0, 1, 2, 9))
    # Not all cells of a round: still that round, with missing cells.
    partial, row = look([0, 1, 2, 4])
    assert (partial.number, row.missing) == (3, (3, 5))


def test_a_baseline_has_its_seeds():
    table = synthetic_results.table_of("plain", "good", seeds=[0, 1], baseline_seeds=[0, 1, 2, 3], rounds=[])
    cells, images = synthetic_results.results({"plain": 0.6, "good": 0.7}, range(4), 900)
    found = judged(cells[(cells["level"] == "plain") | (cells["seed"] < 2)], images, table, "paper")
    rows = by_name(found)
    assert (rows["plain"].wanted, rows["good"].wanted, found.missing_cells) == ((0, 1, 2, 3), (0, 1), 0)
    assert found.look.is_planned
    assert rows["good"].verdict.seeds == (2, 4)
    # The scale laptop has its seeds for all levels.
    assert by_name(judged(cells, images, table))["good"].wanted == (0, 1, 2, 3)


def clustered(images: int, per_cluster: int):
    """Return cells and images of two levels whose correctness is equal within a cluster."""
    rng = np.random.default_rng(3)
    digest, labels, groups = synthetic_results.split_of(images)
    clusters = np.arange(images) // per_cluster
    cells = []
    for level, accuracy in (("plain", 0.6), ("good", 0.66)):
        for seed in range(5):
            correct = (rng.random(images // per_cluster + 1) < accuracy)[clusters]
            cells.append(synthetic_results.cell(level, seed, correct, (digest, labels, groups)))
    return pd.DataFrame(cells), pd.DataFrame([image_row(digest, labels, groups, clusters)])


def test_images_of_a_cluster_count_as_one():
    table = synthetic_results.table_of("plain", "good")
    row = by_name(judged(*clustered(1800, 9), table))["good"]
    assert (row.verdict.images, row.verdict.units) == (1800, 200)
    assert 150 < row.effective_images < 250
    cells, images = clustered(1800, 9)
    alone = by_name(judged(cells, images.drop(columns="clusters"), table))["good"]
    assert (alone.verdict.units, alone.effective_images) == (1800, 1800)
    assert alone.verdict.image_variance / 1800 < row.verdict.image_variance / 200


def test_a_table_is_split_by_parts_of_the_test_images():
    """The level gains on one part alone; with a set of images for each seed, too."""
    table = synthetic_results.table_of("plain", "good")
    rng = np.random.default_rng(0)
    part = np.arange(1000) < 300
    for salts in ([""] * 5, list("abcde")):
        cells, images = [], {}
        for seed, salt in enumerate(salts):
            where = synthetic_results.split_of(1000, salt=salt)
            images[where[0]] = image_row(
                *where, parts={"gains": part, "rest": ~part, "one photo": np.arange(1000) == 0}
            )
            for level, gain in (("plain", 0.0), ("good", 0.2)):
                correct = rng.random(1000) < 0.6 + gain * part
                cells.append(synthetic_results.cell(level, seed, correct, where))
        parts = {each.name: each for each in judged(cells, list(images.values()), table).parts}
        assert parts.keys() == {"gains", "rest"}  # a single photo is no part
        assert (parts["gains"].images, parts["rest"].images) == (300, 700)
        assert parts["gains"].verdicts["good"].word == "better"
        assert parts["gains"].verdicts["good"].value == pytest.approx(0.2, abs=0.05)
        assert parts["rest"].verdicts["good"].value == pytest.approx(0, abs=0.04)
