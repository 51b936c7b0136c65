"""The operators of a compiled network, read from MindSpore's export."""

import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.train import mind_ir_pb2

from rp2k_lab.model.custom_operators import plain_operators

_KIND = mind_ir_pb2.AttributeProto
# Operators that give their first input.
_TRANSPARENT = ("Load", "Depend")


class NotSupported(Exception):
    """A network has an operator that is not understood; the message is one line."""


@dataclass(eq=False)
class Operator:
    """One operator of a graph.

    Attributes:
        inputs: names of operators, parameters, constants or the graph's input; those of Concat without its tuple.
        shape: of the output; of a batch norm that of its first output.
        is_done: for whoever walks over the graph.
    """

    kind: str
    attributes: dict[str, Any]
    inputs: list[str]
    name: str
    shape: tuple[int, ...]
    is_done: bool = False


@dataclass
class Graph:
    """The operators of a network in an order that they may run in.

    Attributes:
        constants: name to parameter of the network, float32 array, number, text or tuple.
        users: name to the operators that take it, once for each time.
    """

    operators: dict[str, Operator] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    users: dict[str, list[Operator]] = field(default_factory=lambda: defaultdict(list))
    output: str = ""


def read_graph(network: nn.Cell, images: np.ndarray) -> Graph:
    """Return the graph of a network in its present mode for images of this shape, uint8.

    Raises:
        NotSupported: its structure is not a list of operators with one output each, or it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as folder, plain_operators():
        file = Path(folder) / "network.mindir"
        try:
            mindspore.export(network, Tensor(images), file_name=str(file), file_format="MINDIR")
            model = mind_ir_pb2.ModelProto.FromString(file.read_bytes())
        except (OSError, RuntimeError, ValueError) as error:  # a full disk, or a folder's name that MindSpore refuses
            raise NotSupported(f"its graph cannot be written: {str(error).splitlines()[0]}") from None
    if model.functions:
        raise NotSupported("a graph of several functions")
    primitives = {each.name: each for each in model.primitives}
    parameters = {each.name: each for each in network.get_parameters()}
    graph, aliases = Graph(), {}
    for each in model.graph.parameter:  # its name: the graph, a colon, the parameter
        graph.constants[each.name] = parameters[each.name.rpartition(":")[2]]
    for node in model.graph.node:
        _read(node, primitives, graph, aliases)
    graph.output = _resolved(model.graph.output[0].name, aliases)
    for operator in graph.operators.values():
        for name in operator.inputs:
            graph.users[name].append(operator)
    return graph


def _read(node: Any, primitives: dict[str, Any], graph: Graph, aliases: dict[str, str]) -> None:
    """Add a node of the file to the graph: an operator, a constant or another name."""
    name = node.output[0]
    inputs = [_resolved(each, aliases) for each in node.input]
    if node.op_type == "Constant":
        graph.constants[name] = _value(node.attribute[0])
        return
    primitive = primitives[node.op_type.removeprefix("REF::")]
    kind = primitive.op_type
    if kind in _TRANSPARENT or (kind == "TupleGetItem" and graph.constants.get(inputs[1]) == 0):
        aliases[name] = inputs[0]
    elif kind == "MakeTuple":
        graph.constants[name] = tuple(inputs)
    elif kind != "UpdateState":  # the order of writes; there are none in evaluation
        if kind == "Concat":
            inputs = [*graph.constants[inputs[0]], inputs[1]]
        source = graph.operators.get(inputs[0])
        shape = source.shape if kind == "BatchNorm" and source else _shape(node)
        attributes = {each.name: _value(each) for each in primitive.attribute}
        graph.operators[name] = Operator(kind, attributes, inputs, name, shape)


def _resolved(name: str, aliases: dict[str, str]) -> str:
    while name in aliases:
        name = aliases[name]
    return name


def _shape(node: Any) -> tuple[int, ...]:
    for attribute in node.attribute:
        if attribute.name == "shape" and attribute.tensors:
            return tuple(attribute.tensors[0].dims)
    raise NotSupported(f"{node.op_type.split(':')[-2]} has several outputs")


def _value(attribute: Any) -> Any:
    if attribute.type in (_KIND.TUPLE, _KIND.LIST):
        return tuple(each.ints[0] if each.ints else each.i for each in attribute.values)
    if attribute.type in (_KIND.TENSOR, _KIND.TENSORS):
        tensor = attribute.tensors[0]
        is_float = tensor.data_type == mind_ir_pb2.TensorProto.FLOAT
        return np.frombuffer(tensor.raw_data, np.float32).reshape(tensor.dims) if is_float else None
    if attribute.type == _KIND.STRING:
        return attribute.s.decode()
    return attribute.f if attribute.type == _KIND.FLOAT else attribute.i


def is_parameter(value: Any) -> bool:
    """Return whether a constant is a parameter of float32."""
    return isinstance(value, Parameter) and value.dtype == mindspore.float32
