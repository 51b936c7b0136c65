"""Write reference.npz, the results of the reference implementations, for tests/model/test_parity.py.

    pip install -e '.[parity]'
    git clone https://github.com/Jongchan/attention-module FOLDER
    python -m tests.parity.make FOLDER [MODEL …]

Needs torch and timm (the `parity` extra); run by hand when a model is added, whose names alone keep the others' results
as they are.  Per model:
    names, shapes               of the reference's state at 1000 classes
    logits_HxW                  float32 (2, 1000), evaluation mode
    loss, statistics, stem, classifier
                                one SGD step in training mode of another instance with 10 classes: the loss before it;
                                after it, evenly spaced elements of the running statistics (16 a norm, in the state's
                                order) and of the first (see parity_inputs.first_weight) and last weight matrix
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.reference import ATTENTION_MODULE, TIMM, build_reference
from tests.helpers import parity_inputs


def build(name: str, num_classes: int, size: tuple[int, int], attention_module: str) -> nn.Module:
    """Return the reference with drawn weights."""
    net = build_reference(name, num_classes, size, attention_module)
    state = {k: torch.from_numpy(parity_inputs.draw_weight(k, tuple(v.shape))) for k, v in parameters(net).items()}
    net.load_state_dict(state, strict=False)
    return net


def parameters(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in net.state_dict().items() if value.is_floating_point()}


def evaluation(name: str, attention_module: str) -> dict[str, np.ndarray]:
    sizes = parity_inputs.evaluation_sizes(name)
    net = build(name, 1000, sizes[0], attention_module).eval()
    state = parameters(net)
    shapes = [",".join(map(str, value.shape)) for value in state.values()]
    arrays = {"names": np.array(list(state)), "shapes": np.array(shapes)}
    for size in sizes:
        if size != sizes[0] and name in ATTENTION_MODULE:
            continue  # it pools over 7×7 only
        with torch.no_grad():
            logits = build(name, 1000, size, attention_module).eval()(
                torch.from_numpy(parity_inputs.draw_images(2, size))
            )
        arrays[f"logits_{size[0]}x{size[1]}"] = logits.numpy()
    return arrays


def training(name: str, attention_module: str) -> dict[str, np.ndarray]:
    size = parity_inputs.training_size(name)
    net = build(name, parity_inputs.TRAINING_CLASSES, size, attention_module).train()
    optimizer = torch.optim.SGD(net.parameters(), parity_inputs.learning_rate(name), momentum=0.9)
    images = torch.from_numpy(parity_inputs.draw_images(parity_inputs.TRAINING_BATCH, size))
    loss = nn.functional.cross_entropy(
        net(images), torch.from_numpy(parity_inputs.draw_labels()).long(), label_smoothing=parity_inputs.SMOOTHING
    )
    loss.backward()
    optimizer.step()
    state = {name: value.detach().numpy() for name, value in parameters(net).items()}
    matrices = [name for name, value in state.items() if value.ndim > 1]
    statistics = [parity_inputs.probe(value, 16) for name, value in state.items() if "running_" in name]
    return {
        "loss": np.float32(loss.item()),
        "statistics": np.concatenate(statistics) if statistics else np.zeros(0, np.float32),
        "stem": parity_inputs.probe(state[parity_inputs.first_weight(matrices)], 512),
        "classifier": parity_inputs.probe(state[matrices[-1]], 512),
    }


def main(attention_module: str, *names: str) -> None:
    file = Path(__file__).with_name("reference.npz")
    arrays = dict(np.load(file)) if names else {}
    for name in names or sorted(TIMM | ATTENTION_MODULE):
        results = evaluation(name, attention_module) | training(name, attention_module)
        arrays |= {f"{name}/{key}": value for key, value in results.items()}
        print(name, {key: float(np.std(v)) for key, v in results.items() if v.dtype == np.float32}, flush=True)
    np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
