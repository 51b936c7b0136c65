from dataclasses import fields

import numpy as np

from rp2k_lab.ablation.significance import judge_single_runs
from rp2k_lab.evaluation.console import closing_table
from rp2k_lab.evaluation.metric_registry import Score, metrics
from rp2k_lab.task.ensemble import ensemble_table
from rp2k_lab.task.fixres import fixres_table

VAL = {"top1": Score(0.9523, 500, 0.9301, 0.9677), "tail_top1": Score(0.5, 2, 0.0945, 0.9055)}
TEST = {"top1": Score(1.0, 2000, 0.9981, 1.0)}


def test_splits_are_columns():
    lines = closing_table({"val": VAL, "test": TEST}).splitlines()
    assert lines[0] == ""
    assert lines[1].split() == ["val", "test"]
    assert set(lines[2]) == {"-"}
    assert lines[3].startswith("top-1 ")
    assert " 95.2 %  [93.0,  96.8] of 500" in lines[3]
    assert "100.0 %  [99.8, 100.0] of 2000" in lines[3]
    assert lines[4].startswith("tail top-1")
    assert lines[4].endswith("–")
    assert len(lines) == 5


def test_columns_are_aligned():
    lines = closing_table({"val": VAL, "test": VAL}).splitlines()
    assert lines[1].index("test") == lines[3].index("95.2", 40) - 1 == lines[4].index("50.0", 40) - 1
    assert all(line == line.rstrip() for line in lines)
    assert len(lines[2]) == max(map(len, lines))


def test_rows_have_a_fixed_order():
    score = VAL["top1"]
    lines = closing_table({"val": dict.fromkeys(reversed(metrics()), score)}).splitlines()[3:]
    assert [line.split("  ")[0] for line in lines] == [metric.label for metric in metrics().values()]
    assert [line.split("  ")[0] for line in lines][:8] == [
        "top-1", "top-5", "macro top-1", "coarse top-1", "head top-1", "medium top-1", "tail top-1",
        "top-1 without catch-all"
    ]  # fmt: skip


def test_score_has_count_and_interval():
    assert [field.name for field in fields(Score)] == ["value", "count", "low", "high"]


def test_ensemble_table_shows_members_average_and_gain():
    best, average = np.repeat([True, False], [60, 40]), np.repeat([True, False], [65, 35])
    (gain,) = judge_single_runs([best, average], [(1, 0)])
    lines = ensemble_table(["a", "b", "average"], {"val": [VAL] * 3, "test": [TEST, VAL, TEST]}, 1, gain).splitlines()
    assert lines[1].split() == ["top-1", "val", "test"]
    assert [line.split()[0] for line in lines[3:6]] == ["a", "b", "average"]
    assert lines[4].count("95.2 %  [93.0,  96.8] of 500") == 2
    assert lines[7].startswith(f"gain        +5.0 points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] on 100 test")
    assert lines[7].endswith("over b, the best member on val")
    assert "between seeds" in lines[8]


def test_fixres_table_shows_untuned_and_tuned_networks_with_gains():
    old, new, tuned = (np.repeat([True, False], [right, 100 - right]) for right in (60, 50, 65))
    gains = judge_single_runs([old, new, tuned], [(2, 0), (2, 1)])
    lines = fixres_table(["a", "b", "c"], {"val": [VAL] * 3, "test": [VAL, VAL, TEST]}, gains).splitlines()
    assert lines[1].split() == ["top-1", "val", "test"]
    assert [line.split()[0] for line in lines[3:6]] == ["a", "b", "c"]
    assert lines[5].endswith("100.0 %  [99.8, 100.0] of 2000")
    interval = f"[{100 * gains[0].low:+.1f}, {100 * gains[0].high:+.1f}]"
    assert lines[7] == f"gain        +5.0 points {interval} on 100 test photos over a"
    assert lines[8].startswith("gain        +15.0 points [")
    assert lines[8].endswith("over b")
    assert "between seeds" in lines[9]
