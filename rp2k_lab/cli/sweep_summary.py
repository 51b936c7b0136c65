"""A plain `-m` as one piece: the jobs' parent run, the table of their scores at the end, and the page to see them."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from rp2k_lab.config.choices import groups, plain
from rp2k_lab.config.schema import parse
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import percent, text_table


@contextmanager
def recorded_sweep(jobs: Sequence[list[str]], config: DictConfig, loader: ConfigLoader) -> Iterator[list[JobReturn]]:
    """Record the parent run of jobs that train, and print their summary at the end; a single job has neither.

    Args:
        jobs: the overrides of each.
        config: composed configuration of the sweep, with `hydra`.
        loader: Hydra's loader.

    Yields:
        A list for the results of the jobs, in order.
    """
    from rp2k_lab.tracking.sweep_run import SweepRun

    results: list[JobReturn] = []
    composed = loader.load_sweep_config(config, jobs[0])
    first = parse(plain(OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"]), resolve=True))
    varied = varied_keys(jobs)
    if not varied or first.task.name != "train":
        yield results
        return
    factors = [f"{key}.name" if key in groups() else key for key in averaged(varied)]
    tags = {"command": redact(shlex.join(sys.argv))}
    with SweepRun(first.tracking, varied, [key.replace("/", ".") for key in factors], tags) as sweep:
        try:
            yield results
        finally:
            table = summary(jobs, results)
            print(f"\n{table}")
            sweep.note(table)
            if sweep.page:
                print(f"\nnext        {sweep.page}")


def varied_keys(jobs: Sequence[list[str]]) -> list[str]:
    """Return the keys whose values differ between jobs, in the order of the command."""
    values = [dict(override.split("=", 1) for override in job if "=" in override) for job in jobs]
    return [key for key in values[0] if len({each.get(key) for each in values}) > 1]


def averaged(varied: Sequence[str]) -> list[str]:
    """Return the keys to group by: without the seed, unless nothing else varies."""
    return [key for key in varied if key != "seed"] or list(varied)


def summary(jobs: Sequence[list[str]], results: Sequence[JobReturn]) -> str:
    """Return a table of val top-1, the best first: a row a combination, with the mean and range over its seeds.

    Args:
        results: of the jobs, in order; the last ones may be missing.
    """
    keys = averaged(varied_keys(jobs))
    scores: dict[tuple[str, ...], list[float]] = {}
    failed: dict[tuple[str, ...], int] = {}
    for i, job in enumerate(jobs):
        values = dict(override.split("=", 1) for override in job if "=" in override)
        point = tuple(values.get(key, "") for key in keys)
        scores.setdefault(point, [])
        if i < len(results) and results[i].status == JobStatus.COMPLETED:
            scores[point].append(float(results[i].return_value))
        else:
            failed[point] = failed.get(point, 0) + 1
    rows = sorted(scores.items(), key=lambda item: -_mean(item[1]))
    cells = [[*keys, "val top-1", "lowest", "highest", "runs", "not finished"]]
    for point, values in rows:
        ends = [percent(min(values)), percent(max(values))] if len(values) > 1 else ["", ""]
        mean = percent(_mean(values)) if values else "–"
        cells.append([*point, mean, *ends, str(len(values)), str(failed.get(point, ""))])
    used = [i for i in range(len(cells[0])) if i <= len(keys) or any(row[i] for row in cells[1:])]
    return text_table([[row[i] for i in used] for row in cells])


def _mean(values: Sequence[Any]) -> float:
    return sum(values) / len(values) if values else -1.0
