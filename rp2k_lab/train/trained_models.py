"""Load trained models with the preprocessing of their runs."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.files import sha256_of
from rp2k_lab.core.progress import activity
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.class_names import look_alike, spelled_out
from rp2k_lab.dataset.photo_index import Index, align_index
from rp2k_lab.evaluation.open_set import OpenSet, conformal
from rp2k_lab.evaluation.predictor import Member
from rp2k_lab.extension.extension_file import Extension
from rp2k_lab.model import WithPreprocessing
from rp2k_lab.model.extended_classifier import ExtendedClassifier
from rp2k_lab.model.network import CosineClassifier
from rp2k_lab.tracking.mlflow_runs import OPEN_SET
from rp2k_lab.tracking.run_files import damage_named
from rp2k_lab.tracking.run_lookup import EarlierRun, find_run
from rp2k_lab.train.build import build_network, preprocessing
from rp2k_lab.train.checkpoint import load_checkpoint

log = logging.getLogger(__name__)

_DIFFERENCES_SHOWN = 3


@activity("loading networks")
def load_members(configs: Sequence[Config]) -> tuple[list[EarlierRun], list[Member]]:
    """Return the earlier runs of a request and their trained networks.

    Args:
        configs: restored configuration of each of `runs=`, in order.

    Raises:
        RequestError: missing or duplicate run, weights that do not fit, or runs of different classes.
    """
    runs, members = [], []
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        for config, reference in zip(configs, configs[0].runs, strict=True):
            run = find_run(config.tracking.uri, reference, Path(downloads))
            _check_compatible(runs, run)
            name = short_name(run)
            if name in [member.name for member in members]:  # same model, data set, augmentation and seed
                name += f"_{len(members) + 1}"
            members.append(Member(name, load_network(config, run), preprocessing(config), load_open_set(run)))
            runs.append(run)
            log.info("%s: %s at %s", run.name, config.model.name, members[-1].preprocessing)
    return runs, members


def load_network(config: Config, run: EarlierRun) -> WithPreprocessing:
    """Return uint8 images (batch, height, width, 3) to logits (batch, classes), with the run's weights.

    Raises:
        RequestError: damaged checkpoint, weights of another network, or images too small for it.
    """
    extension = run.extension
    network = build_network(config, len(extension.base_classes if extension else run.classes))
    try:
        load_checkpoint(network, run.checkpoint)
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(f"runs={run.reference}: not the weights of this {config.model.name}\n{reason}") from None
    if extension:
        if sha256_of(run.checkpoint) != extension.base_sha256:
            raise DataError(
                f"{escape_controls(run.checkpoint)}: is not the network that {escape_controls(run.name)} extends\n"
                "restore the base run, or name another run"
            )
        extend_network(network, extension)
    return network


def calibrate(network: WithPreprocessing, temperature: float) -> None:
    """Divide the logits of a network by a temperature, in its classifier."""
    classifier = network.network.head.fc
    if isinstance(classifier, CosineClassifier):
        classifier.scale /= temperature
    elif isinstance(classifier, nn.Dense):
        for parameter in (classifier.weight, classifier.bias):
            parameter.set_data(Tensor(parameter.asnumpy() / np.float32(temperature)))


def extend_network(network: WithPreprocessing, extension: Extension) -> None:
    """Give a base's network, extended or not, the classes of an extension."""
    head = network.network.head
    head.fc = ExtendedClassifier(
        head.fc.head if isinstance(head.fc, ExtendedClassifier) else head.fc,
        (extension.whitening.mean, extension.whitening.matrix),
        extension.padded_centers(),
        extension.scale,
        extension.head_labels,
        extension.head_temperature if extension.old == "head" else None,
    )


def load_open_set(run: EarlierRun) -> OpenSet | None:
    """Return what the val scores of a run say about known images; None: the run recorded nothing.

    Raises:
        DataError: a damaged file.
    """
    if run.extension:
        return conformal(run.extension.val_scores)
    if run.open_set is None:
        return None
    with damage_named(Path(OPEN_SET)):
        return OpenSet.from_text(run.open_set)


