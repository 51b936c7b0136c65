"""task=convert: PyTorch weights to a MindSpore checkpoint, with a report on each parameter name."""

import json
from pathlib import Path

import mindspore
import numpy as np

from rp2k_lab import COMMAND
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.files import sha256_of, write_text
from rp2k_lab.core.quoting import shell_override
from rp2k_lab.model.weights.torch_names import Match, load_torch_weights, match_torch_weights, renamed
from rp2k_lab.model.weights.torch_reader import read_torch_file
from rp2k_lab.model.weights.torch_unpickler import excerpt
from rp2k_lab.train.build import create_network
from rp2k_lab.train.checkpoint import save_checkpoint


def run(config: Config, folder: Path) -> None:
    """Read and match the weights, print a report, write the checkpoint and its record (`.json` beside it).

    Raises:
        RequestError: no input, or the weights of another network.
        DataError: an unreadable file, or one that holds anything but weights.
    """
    task = config.task
    if task.with_classifier and config.model.head != "linear":
        raise RequestError(
            f"model.head={config.model.head}: task=convert reads the classifiers of linear heads\n"
            "add task.with_classifier=false, or leave out model.head"
        )
    output = task.output or folder / f"{task.input.stem}.ckpt"
    state = read_torch_file(task.input)
    network = create_network(config, class_count(state) if task.with_classifier else 1)
    match = match_torch_weights(network, state, task.with_classifier)
    print_report(match, task.input, config.model.name, task.with_classifier)
    try:
        load_torch_weights(network, state, task.with_classifier)
    except ValueError as error:
        raise RequestError(f"task.input={task.input}: not the weights of model={config.model.name}\n{error}") from None
    left_out = () if task.with_classifier else tuple(p.name for p in network.head.get_parameters())
    save_checkpoint(network, output, step=0, leave_out=left_out)
    write_text(output.with_suffix(".json"), json.dumps(record(config, match), indent=2) + "\n", sync=True)
    print(f"\ncheckpoint  {output}\nrecord      {output.with_suffix('.json')}")
    print(f"next        {COMMAND} model={config.model.name} {shell_override('model.pretrained', output)}")


def class_count(state: dict[str, np.ndarray]) -> int:
    """Return the number of classes of the file's classifier.

    Raises:
        RequestError: the file has no classifier.
    """
    weights = renamed(state).get("fc.weight")
    if weights is None:
        raise RequestError("task.with_classifier=true: the file has no classifier\nuse task.with_classifier=false")
    return len(weights[1])


def print_report(match: Match, file: Path, model: str, with_classifier: bool) -> None:
    """Print the number of matched parameters, and each name without a match."""
    print(f"{file.name} → {model}: {len(match.loaded)} parameters match")
    if not with_classifier:
        print("  the classifier is left out (task.with_classifier=false)")
    for name in match.missing:
        print(f"  only in the network: {name}")
    for name in match.unexpected:
        print(f"  only in the file: {excerpt(name)}")
    for name, shape, file_shape in match.other_shape:
        print(f"  of another shape: {name} is {file_shape} in the file, {shape} in the network")
    for line in match.resizing():
        print(f"  {line}")


def record(config: Config, match: Match) -> dict:
    """Return the origin of a converted checkpoint, for the file beside it."""
    task = config.task
    return {
        "source": task.input.name,
        "sha256": sha256_of(task.input),
        "bytes": task.input.stat().st_size,
        "model": config.model.model_dump(mode="json", exclude={"pretrained"}),
        "parameters": len(match.loaded),
        "values": int(sum(value.size for value in match.loaded.values())),
        "with_classifier": task.with_classifier,
        "only_in_the_file": match.unexpected,
        "mindspore": mindspore.__version__,
    }
