"""Cost and source of each model of the zoo."""

import time
from dataclasses import dataclass
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor, nn
from mindspore.train import mind_ir_pb2

from rp2k_lab.model.custom_operators import plain_operators
from rp2k_lab.model.zoo import create_model, families


@dataclass(frozen=True)
class Summary:
    """A model at 1000 classes.

    Attributes:
        parameters: number of trainable values.
        multiply_adds: for one image, forward.
        last_width: features before the classifier.
        smallest_input: least side (pixels).
        images_per_second: measured, forward; None: not measured.
        source: papers and reference implementation.
    """

    name: str
    parameters: int
    multiply_adds: int
    last_width: int
    smallest_input: int
    images_per_second: float | None
    source: str


def summarize(name: str, size: tuple[int, int], batch_size: int, seconds: float, folder: Path) -> Summary:
    """Build a model, count its parameters and multiply-adds, and time its forward pass in graph mode.

    Args:
        size: input (height, width) (pixels).
        batch_size: images a batch.
        seconds: duration of the timing; 0: no timing.
        folder: for a temporary file.

    Raises:
        ValueError: unknown model, or a size that it does not take.
    """
    network = create_model(name, 1000).set_train(False)
    network.check_input(size)
    images = Tensor(np.random.default_rng(0).normal(size=(batch_size, 3, *size)).astype(np.float32))
    file = folder / f"{name}.mindir"
    with plain_operators():  # whose multiply-adds are counted
        mindspore.export(network, images, file_name=str(file), file_format="MINDIR")
    speed = images_per_second(nn.GraphCell(mindspore.load(str(file))), images, seconds) if seconds else None
    multiply_adds = count_multiply_adds(file) // batch_size
    file.unlink()
    parameters = sum(parameter.size for parameter in network.trainable_params())
    backbone, source = network.backbone, families()[name].sources.get(name, "–")
    return Summary(name, parameters, multiply_adds, backbone.num_features, backbone.smallest_input, speed, source)


def images_per_second(graph: nn.Cell, images: Tensor, seconds: float) -> float:
    """Return images per second from the median time of at least three batches."""
    graph(images).asnumpy()  # compiles
    times, started = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        graph(images).asnumpy()
        times.append(time.perf_counter() - before)
    return len(images) / float(np.median(times))


def count_multiply_adds(file: Path) -> int:
    """Return the multiply-adds of an exported graph's convolutions and matrix products, from the shapes in the file."""
    model = mind_ir_pb2.ModelProto()
    model.ParseFromString(file.read_bytes())
    shapes = {parameter.name: tuple(parameter.dims) for parameter in model.graph.parameter}
    shapes |= {value.name: tuple(value.tensor[0].dims) for value in model.graph.input if value.tensor}
    total = 0
    for node in model.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if "shape" in attributes and attributes["shape"].tensors:
            shapes[node.output[0]] = tuple(attributes["shape"].tensors[0].dims)
        operator = node.op_type.split(":")[-2] if ":" in node.op_type else node.op_type
        if operator == "Load":
            shapes[node.output[0]] = shapes[node.input[0]]
        elif operator == "Conv2D":
            kernel = shapes[node.input[1]]
            total += int(np.prod(shapes[node.output[0]]) * np.prod(kernel[1:]))
        elif operator in ("MatMul", "MatMulExt", "BatchMatMul"):
            left = shapes.get(node.input[0])  # a constant has no shape
            transposed = {name for name in ("transpose_a", "transpose_b") if name in attributes and attributes[name].i}
            if left:
                inner = left[-2 if "transpose_a" in transposed else -1]
            else:
                inner = shapes[node.input[1]][-1 if "transpose_b" in transposed else -2]
            total += int(np.prod(shapes[node.output[0]]) * inner)
    return total
