"""Make the batch of an ONNX graph dynamic.  MindSpore 2.10's exporter writes the batch size into constants.

Of one network exported with two batch sizes, the constants that differ are those that hold the batch size.
"""

from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, numpy_helper

# Operators that broadcast: of a constant that repeats along the batch one row is enough.
_BROADCASTING = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"}
_BATCH = "batch"
# Of added names; MindSpore's names are numbers and names of parameters.
_PREFIX = "dynamic_batch/"


class NotDynamic(Exception):
    """The graph depends on the batch size in a way that is not known here."""


def write_dynamic(first: Path, second: Path, output: Path, names: Sequence[str]) -> None:
    """Write an ONNX file whose inputs and outputs have a symbolic first dimension, `batch`.

    Args:
        first, second: the same network with two batch sizes; the first dimension of every input and output is it.
        names: of the outputs.

    Raises:
        NotDynamic: the files differ in more than constants that repeat along the batch and shapes to reshape to.
    """
    model, other = _load(first), _load(second)
    sizes = _batch_size(model), _batch_size(other)
    users, computed = _users(model), _computed(model)
    replaced: dict[str, np.ndarray] = {}
    expanded: dict[str, tuple[np.ndarray, list[int]]] = {}
    for name, a, b in _differences(model, other):
        if all((node.op_type, position) == ("Reshape", 1) for node, position in users[name]):
            replaced[name] = _dynamic_shape(name, a, b)
            continue
        rows, shape = _repeated(name, a, b, sizes)
        if all(_broadcasts(node, computed) for node, _ in users[name]):
            replaced[name] = rows
        else:
            expanded[name] = rows, shape
    _replace_constants(model, replaced, set(expanded))
    _expand_constants(model, expanded)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = _BATCH
    del model.graph.value_info[:]  # shapes of the first batch size
    _save(model, output, names)


def name_outputs(file: Path, names: Sequence[str]) -> None:
    """Name the outputs of an ONNX file."""
    _save(_load(file), file, names)


def _load(file: Path) -> ModelProto:
    """Read a model; order the nodes so that each follows those it reads, which MindSpore 2.10 does not."""
    model = onnx.load(file)
    makers = {name: i for i, node in enumerate(model.graph.node) for name in node.output}
    reads = {i: [makers[n] for n in node.input if n in makers] for i, node in enumerate(model.graph.node)}
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[i] for i in TopologicalSorter(reads).static_order())
    return model


def _batch_size(model: ModelProto) -> int:
    sizes = {value.type.tensor_type.shape.dim[0].dim_value for value in [*model.graph.input, *model.graph.output]}
    if len(sizes) != 1:
        raise NotDynamic("an input or output does not begin with the batch")
    return sizes.pop()


def _users(model: ModelProto) -> dict[str, list[tuple[NodeProto, int]]]:
    """Return the nodes that read each value, with the position among their inputs."""
    users: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            users.setdefault(name, []).append((node, position))
    return users


def _computed(model: ModelProto) -> set[str]:
    """Return the names of the values that depend on the images."""
    computed = {model.graph.input[0].name}
    for node in model.graph.node:
        if not computed.isdisjoint(node.input):
            computed.update(node.output)
    return computed


def _broadcasts(node: NodeProto, computed: set[str]) -> bool:
    """Return whether a constant with one row gives the same result: another input has the batch."""
    return node.op_type in _BROADCASTING and not computed.isdisjoint(node.input)


