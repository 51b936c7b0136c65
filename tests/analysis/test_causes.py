"""The rules, each on a case that is just on its side of the threshold."""

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.causes import CAUSES, add_causes, cause_table, confused_pairs, photo_problems
from tests.helpers.error_cases import RULES, case, cases, usual

CLASSES = ["a", "b", "c", "others"]
# a and b are near, c is not.
MEANS = np.array([[1, 0], [0.8, 0.6], [-1, 0], [0, -1]], np.float32)


def judged(*rows: dict, rules=RULES) -> pd.DataFrame:
    table = cases(*rows)
    return add_causes(table, confused_pairs(table, CLASSES, MEANS, rules), usual(CLASSES), rules, "others")


def causes_of(found: pd.DataFrame, i: int = 0) -> set[str]:
    return {cause for cause in CAUSES if found[f"cause_{cause}"][i]}


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
def test_a_rule_has_its_threshold(row, expected):
    assert causes_of(judged(row)) == expected


def test_the_tail_is_the_group_where_no_number_is_given():
    rules = RULES.model_copy(update={"tail_images": None})
    found = judged(case("a", "c", group="tail"), case("a", "c", group="medium", train_images=1), rules=rules)
    assert found["cause"].tolist() == ["tail", "unexplained"]


def test_look_alikes_are_near_and_confused_in_both_directions():
    assert causes_of(judged(case("a", "b"))) == {"unexplained"}
    both = judged(case("a", "b"), case("b", "a"))
    assert [causes_of(both, i) for i in (0, 1)] == [{"look_alike"}] * 2
    far = judged(case("a", "c"), case("c", "a"))
    assert [causes_of(far, i) for i in (0, 1)] == [{"unexplained"}] * 2
    stricter = RULES.model_copy(update={"look_alike_each_way": 2})
    assert causes_of(judged(case("a", "b"), case("a", "b"), case("b", "a"), rules=stricter)) == {"unexplained"}
    one_way = RULES.model_copy(update={"look_alike_each_way": 0})
    assert causes_of(judged(case("a", "b"), rules=one_way)) == {"look_alike"}
    assert causes_of(judged(case("a", "c"), rules=one_way)) == {"unexplained"}


def test_the_main_cause_is_the_first_in_order():
    rows = [case("a", "b", train_images=3, sharpness=0.0, suspicion=1.0, suggested="b"), case("b", "a", train_images=3)]
    rows += [case("a", "b", sharpness=0.0, train_images=3), case("others", "a", sharpness=0.0), case("a", "a")]
    found = judged(*rows)
    assert found["cause"].tolist() == ["suspected_label", "look_alike", "photo", "others", ""]
    assert causes_of(found) == {"suspected_label", "photo", "look_alike", "tail"}


def test_without_a_catch_all_class_nothing_is_of_it():
    table = cases(case("a", "others"))
    found = add_causes(table, confused_pairs(table, CLASSES, MEANS, RULES), usual(CLASSES), RULES, None)
    assert causes_of(found) == {"unexplained"}


def test_a_run_without_errors_has_no_causes():
    found = judged(case("a", "a"), case("b", "b"))
    assert found["cause"].tolist() == ["", ""]
    table = cause_table(found)
    assert table["main"].sum() == table["errors"].sum() == 0
    assert table["share"].isna().all()


def test_photo_problems_say_which_threshold_was_crossed():
    found = photo_problems(cases(case("a", "c", brightness=0.1, ratio=5.0)), usual(CLASSES), RULES)
    assert found.columns[found.loc[0]].tolist() == ["dark", "ratio"]


def test_a_photo_is_judged_against_its_own_class():
    """A dark product in a photo of its usual brightness, and a light one in a photo that would be usual for that."""
    of_classes = usual(CLASSES)
    of_classes.loc["a", "brightness"] = 0.1
    found = photo_problems(cases(case("a", "c", brightness=0.1), case("b", "c", brightness=0.1)), of_classes, RULES)
    assert found["dark"].tolist() == [False, True]
    unknown = photo_problems(cases(case("a", "c", brightness=0.0, ratio=9.0)), of_classes.drop("a"), RULES)
    assert unknown.columns[unknown.loc[0]].tolist() == ["ratio"]


def test_pairs_count_each_direction_once():
    found = confused_pairs(
        cases(*[case("b", "a")] * 3, *[case("a", "b")] * 2, case("c", "a"), case("c", "c")), CLASSES, MEANS, RULES
    )
    columns = ["first", "second", "first_as_second", "second_as_first", "confused", "look_alike"]
    assert found[columns].to_numpy().tolist() == [["a", "b", 2, 3, 5, True], ["a", "c", 0, 1, 1, False]]
    assert found["cosine"].tolist() == pytest.approx([0.8, -1])


def test_the_table_counts_errors_that_have_a_cause_and_those_it_is_the_main_one_of():
    rows = [case("a", "c", train_images=3)] * 3 + [case("b", "c", train_images=3, sharpness=0.0)]
    table = cause_table(judged(*rows)).set_index("cause")
    assert list(table.index) == list(CAUSES)
    assert table.loc["tail", ["errors", "main", "share"]].tolist() == [4, 3, 0.75]
    assert table.loc["photo", ["errors", "main", "share"]].tolist() == [1, 1, 0.25]
    assert table.loc["tail", "top_classes"] == ["a", "b"]
    assert table["main"].sum() == 4
