"""Each rule on both sides of its threshold."""

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.causes import CAUSES, add_causes, cause_table, confused_pairs, photo_problems
from tests.helpers.error_cases import RULES, case, cases, typical

CLASSES = ["a", "b", "c", "others"]
# a and b are near, c is not.
MEANS = np.array([[1, 0], [0.8, 0.6], [-1, 0], [0, -1]], np.float32)


def assign_causes(*rows: dict, rules=RULES) -> pd.DataFrame:
    table = cases(*rows)
    return add_causes(table, confused_pairs(table, CLASSES, MEANS, rules), typical(CLASSES), rules, "others")


def causes_of(table: pd.DataFrame, i: int = 0) -> set[str]:
    return {cause for cause in CAUSES if table[f"cause_{cause}"][i]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (case("a", "c"), {"unexplained"}),
        (case("a", "c", train_images=19), {"tail"}),
        (case("a", "c", train_images=20), {"unexplained"}),
        (case("a", "c", suspicion=0.5, suggested="b"), {"suspected_label"}),
        (case("a", "c", suspicion=0.49, suggested="b"), {"unexplained"}),
        (case("a", "c", suspicion=1.0), {"unexplained"}),
        (case("a", "c", suspicion=np.nan), {"unexplained"}),
        (case("a", "others"), {"others"}),
        (case("others", "a"), {"others"}),
        (case("a", "c", brightness=0.24), {"photo"}),
        (case("a", "c", brightness=1.01), {"photo"}),
        (case("a", "c", sharpness=0.12), {"photo"}),
        (case("a", "c", glare=0.26), {"photo"}),
        (case("a", "c", ratio=4.1), {"photo"}),
        (case("a", "c", ratio=1 / 4.1), {"photo"}),
        (case("a", "c", ratio=1 / 3.9, brightness=0.26, sharpness=0.13, glare=0.24), {"unexplained"}),
        (case("a", "c", sharpness=np.nan), {"unexplained"}),
        (case("a", "a", train_images=1, suspicion=1.0, suggested="b", sharpness=0.0), set()),
    ],
)
def test_rule_threshold(row, expected):
    assert causes_of(assign_causes(row)) == expected


@pytest.mark.parametrize(("lost", "expected"), [(0.5, "photo"), (0.4, "unexplained"), (np.nan, "unexplained")])
def test_a_visible_fault_counts_if_it_loses_other_photos_of_the_class(lost, expected):
    row = case("a", "c", brightness=0.24) | {"lost_like": lost}
    assert assign_causes(row)["cause"].tolist() == [expected]
    untried = RULES.model_copy(update={"photo_lost": 0.0})
    assert assign_causes(row, rules=untried)["cause"].tolist() == ["photo"]
    assert assign_causes(row | {"ratio": 4.1})["cause"].tolist() == ["photo"]  # the shape is not tried


def test_tail_defaults_to_the_group():
    rules = RULES.model_copy(update={"tail_images": None})
    result = assign_causes(case("a", "c", group="tail"), case("a", "c", group="medium", train_images=1), rules=rules)
    assert result["cause"].tolist() == ["tail", "unexplained"]


def test_look_alikes_are_near_and_confused_in_both_directions():
    assert causes_of(assign_causes(case("a", "b"))) == {"unexplained"}
    both = assign_causes(case("a", "b"), case("b", "a"))
    assert [causes_of(both, i) for i in (0, 1)] == [{"look_alike"}] * 2
    far = assign_causes(case("a", "c"), case("c", "a"))
    assert [causes_of(far, i) for i in (0, 1)] == [{"unexplained"}] * 2
    stricter = RULES.model_copy(update={"look_alike_each_way": 2})
    assert causes_of(assign_causes(case("a", "b"), case("a", "b"), case("b", "a"), rules=stricter)) == {"unexplained"}
    one_way = RULES.model_copy(update={"look_alike_each_way": 0})
    assert causes_of(assign_causes(case("a", "b"), rules=one_way)) == {"look_alike"}
    assert causes_of(assign_causes(case("a", "c"), rules=one_way)) == {"unexplained"}


