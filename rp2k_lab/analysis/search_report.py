"""Report of a search as a document: what was searched, best points, confirmation, accuracy and time, importance."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rp2k_lab import COMMAND
from rp2k_lab.core.text import percent
from rp2k_lab.pages.document import Block, Code, Document, Figure, Grid, Section, Text
from rp2k_lab.pages.search_plots import (
    Axis,
    Line,
    Mark,
    importance_plot,
    parallel_plot,
    pareto_plot,
)
from rp2k_lab.pages.svg import round_ticks
from rp2k_lab.sweep.confirmation import ConfirmedPoint, assignments, mean_text
from rp2k_lab.sweep.search_results import MIN_TRIALS, SearchPoint, SearchResults, pareto_set

PARETO, PARALLEL, IMPORTANCE = "pareto.svg", "parallel_coordinates.svg", "importance.svg"
_BEST = 10


def search_document(search: SearchResults) -> tuple[Document, dict[str, Markup]]:
    """Return the report, and its figures by file name.

    Args:
        search: with at least one complete trial.
    """
    figures = _figures(search)
    sections = [
        Section("Winner", _winner(search)),
        Section("What was searched", _searched(search)),
        Section("Best points of the search", [_best_grid(search)]),
        Section("Confirmation on fresh seeds", _confirmation(search)),
        Section("Accuracy and time", _accuracy_and_time(search, figures)),
        Section("Importance of the dimensions", _importance(search, figures)),
    ]
    if PARALLEL in figures:
        caption = "A line is a complete trial. Green: the best quarter; thick: the best value of the search."
        sections.append(Section("All points", [Figure(figures[PARALLEL], PARALLEL, caption)]))
    again = Section("How to compute it again", [Code([f"{COMMAND} task=report task.study={search.name}"])])
    lead = f"Trials: {count_text(search)}; judged on val alone."
    return Document(f"Search {search.name}", lead, [*sections, again]), figures


def winner_text(search: SearchResults) -> str:
    """Return the winner's accuracy, and how far it can be trusted."""
    if search.confirmed:
        best = search.confirmed[0]
        return f"val top-1 {best.fresh} on fresh seeds, {percent(best.searched)} in the search: {_point_text(best)}"
    best = search.points[0]
    return f"val top-1 {percent(best.top1)} in the search, not confirmed: {_point_text(best)}"


def count_text(search: SearchResults) -> str:
    """Return the number of trials in each state: 9 complete, 11 pruned."""
    return ", ".join(f"{number} {state}" for state, number in sorted(search.states.items()))


def _winner(search: SearchResults) -> list[Block]:
    params = search.confirmed[0].params if search.confirmed else search.points[0].params
    command = " ".join([COMMAND, *([search.fixed] if search.fixed else []), *assignments(params)])
    return [Text(winner_text(search)), Code([command])]


def _point_text(point: SearchPoint | ConfirmedPoint) -> str:
    return ", ".join(f"{key}={_short(value)}" for key, value in point.params.items())


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _searched(search: SearchResults) -> list[Block]:
    rows = [(key, _range_text(distribution)) for key, distribution in search.space.items()]
    return [
        Grid(("dimension", "values"), rows, numeric=False),
        Text(f"Everything else: {search.fixed or 'the defaults'}."),
        Text(f"Trials: {count_text(search)}. A point whose trial failed or was stopped may have several."),
    ]


