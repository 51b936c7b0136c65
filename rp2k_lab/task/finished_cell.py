"""A cell of a table that was computed before: found by what decides its numbers, in any study or committed table."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rp2k_lab.ablation.results import EXPERIMENTS, RESULTS, read_results
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.mlflow_store import store_exists
from rp2k_lab.tracking.provenance import (
    ENVIRONMENT,
    FINGERPRINT,
    NATIVE,
    environment_tag,
    fingerprint,
    identity,
    native_tag,
)
from rp2k_lab.tracking.trial_client import Reuse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedCell:
    """The result of an equal run.

    Attributes:
        val_top1: its objective, a fraction.
        origin: where it was computed, for reports.
        run_id: of the run in the store; "" of a committed result.
        place: `table` (<ablation>/<scale>), `level` and `seed` of a committed result.
    """

    val_top1: float
    origin: str
    run_id: str = ""
    place: dict[str, Any] = field(default_factory=dict)


def find(config: Config, reuse: Reuse) -> FinishedCell | None:
    """Return the result of a finished run with the same configuration, photos, kernels, MindSpore and cores, or None.

    The commit may differ: a report names it.

    Args:
        config: of a training that would start now.
        reuse: whether a committed result without its run will do.
    """
    known = identity({FINGERPRINT: fingerprint(config), ENVIRONMENT: environment_tag(), NATIVE: native_tag()})
    photos = cache(lambda: build_index(config.dataset).fingerprint)  # only read for a candidate
    found = _stored(config.tracking.uri, known, photos)
    return _committed(known, photos) if found is None and reuse == "results" else found


def _stored(uri: str | None, known: str, photos: Callable[[], str]) -> FinishedCell | None:
    if not store_exists(uri):
        return None
    key = known.split()[0]
    try:
        for run in RunStore(uri).search(f"attributes.status = 'FINISHED' and tags.{FINGERPRINT} = '{key}'"):
            is_equal = identity(run.tags) == known and run.tags.get("dataset_fingerprint") == photos()
            top1 = run.closing("val", "top1")
            if is_equal and "verifies" not in run.tags and top1 is not None:
                study = run.tags.get("study")
                origin = f"study {study}, trial {run.tags.get('trial')}" if study else f"run {run.name}"
                return FinishedCell(top1, origin, run.run_id)
    except RequestError as error:  # the store does not answer
        log.warning("not searched for an equal run: %s", str(error).splitlines()[0])
    return None


def _committed(known: str, photos: Callable[[], str]) -> FinishedCell | None:
    for file in sorted(EXPERIMENTS.glob(f"*/*/{RESULTS}")):
        try:
            table = read_results(file.parent).table
        except DataError as error:
            log.warning("not searched for an equal run: %s", str(error).splitlines()[0])
            continue
        if "identity" not in table:
            continue
        for row in table[(table["identity"] == known) & (table["state"] == "complete")].itertuples():
            if row.dataset_fingerprint == photos():
                name = "/".join(file.parts[-3:-1])
                place = {"table": name, "level": row.level, "seed": int(row.seed)}
                return FinishedCell(float(row.val_top1), f"experiments/{name}, {row.level}, seed {row.seed}", "", place)
    return None