@pytest.mark.parametrize(("taken", "right", "expected"), [(23, 2, "look_alike"), (3, 7, "look_alike"),
                                                          (2, 1, "unexplained"), (3, 8, "unexplained")])  # fmt: skip
def test_a_large_part_of_a_class_taken_for_another_is_a_look_alike(taken, right, expected):
    """In one direction alone, of classes whose means are far from each other."""
    rows = [*[case("a", "c")] * taken, *[case("a", "a")] * right]
    assert set(assign_causes(*rows)["cause"]) - {""} == {expected}
    others = [case("c", "b"), case("c", "c")]
    assert assign_causes(*rows, *others)["cause"].tolist()[-2:] == ["unexplained", ""]
    off = RULES.model_copy(update={"look_alike_one_way": 0.0})
    assert set(assign_causes(*rows, rules=off)["cause"]) - {""} == {"unexplained"}


def test_main_cause_is_the_first_that_holds():
    rows = [case("a", "b", train_images=3, sharpness=0.0, suspicion=1.0, suggested="b"), case("b", "a", train_images=3)]
    rows += [case("a", "b", sharpness=0.0, train_images=3), case("others", "a", sharpness=0.0), case("a", "a")]
    result = assign_causes(*rows)
    assert result["cause"].tolist() == ["suspected_label", "look_alike", "photo", "others", ""]
    assert causes_of(result) == {"suspected_label", "photo", "look_alike", "tail"}


def test_no_error_has_the_cause_others_without_a_catch_all_class():
    table = cases(case("a", "others"))
    result = add_causes(table, confused_pairs(table, CLASSES, MEANS, RULES), typical(CLASSES), RULES, None)
    assert causes_of(result) == {"unexplained"}


def test_a_run_without_errors_has_no_causes():
    result = assign_causes(case("a", "a"), case("b", "b"))
    assert result["cause"].tolist() == ["", ""]
    table = cause_table(result)
    assert table["main"].sum() == table["errors"].sum() == 0
    assert table["share"].isna().all()


def test_photo_problems_name_the_crossed_thresholds():
    result = photo_problems(cases(case("a", "c", brightness=0.1, ratio=5.0)), typical(CLASSES), RULES)
    assert result.columns[result.loc[0]].tolist() == ["dark", "ratio"]


def test_images_are_judged_against_their_class():
    """The same brightness is typical of a dark product and too dark for a light one."""
    medians = typical(CLASSES)
    medians.loc["a", "brightness"] = 0.1
    result = photo_problems(cases(case("a", "c", brightness=0.1), case("b", "c", brightness=0.1)), medians, RULES)
    assert result["dark"].tolist() == [False, True]
    unknown = photo_problems(cases(case("a", "c", brightness=0.0, ratio=9.0)), medians.drop("a"), RULES)
    assert unknown.columns[unknown.loc[0]].tolist() == ["ratio"]


def test_pairs_count_both_directions():
    result = confused_pairs(
        cases(*[case("b", "a")] * 3, *[case("a", "b")] * 2, case("c", "a"), case("c", "c")), CLASSES, MEANS, RULES
    )
    columns = ["first", "second", "first_as_second", "second_as_first", "confused", "look_alike"]
    assert result[columns].to_numpy().tolist() == [["a", "b", 2, 3, 5, True], ["a", "c", 0, 1, 1, False]]
    assert result["cosine"].tolist() == pytest.approx([0.8, -1])


def test_cause_table_counts_all_and_main_causes():
    rows = [case("a", "c", train_images=3)] * 3 + [case("b", "c", train_images=3, sharpness=0.0)]
    rows += [case("a", "a")] * 8  # otherwise a and c were look-alikes
    table = cause_table(assign_causes(*rows)).set_index("cause")
    assert list(table.index) == list(CAUSES)
    assert table.loc["tail", ["errors", "main", "share"]].tolist() == [4, 3, 0.75]
    assert table.loc["photo", ["errors", "main", "share"]].tolist() == [1, 1, 0.25]
    assert table.loc["tail", "top_classes"] == ["a", "b"]
    assert table["main"].sum() == 4
