"""Verdict on each level of a table, computed from its results without any input or output."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from rp2k_lab.ablation.judged_table import RP2K_TEST_IMAGES, JudgedTable, Look, Part, Published, Row
from rp2k_lab.ablation.results import Results, metric_columns
from rp2k_lab.ablation.significance import Block, Runs, Verdict, judge
from rp2k_lab.ablation.single_run import single_run_resolution
from rp2k_lab.config.ablation import Ablation, find_scale
from rp2k_lab.dataset.class_groups import GROUPS
from rp2k_lab.tracking.provenance import NATIVE, NATIVE_OFF


def judge_table(ablation: Ablation, scale: str, results: Results) -> JudgedTable:
    """Compare every level of a scale with its baseline; comparisons without results yet count as rows too."""
    names, settings = ablation.level_names(scale), find_scale(scale)
    cells = _with_native(results.table[results.table["level"].isin(names)])
    planned = {name: ablation.seeds_of(name, settings) for name in names}
    look = _look(ablation, planned, cells)
    rows = [
        _row(ablation, name, cells[cells["level"] == name], tuple(sorted({*planned[name], *look.added})))
        for name in names
    ]
    by_name = {row.level: row for row in rows}
    compared = [(row, by_name[row.baseline]) for row in rows if row.baseline is not None]
    reasons = {row.level: _reason_not_to_compare(row, baseline, cells) for row, baseline in compared}
    judged = [pair for pair in compared if not reasons[pair[0].level]]
    spread = ablation.earlier_spread(settings)
    prior = (spread.degrees_of_freedom, (spread.points / 100) ** 2) if spread else (0.0, 0.0)
    pending = len(compared) - len(judged)
    verdicts = _judged(ablation, *_blocks(ablation, judged, results), alpha=look.alpha, prior=prior, pending=pending)
    for row, baseline in compared:
        verdict = verdicts.get(row.level)
        by_name[row.level] = replace(
            row,
            verdict=verdict,
            not_compared=reasons[row.level],
            effective_images=_effective_images(row, baseline, results) if verdict else math.nan,
            published_difference=_published(ablation, row, baseline, results, verdict),
            notes=(*row.notes, *_baseline_notes(cells, row.level, baseline.level)),
        )
    return JudgedTable(
        ablation=ablation,
        scale=scale,
        rows=tuple(by_name.values()),
        look=look,
        comparisons=len(compared),
        commits=_commits(cells),
        natives=_counts(cells[NATIVE]),
        origins=_counts(cells["origin"].str.partition(",")[0]) if "origin" in cells else {},
        hosts=tuple(sorted({host for host in cells["host"] if host})),
        ignored=tuple(dict.fromkeys(level for level in results.table["level"] if level not in names)),
        parts=_parts(ablation, judged, results, look.alpha),
        images_of=_images_of(results, sorted({digest for digest in cells["images_digest"] if digest})),
    )


def _look(ablation: Ablation, planned: dict[str, tuple[int, ...]], cells: pd.DataFrame) -> Look:
    found = {
        seed for name, seeds in planned.items() for seed in set(cells.loc[cells["level"] == name, "seed"]) - {*seeds}
    }
    looks, rounds = 1 + len(ablation.rounds), [set(seeds) for seeds in ablation.rounds]
    for number in range(looks):
        if found <= set().union(*rounds[:number]):
            return Look(number + 1, looks, True, tuple(sorted(set().union(*rounds[:number]))))
    return Look(looks, looks, False, tuple(sorted(found)))


def _row(ablation: Ablation, name: str, cells: pd.DataFrame, seeds: tuple[int, ...]) -> Row:
    states = {state: cells[cells["state"] == state] for state in ("complete", "failed", "running")}
    done = states["complete"]
    values = done[ablation.metric]
    published = ablation.levels[name].published
    return Row(
        level=name,
        baseline=ablation.baseline_of(name),
        seeds=tuple(done["seed"].tolist()),
        wanted=seeds,
        missing=tuple(seed for seed in seeds if seed not in set(cells["seed"])),
        running=tuple(states["running"]["seed"].tolist()),
        failed=dict(zip(states["failed"]["seed"].tolist(), states["failed"]["reason"], strict=True)),
        mean=float(values.mean()),
        sd=float(values.std()),
        means={metric: float(done[metric].mean()) for metric in metric_columns(done)},
        images=int(done["images"].max()) if len(done) else 0,
        seconds=float(cells["seconds"].sum()),
        published=None if published is None else published / 100,
        notes=_cell_notes(cells),
    )


def _reason_not_to_compare(row: Row, baseline: Row, cells: pd.DataFrame) -> str:
    """Return why a level cannot be compared with its baseline, or "" if it can."""
    seeds = set(row.seeds) & set(baseline.seeds)
    if not seeds:
        without = [level.level for level in (row, baseline) if not level.seeds]
        return f"no finished run of {' nor of '.join(without)}" if without else "no seed is finished in both"
    both = cells[cells["level"].isin([row.level, baseline.level]) & (cells["state"] == "complete")]
    digests = sorted(set(both["images_digest"]))
    pairs = both[["seed", "images_digest"]].drop_duplicates()
    by_seed = not pairs["seed"].duplicated().any()
    # Seeds without a partner may have other photos only if each seed has its own.
    same_seeds = set(row.seeds) == set(baseline.seeds)
    if not by_seed or (len(digests) > 1 and not same_seeds and pairs["images_digest"].duplicated().any()):
        return f"the runs were tested on different photos ({', '.join(digests)})"
    return ""


def _blocks(
    ablation: Ablation, compared: Sequence[tuple[Row, Row]], results: Results, part: str = ""
) -> tuple[list[Block], list[str]]:
    """Return the comparisons for `judge`, and the level of each in the order of the verdicts.

    Levels that were tested on the same images share the estimate of their spread; those that start from the runs of
    their baseline share another one.

    Args:
        part: the part of the test images, by top-1; "": all, by the table's metric.
    """
    done = results.table[results.table["state"] == "complete"]
    images = {}
    for row, baseline in compared:
        digests = tuple(sorted(set(done.loc[done["level"].isin([row.level, baseline.level]), "images_digest"])))
        is_paired = ablation.levels[row.level].runs == (baseline.level,)
        images.setdefault((digests, is_paired), []).append((row, baseline))
    blocks, order = [], []
    for (digests, is_paired), pairs in images.items():
        levels = list(dict.fromkeys(level for row, baseline in pairs for level in (baseline.level, row.level)))
        seeds = {level.level: level.seeds for pair in pairs for level in pair}
        runs = [_runs(ablation.metric, name, seeds[name], digests, results, part) for name in levels]
        indices = [(levels.index(row.level), levels.index(baseline.level)) for row, baseline in pairs]
        blocks.append(Block(tuple(runs), tuple(indices), is_paired))
        order += [row.level for row, _ in pairs]
    return blocks, order


def _judged(ablation: Ablation, blocks: Sequence[Block], order: Sequence[str], **options) -> dict[str, Verdict]:
    """Return the verdict on each level; `options` are those of `judge`."""
    margin = None if ablation.margin is None else ablation.margin / 100
    verdicts = judge(blocks, margin, **options)
    return dict(zip(order, [each for block in verdicts for each in block], strict=True))


def _runs(
    metric: str, level: str, seeds: Sequence[int], digests: Sequence[str], results: Results, part: str = ""
) -> Runs:
    if len(digests) == 1:
        (digest,) = digests
        if part:
            weights = results.parts[digest][part].astype(float)
        else:
            weights = class_weights(results.labels[digest]) if metric == "macro_top1" else None
        return Runs.of(seeds, results.correct(level, seeds), weights, results.clusters.get(digest))
    cells = results.table[results.table["level"] == level].set_index("seed").loc[list(seeds)]
    if not part:
        return Runs(tuple(seeds), cells[metric].to_numpy(float), None, int(cells["images"].max()))
    masks = [results.parts[digest][part] for digest in cells["images_digest"]]
    right = [results.correct(level, [seed])[0][mask].mean() for seed, mask in zip(seeds, masks, strict=True)]
    return Runs(tuple(seeds), np.array(right), None, round(np.mean([mask.sum() for mask in masks])))


def _effective_images(row: Row, baseline: Row, results: Results) -> float:
    """Return how many independent images have the variance of the difference's mean over clusters."""
    digests = {*results.table.loc[results.table["level"].isin([row.level, baseline.level]), "images_digest"]} - {""}
    clusters = results.clusters.get(digests.pop()) if len(digests) == 1 else None
    if clusters is None:
        return row.images
    of_level, of_baseline = (results.correct(each.level, each.seeds).mean(axis=0) for each in (row, baseline))
    correct = of_level - of_baseline
    units = Runs.of([0], correct[None], None, clusters).values
    assert units is not None
    of_mean = units.var(ddof=1) / units.size
    return min(row.images, float(correct.var(ddof=1) / of_mean)) if of_mean > 0 else row.images