def _differences(model: ModelProto, other: ModelProto) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (name, value, other value) of the constants that differ.

    Raises:
        NotDynamic: something else differs.
    """
    others = {tensor.name: tensor for tensor in other.graph.initializer}
    if others.keys() != {tensor.name for tensor in model.graph.initializer}:
        raise NotDynamic("the graphs have other parameters")
    for tensor in model.graph.initializer:
        if tensor.SerializeToString() != others[tensor.name].SerializeToString():
            yield tensor.name, numpy_helper.to_array(tensor), numpy_helper.to_array(others[tensor.name])
    if len(model.graph.node) != len(other.graph.node):
        raise NotDynamic("the graphs have other operators")
    for node, twin in zip(model.graph.node, other.graph.node, strict=True):
        if node.SerializeToString() == twin.SerializeToString():
            continue
        values = _constant(node), _constant(twin)
        if values[0] is None or values[1] is None or list(node.output) != list(twin.output):
            raise NotDynamic(f"the operator {node.op_type} depends on the batch size")
        yield node.output[0], values[0], values[1]


def _constant(node: NodeProto) -> np.ndarray | None:
    """Return the tensor of a node Constant, or None for every other node."""
    tensors = [attribute.t for attribute in node.attribute if attribute.type == AttributeProto.TENSOR]
    return numpy_helper.to_array(tensors[0]) if node.op_type == "Constant" and tensors else None


def _dynamic_shape(name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the shape to reshape to, int64, with -1 for the dimension that differs."""
    if a.shape != b.shape or (a != b).sum() != 1:
        raise NotDynamic(f"the shape {name} differs in more than one dimension")
    return np.where(a != b, -1, a).astype(np.int64)


def _repeated(name: str, a: np.ndarray, b: np.ndarray, sizes: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """Return a constant's rows of one image, and its shape with -1 at the dimension that repeats them by the batch.

    The rows have length 1 there, so a constant that differs along the batch is refused.
    """
    axes = [axis for axis in range(a.ndim) if a.ndim == b.ndim and a.shape[axis] != b.shape[axis]]
    if len(axes) != 1:
        raise NotDynamic(f"the constant {name} depends on the batch size")
    (axis,) = axes
    per_image = a.shape[axis] // sizes[0]
    rows = np.take(a, [0], axis)
    if (a.shape[axis], b.shape[axis]) != (per_image * sizes[0], per_image * sizes[1]):
        raise NotDynamic(f"the size of the constant {name} is no multiple of the batch size")
    if not ((a == rows).all() and (b == rows).all()):
        raise NotDynamic(f"the constant {name} differs along the batch")
    shape = [per_image if i == axis else size for i, size in enumerate(a.shape)]
    return rows, [*shape, axis]


def _replace_constants(model: ModelProto, values: dict[str, np.ndarray], removed: set[str]) -> None:
    """Give the named constants new values, and remove others."""
    graph = model.graph
    for tensor in list(graph.initializer):
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
        elif tensor.name in removed:
            graph.initializer.remove(tensor)
    for node in list(graph.node):
        if node.op_type == "Constant" and node.output[0] in values:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(values[node.output[0]]))
        elif node.op_type == "Constant" and node.output[0] in removed:
            graph.node.remove(node)


def _expand_constants(model: ModelProto, constants: dict[str, tuple[np.ndarray, list[int]]]) -> None:
    """Compute the named constants from the number of images, before the first node."""
    if not constants:
        return
    graph, nodes = model.graph, []

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), _PREFIX + name))
        return _PREFIX + name

    def node(operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    shape = node("Shape", [graph.input[0].name], f"{_PREFIX}shape")
    batch = node("Gather", [shape, constant("first", np.array([0], np.int64))], f"{_PREFIX}batch")
    for name, (rows, (*sizes, axis)) in constants.items():
        # The number of images times the rows of one stands at `axis`; the other sizes are as they are.
        factors, others = np.zeros((2, len(sizes)), np.int64)
        factors[axis], others[:] = sizes[axis], sizes
        others[axis] = 0
        rows_of_all = node("Mul", [batch, constant(f"{name}/factors", factors)], f"{_PREFIX}{name}/rows")
        size = node("Add", [rows_of_all, constant(f"{name}/others", others)], f"{_PREFIX}{name}/size")
        node("Expand", [constant(f"{name}/value", rows), size], name)
    for added in reversed(nodes):
        graph.node.insert(0, added)


def _save(model: ModelProto, file: Path, names: Sequence[str]) -> None:
    """Write a model with these names of its outputs, after a check."""
    renamed = {value.name: name for value, name in zip(model.graph.output, names, strict=True)}
    for value in model.graph.output:
        value.name = renamed[value.name]
    for node in model.graph.node:
        for values in (node.input, node.output):
            values[:] = [renamed.get(name, name) for name in values]
    onnx.checker.check_model(model)
    onnx.save(model, file)