def _range_text(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    step = f", step {distribution.step:g}" if distribution.step and distribution.step != 1 else ""
    return f"{distribution.low:g} to {distribution.high:g}{step}{', logarithmic' if distribution.log else ''}"


def _best_grid(search: SearchResults) -> Grid:
    keys = list(search.space)
    rows = [
        (
            str(point.trial),
            *(_short(point.params[key]) for key in keys),
            _value_text(point),
            "–" if point.seconds is None else f"{point.seconds:.0f} s",
        )
        for point in search.points[:_BEST]
    ]
    return Grid(("trial", *keys, "val top-1", "a training"), rows)


def _value_text(point: SearchPoint) -> str:
    return mean_text(list(point.by_seed.values())) if point.by_seed else percent(point.top1)


def _confirmation(search: SearchResults) -> list[Block]:
    if not search.confirmed:
        return [
            Text(
                "None. The best of many values is too high: the search chose it for its luck too. "
                "Run the search again with hydra.sweeper.confirm=3."
            )
        ]
    seeds = ", ".join(map(str, sorted(search.confirmed[0].values)))
    rows = [
        (_point_text(p), str(p.trial), percent(p.searched), p.fresh, f"{100 * (p.mean - p.searched):+.1f}")
        for p in search.confirmed
    ]
    return [
        Grid(("point", "trial", "in the search", "fresh seeds", "difference, points"), rows),
        Text(
            f"Seeds {seeds}, which the search did not use. ± is the standard deviation between them. "
            "The search chose these points for their luck too, so the difference is negative on average."
        ),
    ]


def _accuracy_and_time(search: SearchResults, figures: Mapping[str, Markup]) -> list[Block]:
    if PARETO not in figures:
        return [Text("No trial has a known time.")]
    rows = [(_point_text(p), str(p.trial), percent(p.top1), f"{p.seconds:.0f} s") for p in pareto_set(search.points)]
    unknown = sum(point.seconds is None for point in search.points)
    left_out = f" {unknown} resumed trials, whose time is unknown, are left out." * (unknown > 0)
    caption = "Green: no other point is at least as accurate and as fast."
    time = "Time is that of a training's process, its start included, beside whatever else the machine did."
    return [
        Figure(figures[PARETO], PARETO, caption),
        Grid(("point", "trial", "val top-1", "a training"), rows),
        Text(f"{time} Values are those of the search.{left_out}"),
    ]


def _importance(search: SearchResults, figures: Mapping[str, Markup]) -> list[Block]:
    if IMPORTANCE not in figures:
        return [Text(f"Needs {MIN_TRIALS} complete trials with different values; there are {len(search.points)}.")]
    caption = (
        f"Fraction of the variance of val top-1 that each dimension explains alone or with others "
        f"(fANOVA, {len(search.points)} complete trials). A guide to the next search, no test."
    )
    return [Figure(figures[IMPORTANCE], IMPORTANCE, caption)]


def _figures(search: SearchResults) -> dict[str, Markup]:
    figures, front = {}, pareto_set(search.points)
    timed = [(p, p.seconds) for p in search.points if p.seconds is not None]
    if timed:
        figures[PARETO] = pareto_plot([Mark(seconds, p.top1, _point_text(p), p in front) for p, seconds in timed])
    if search.importances:
        figures[IMPORTANCE] = importance_plot(list(search.importances.items()))
    if len(search.points) > 1:
        figures[PARALLEL] = parallel_plot(*_coordinates(search))
    return figures


def _coordinates(search: SearchResults) -> tuple[list[Axis], list[Line]]:
    """Return the axes of the dimensions and of val top-1, and the points on them."""
    tops = [100 * point.top1 for point in search.points]
    ticks = round_ticks(min(tops), max(tops))
    position = lambda top: (top - ticks[0]) / (ticks[-1] - ticks[0])  # noqa: E731
    axes = [Axis(key, _axis_ticks(distribution)) for key, distribution in search.space.items()]
    axes.append(Axis("val top-1", [(position(tick), f"{tick:g} %") for tick in ticks]))
    lines = []
    for rank, point in enumerate(search.points):
        places = [_position(distribution, point.params[key]) for key, distribution in search.space.items()]
        lines.append(Line([*places, position(100 * point.top1)], f"{_point_text(point)}: {percent(point.top1)}", rank))
    return axes, lines


def _axis_ticks(distribution: BaseDistribution) -> Sequence[tuple[float, str]]:
    if isinstance(distribution, CategoricalDistribution):
        return [(_position(distribution, choice), str(choice)) for choice in distribution.choices]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    middle = math.sqrt(low * high) if distribution.log else (low + high) / 2
    inner = [] if isinstance(distribution, IntDistribution) and high - low < 2 else [middle]
    return [(_position(distribution, value), f"{value:.3g}") for value in dict.fromkeys((low, *inner, high))]


def _position(distribution: BaseDistribution, value: object) -> float:
    """Return where a value stands on its axis, 0 to 1; the first choice is on top."""
    if isinstance(distribution, CategoricalDistribution):
        last = len(distribution.choices) - 1
        return 1 - distribution.choices.index(value) / last if last else 0.5  # pyright: ignore[reportArgumentType]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    assert isinstance(value, int | float)
    low, high = float(distribution.low), float(distribution.high)
    if high == low:
        return 0.5
    if distribution.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)