def _parts(ablation: Ablation, compared: Sequence[tuple[Row, Row]], results: Results, alpha: float) -> tuple[Part, ...]:
    """Judge the comparisons on each part of the test images that all of them have."""
    levels = {each.level for pair in compared for each in pair}
    done = results.table[results.table["level"].isin(levels) & (results.table["state"] == "complete")]
    known = [results.parts.get(digest, {}) for digest in done["images_digest"].unique()]
    names = [name for name in (known[0] if known else ()) if all(name in own and own[name].sum() > 1 for own in known)]
    parts = []
    for name in names:
        verdicts = _judged(ablation, *_blocks(ablation, compared, results, name), alpha=alpha)
        parts.append(Part(name, round(np.mean([own[name].sum() for own in known])), verdicts))
    return tuple(parts)


def class_weights(labels: np.ndarray) -> np.ndarray:
    """Return float (images,) weights with which the mean correctness is the macro accuracy."""
    images = np.bincount(labels)
    return 1 / ((images > 0).sum() * images[labels])


def _published(
    ablation: Ablation, row: Row, baseline: Row, results: Results, verdict: Verdict | None
) -> Published | None:
    """Return the published difference of a row, or None."""
    stated = ablation.levels[row.level].published_difference
    if row.published is not None and baseline.published is not None:
        difference, accuracy = row.published - baseline.published, baseline.published
    elif stated is not None:
        difference, accuracy = stated / 100, None
    else:
        return None
    single = partial(single_run_resolution, difference, accuracy or 0.5, RP2K_TEST_IMAGES)
    as_measured = None
    if verdict is not None and not math.isnan(verdict.image_variance):
        seeds = sorted(set(row.seeds) & set(baseline.seeds))
        per_seed = [
            np.concatenate([results.correct(each.level, [seed])[0] for seed in seeds]) for each in (row, baseline)
        ]
        disagreement = float((per_seed[0] != per_seed[1]).mean())
        seed_sd = math.sqrt(_seed_variance(row, baseline, seeds, results, disagreement))
        as_measured = single(disagreement=disagreement, seed_sd=seed_sd)
    return Published(difference, accuracy, single(), as_measured)