def check_classes(index: Index, run: EarlierRun, dataset: str) -> None:
    """Raise RequestError unless the data set has the run's classes; of an extension, its base's."""
    classes = run.extension.base_classes if run.extension else run.classes
    if tuple(index.classes) != classes:
        differences = class_differences(index.classes, classes, f"dataset={dataset}", "the run")
        raise RequestError(
            f"runs={run.reference}: other classes than dataset={dataset} ({differences})\n"
            "leave out the dataset keys that differ from the run's, or use task=predict, which needs no classes"
        )


def with_classes_of(index: Index, run: EarlierRun) -> Index:
    """Return the index with a run's classes; images of classes that the run lacks get the label -1.

    Renamed classes of an extension's base are recognized.
    """
    extension = run.extension
    if extension and tuple(index.classes[: len(extension.base_classes)]) == extension.base_classes:
        pairs = zip(extension.head_labels, run.classes, strict=True)
        names = {extension.base_classes[label]: name for label, name in pairs if label >= 0}
        names = {name: names.get(name) for name in extension.base_classes}  # None: a removed class
        classes = index.table["class"].map(lambda name: names.get(name, name))
        index = replace(index, table=index.table.assign(**{"class": classes.fillna("")}))
    return align_index(index, run.classes)


def check_held_out(config: Config, runs: Sequence[EarlierRun]) -> None:
    """Warn if images of val may be among a run's training images."""
    for run in runs:
        for key in ("val_fraction", "val_seed"):
            recorded, current = run.config["dataset"][key], getattr(config.dataset, key)
            if run.config["dataset"]["name"] == config.dataset.name and recorded != current:
                log.warning(
                    "%s has dataset.%s=%s, now it is %s: it may have been trained on photos of val",
                    run.name, key, recorded, current,
                )  # fmt: skip


def parents(runs: Sequence[EarlierRun]) -> dict[str, str]:
    """Return the tags that name and, in MLflow's description, link the runs that a run started from.

    A run given as a checkpoint file is named by its path.
    """
    links = [f"[{run.name}]({run.page})" if run.page else f"`{run.checkpoint}`" for run in runs]
    return {
        "parent": ",".join(run.run_id or str(run.checkpoint) for run in runs),
        "mlflow.note.content": f"Started from {', '.join(links)}.",
    }


def short_name(run: EarlierRun) -> str:
    """Return the run's name; for a checkpoint file the names of its run's folder and the file."""
    return run.name if run.run_id else f"{run.checkpoint.parent.parent.name}-{run.checkpoint.stem}"


def class_differences(classes: Sequence[str], run_classes: Sequence[str], name: str, run_name: str) -> str:
    """Return a text on different classes: `the run lacks a, b and 3 more; dataset=x lacks c`."""
    parts = []
    for source, known, wanted in ((run_name, set(run_classes), classes), (name, set(classes), run_classes)):
        missing = [c for c in wanted if c not in known]
        if missing:
            more = f" and {len(missing) - _DIFFERENCES_SHOWN} more" if len(missing) > _DIFFERENCES_SHOWN else ""
            shown = [
                spelled_out(c) if look_alike(c, known) else escape_controls(c) for c in missing[:_DIFFERENCES_SHOWN]
            ]
            parts.append(f"{source} lacks {', '.join(shown)}{more}")
    return "; ".join(parts) or "the same in another order"


def _check_compatible(runs: Sequence[EarlierRun], run: EarlierRun) -> None:
    for other in runs:
        if other.checkpoint == run.checkpoint:
            raise RequestError(f"runs={other.reference},{run.reference}: the same run twice\nname each run once")
        if other.classes != run.classes:
            differences = class_differences(other.classes, run.classes, other.reference, run.reference)
            raise RequestError(
                f"runs={other.reference},{run.reference}: trained on other classes\n{differences}: leave one out"
            )