def _seed_variance(row: Row, baseline: Row, seeds: list[int], results: Results, disagreement: float) -> float:
    """Return the variance of a run's accuracy over seeds; if each seed has its own photos, without their part."""
    if len(seeds) < 2:
        return 0.0
    done = results.table[results.table["level"].isin([row.level, baseline.level])].set_index(["level", "seed"])
    accuracies = np.array([[done.at[(each.level, seed), "top1"] for seed in seeds] for each in (row, baseline)], float)
    if done["images_digest"].nunique() == 1:
        return float(accuracies.var(axis=1, ddof=1).mean())
    # Photos and products that both levels have in common cancel in a difference; what is left of the photos is known.
    of_photos = disagreement / row.images
    return max(0.0, float((accuracies[0] - accuracies[1]).var(ddof=1)) - of_photos) / 2


def _cell_notes(cells: pd.DataFrame) -> tuple[str, ...]:
    notes = []
    for column, noun in (("commit", "commits"), ("dataset_fingerprint", "data sets"), (NATIVE, "native kernels")):
        values = sorted({value for value in cells[column] if value})
        has_own = column == "dataset_fingerprint" and len(values) == len(cells)  # each seed its photos, by design
        if len(values) > 1 and not has_own:
            notes.append(f"its cells are of {len(values)} {noun}: {', '.join(value[:10] for value in values)}")
    dirty = cells.loc[cells["dirty"].fillna(False).astype(bool), "seed"].tolist()
    if dirty:
        notes.append(f"run with uncommitted changes: seed {', '.join(map(str, dirty))}")
    return tuple(notes)


def _baseline_notes(cells: pd.DataFrame, level: str, baseline: str) -> list[str]:
    """Name what should be the same in both levels, but differs."""
    origins = {"commit": "another commit", "dataset_fingerprint": "another data set", NATIVE: "other native kernels"}
    common = set(cells.loc[cells["level"] == level, "seed"]) & set(cells.loc[cells["level"] == baseline, "seed"])
    notes = []
    for column, noun in origins.items():
        of_level, of_baseline = (
            {v for v in cells.loc[(cells["level"] == n) & cells["seed"].isin(common), column] if v}
            for n in (level, baseline)
        )
        if of_level and of_baseline and of_level != of_baseline:
            notes.append(f"{noun} than {baseline}'s")
    return notes


def _with_native(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with the column NATIVE: all blank in a table that is older than the native kernels."""
    if NATIVE not in cells:
        return cells.assign(**{NATIVE: ""})
    older = (cells[NATIVE] == "") & (cells["commit"] != "")
    return cells.assign(**{NATIVE: cells[NATIVE].mask(older, NATIVE_OFF)})


def _counts(values: pd.Series) -> dict[str, int]:
    return {value: int(count) for value, count in values.value_counts().sort_index().items() if value}


def _commits(cells: pd.DataFrame) -> dict[str, int]:
    dirty = np.where(cells["dirty"].fillna(False).astype(bool), " with uncommitted changes", "")
    names = [(commit[:10] or "unknown") + suffix for commit, suffix in zip(cells["commit"], dirty, strict=True)]
    return {name: names.count(name) for name in sorted(set(names))}


def _images_of(results: Results, digests: Sequence[str]) -> dict[str, int]:
    if len(digests) != 1:
        return {}
    counts = np.bincount(results.groups[digests[0]], minlength=len(GROUPS)).tolist()
    return {"top1": sum(counts), **{f"{group}_top1": count for group, count in zip(GROUPS, counts, strict=True)}}
