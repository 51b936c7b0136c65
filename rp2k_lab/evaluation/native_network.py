"""The forward pass of a network by the native library: batch norms in the weights, oneDNN's layouts throughout.

The operators come from the network's compiled graph (mindir.py), so the structure is certain.  A network with an
operator that is not below stays with MindSpore as a whole.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Parameter, nn

from rp2k_lab.evaluation.mindir import Graph, NotSupported, Operator, is_parameter, read_graph
from rp2k_lab.native import inference
from rp2k_lab.native.inference import Kind, Program

Activation = dict[str, Any]
# Activations of an operator's output that become a part of it.
_ACTIVATIONS: dict[str, Activation] = {
    "ReLU": {"activation": inference.RELU},
    "ReLU6": {"activation": inference.CLIP, "alpha": 0.0, "beta": 6.0},
    "Sigmoid": {"activation": inference.SIGMOID},
}
_SWISH: Activation = {"activation": inference.SWISH, "alpha": 1.0}


@dataclass(frozen=True)
class Folded:
    """A weight, (output channels, …), with what is folded into it.

    Attributes:
        norm: (gamma, beta, mean, variance, epsilon) of the batch norm behind it, or None.
        tensor, bias_tensor: numbers of the program's constants.
    """

    weight: Parameter
    bias: Parameter | None
    norm: tuple[Any, ...] | None
    tensor: int
    bias_tensor: int

    def values(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the present (weight, bias), float32."""
        weight, bias = self.weight.asnumpy(), None if self.bias is None else self.bias.asnumpy()
        if self.norm is None:
            return weight, bias
        gamma, beta, mean, variance = (each.asnumpy() for each in self.norm[:4])
        scale = gamma / np.sqrt(variance + np.float32(self.norm[4]))
        shift = beta + ((0 if bias is None else bias) - mean) * scale
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), shift


class NativeNetwork:
    """A cell, uint8 images (batch, height, width, 3) to float32, whose weights may change between calls of `refresh`.

    Its outputs differ from the cell's by rounding: a batch norm is folded into the weights before it.

    Args:
        cell: in evaluation mode.
        images: a batch; all have its shape.

    Raises:
        NotSupported, Refused: the library cannot run it.
    """

    def __init__(self, cell: nn.Cell, images: np.ndarray):
        graph = read_graph(cell, images)
        builder = _Builder(graph)
        self._program, self._folded = builder.program, builder.folded
        self._shape = graph.operators[graph.output].shape
        self.refresh()

    def refresh(self) -> None:
        """Take over the cell's weights and statistics."""
        for folded in self._folded:
            weight, bias = folded.values()
            self._program.set(folded.tensor, weight)
            if bias is not None:
                self._program.set(folded.bias_tensor, bias)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        output = np.empty(self._shape, np.float32)
        self._program.run(images, output)
        return output


class _Builder:
    """Translates a graph.

    Attributes:
        program, folded: the result.
    """

    def __init__(self, graph: Graph):
        self.program, self.folded = Program(), []
        self._graph = graph
        self._tensors: dict[str, int] = {}  # of the operators' outputs
        self._padded: dict[
            str, tuple[str, list[int]]
        ] = {}  # output to (what is padded with zeros, top bottom left right)
        self._broadcast: set[str] = set()  # outputs that are (batch, channels, 1, 1) instead of their shape
        self._shared: set[str] = set()  # outputs whose memory another one has, or that are not ours to overwrite
        for operator in graph.operators.values():
            if not operator.is_done:
                operator.is_done = True
                build = getattr(self, f"_build_{operator.kind}", None)
                if build is None:
                    raise NotSupported(f"operator {operator.kind}")
                build(operator)
        self.program.finish(self._tensor(graph.output))

    def _tensor(self, name: str) -> int:
        if name not in self._tensors:
            raise NotSupported("an operator on a constant")
        return self._tensors[name]

    def _new(self, name: str, shape: tuple[int, ...]) -> int:
        self._tensors[name] = self.program.tensor(shape)
        return self._tensors[name]

    def _only_user(self, name: str, *kinds: str) -> Operator | None:
        """Return the operator that alone takes an output, if it is of one of these kinds."""
        users = self._graph.users[name]
        return users[0] if len(users) == 1 and users[0].kind in kinds and name != self._graph.output else None

    def _absorb(self, name: str, *kinds: str) -> Operator | None:
        """Return `_only_user` and mark it as done."""
        user = self._only_user(name, *kinds)
        if user:
            user.is_done = True
        return user

    def _activation(self, name: str) -> tuple[str, Activation]:
        """Return (output, activation) behind an output; the same name and {} if there is none."""
        if user := self._absorb(name, *_ACTIVATIONS):
            return user.name, _ACTIVATIONS[user.kind]
        users = {user.kind: user for user in self._graph.users[name]}
        if len(self._graph.users[name]) == 2 and users.keys() == {"Sigmoid", "Mul"}:
            gate, product = users["Sigmoid"], users["Mul"]
            if set(product.inputs) == {name, gate.name} and self._only_user(gate.name, "Mul"):
                gate.is_done = product.is_done = True
                return product.name, _SWISH
        return name, {}

    def _epilogue(self, name: str, shape: tuple[int, ...]) -> tuple[str, dict[str, Any], str | None]:
        """Return (output, options, residual): an activation, or a sum with an earlier output and its activation."""
        end, activation = self._activation(name)
        total = None if activation else self._only_user(name, "Add")
        if not total:
            return end, activation, None
        other = total.inputs[total.inputs[0] == name]
        if other == name or other not in self._tensors or other in self._broadcast:
            return end, {}, None
        if self._graph.operators[other].shape != shape:
            return end, {}, None
        total.is_done = True
        end, activation = self._activation(total.name)
        return end, {"residual": self._tensors[other], **activation}, other

    def _fold(self, operator: Operator) -> tuple[str, dict[str, int]]:
        """Return (output, options) of a weight's operator together with the bias and the batch norm behind it."""
        weight, bias, norm, name = self._graph.constants.get(operator.inputs[1]), None, None, operator.name
        if user := self._absorb(name, "BiasAdd"):
            bias, name = self._graph.constants.get(user.inputs[1]), user.name
        if user := self._absorb(name, "BatchNorm"):
            *parameters, is_training, epsilon = (self._graph.constants.get(each) for each in user.inputs[1:7])
            norm, name = (*parameters, epsilon), user.name
            if is_training or not all(map(is_parameter, parameters)):
                raise NotSupported("a batch norm of the batch's statistics")
        if weight is None or not is_parameter(weight) or (bias is not None and not is_parameter(bias)):
            raise NotSupported(f"{operator.kind} without float32 parameters")
        tensors = {"second": self.program.tensor(weight.shape, is_constant=True)}
        if bias is not None or norm is not None:
            tensors["bias"] = self.program.tensor(operator.shape[1:2], is_constant=True)
        self.folded.append(Folded(weight, bias, norm, tensors["second"], tensors.get("bias", -1)))
        return name, tensors

    def _build_Cast(self, operator: Operator) -> None:
        """`model.normalize.Normalize`."""
        name, constants = operator.name, []
        for kind in ("Transpose", "Mul", "Add"):
            user = self._absorb(name, kind)
            if user is None:
                raise NotSupported("Cast")
            constants.append(self._graph.constants.get(user.inputs[1]))
            name = user.name
        order, scale, shift = constants
        shape = self._graph.operators[name].shape
        if order != (0, 3, 1, 2) or {np.shape(scale), np.shape(shift)} != {(1, shape[1], 1, 1)}:
            raise NotSupported("Cast")
        self.program.input(self._new(name, shape), scale, shift)

    def _build_Conv2D(self, operator: Operator) -> None:
        source, given = operator.inputs[0], operator.attributes
        strides, dilations = given["stride"][-2:], given["dilation"][-2:]
        reach = [(k - 1) * d + 1 for k, d in zip(given["kernel_size"], dilations, strict=True)]
        top, bottom, left, right = self._padding(operator, given.get("pad", (0,) * 4), reach, strides)
        name, tensors = self._fold(operator)
        end, options, residual = self._epilogue(name, operator.shape)
        numbers = (*strides, *dilations, top, left, bottom, right, given["group"])
        overwrites = residual is not None and residual != source and self._is_free(residual)
        target = self._new(end, operator.shape)
        self.program.add(
            Kind.CONVOLUTION,
            self._tensor(source),
            target,
            numbers=numbers,
            may_overwrite=overwrites,
            **tensors,
            **options,
        )

    def _is_free(self, name: str) -> bool:
        """Return whether no later operator needs an output."""
        return name not in self._shared and all(user.is_done for user in self._graph.users[name])

    def _padding(self, operator: Operator, pad: Any, reach: list[int], strides: Any) -> list[int]:
        """Return (top, bottom, left, right) [pixels]; reach: sides of the kernel's field."""
        mode = operator.attributes["pad_mode"].lower()
        if mode == "pad":
            return list(pad)
        if mode == "valid":
            return [0] * 4
        sides = self._graph.operators[operator.inputs[0]].shape[2:]
        totals = [
            max((result - 1) * stride + field - side, 0)
            for side, result, stride, field in zip(sides, operator.shape[2:], strides, reach, strict=True)
        ]
        return [part for total in totals for part in (total // 2, total - total // 2)]

    def _build_pooling(self, operator: Operator, algorithm: int) -> None:
        source = operator.inputs[0]
        given = operator.attributes
        if "kernel_size" not in given:
            raise NotSupported(f"{operator.kind} of another form")
        kernel, strides = given["kernel_size"][-2:], given["strides"][-2:]
        padding = self._padding(operator, (), list(kernel), strides)
        while source in self._padded:
            source, more = self._padded[source]
            padding = [a + b for a, b in zip(padding, more, strict=True)]
        top, bottom, left, right = padding
        target = self._new(operator.name, operator.shape)
        numbers = (*kernel, *strides, top, left, bottom, right)
        self.program.add(Kind.POOLING, self._tensor(source), target, numbers=numbers, algorithm=algorithm)

    def _build_MaxPool(self, operator: Operator) -> None:
        self._build_pooling(operator, inference.MAXIMUM)

    def _build_AvgPool(self, operator: Operator) -> None:
        if operator.inputs[0] in self._padded:
            raise NotSupported("a mean over padding")
        self._build_pooling(operator, inference.MEAN)

    def _build_Concat(self, operator: Operator) -> None:
        *parts, axis = operator.inputs
        axis, constants = self._graph.constants[axis], self._graph.constants
        inner = [part for part in parts if not isinstance(constants.get(part), np.ndarray)]
        if len(inner) < len(parts):
            self._note_padding(operator, parts, axis, inner)
            return
        target = self._new(operator.name, operator.shape)
        self.program.add_concat([self._tensor(part) for part in parts], target, axis)

    def _note_padding(self, operator: Operator, parts: list[str], axis: int, inner: list[str]) -> None:
        """Note that a concatenation is zeros around non-negative values: `layers.MaxPool`."""
        constants, source = self._graph.constants, inner[0] if inner else ""
        is_zero = all(not constants[part].any() for part in parts if part not in inner)
        is_pooled = all(user.kind in ("Concat", "MaxPool") for user in self._graph.users[operator.name])
        producer = self._graph.operators.get(source)
        is_positive = source in self._padded or (producer and producer.kind in ("ReLU", "ReLU6", "Sigmoid"))
        if len(inner) != 1 or axis not in (2, 3) or not (is_zero and is_pooled and is_positive):
            raise NotSupported("Concat with a constant")
        before, padding = parts.index(source), [0] * 4
        for offset, some in enumerate((parts[:before], parts[before + 1 :])):
            padding[2 * (axis - 2) + offset] = sum(constants[part].shape[axis] for part in some)
        self._padded[operator.name] = (source, padding)

    def _build_Reshape(self, operator: Operator) -> None:
        source = operator.inputs[0]
        product = self._only_user(operator.name, "MatMulExt", "MatMul")
        result = self._only_user(product.name, "Reshape") if product else None
        factor = (
            self._graph.constants.get(product.inputs[1]) if product and product.inputs[0] == operator.name else None
        )
        if product and result and isinstance(factor, np.ndarray) and factor.ndim == 2:
            shape = self._graph.operators[source].shape
            if factor.shape[1] == 1 and len(shape) == 4 and operator.shape == _rows(shape):
                self._build_mean(source, product, result, factor)
                return
            if factor.shape[0] == 1 and len(result.shape) == 4 and operator.shape == (_rows(result.shape)[0], 1):
                self._build_gate(source, product, result, factor)
                return
        self._reshape(source, operator.name, operator.shape)

    def _reshape(self, source: str, name: str, shape: tuple[int, ...]) -> None:
        self.program.add(Kind.RESHAPE, self._tensor(source), self._new(name, shape))
        self._shared |= {source, name}

    def _build_mean(self, source: str, product: Operator, result: Operator, factor: np.ndarray) -> None:
        """`layers.global_mean`."""
        batch, channels, height, width = self._graph.operators[source].shape
        if not np.allclose(factor * factor.size, 1):
            raise NotSupported("a weighted mean")
        product.is_done = result.is_done = True
        target = self._new(product.name, (batch, channels, 1, 1))
        numbers = (height, width, 1, 1, 0, 0, 0, 0)
        self.program.add(Kind.POOLING, self._tensor(source), target, numbers=numbers, algorithm=inference.MEAN)
        if result.shape == (batch, channels, 1, 1):
            self._tensors[result.name] = target
            self._shared.add(result.name)
        else:
            self._reshape(product.name, result.name, result.shape)

    def _build_gate(self, source: str, product: Operator, result: Operator, factor: np.ndarray) -> None:
        """`layers.scale_channels`, without its product."""
        if not np.all(factor == 1):
            raise NotSupported("a weighted gate")
        product.is_done = result.is_done = True
        self._reshape(source, result.name, (*result.shape[:2], 1, 1))
        self._broadcast.add(result.name)

    def _build_binary(self, operator: Operator, algorithm: int) -> None:
        first, second = operator.inputs
        if first in self._broadcast:
            first, second = second, first
        shapes = [self._graph.operators[each].shape for each in (first, second) if each in self._tensors]
        if first in self._broadcast or shapes != [operator.shape] * 2:
            raise NotSupported(f"{operator.kind} of other shapes")
        end, options, _ = self._epilogue(operator.name, operator.shape)
        target = self._new(end, operator.shape)
        self.program.add(
            Kind.BINARY, self._tensor(first), target, second=self._tensor(second), algorithm=algorithm, **options
        )

    def _build_Mul(self, operator: Operator) -> None:
        self._build_binary(operator, inference.MULTIPLY)

    def _build_Add(self, operator: Operator) -> None:
        self._build_binary(operator, inference.ADD)

    def _build_activation(self, operator: Operator) -> None:
        target = self._new(operator.name, operator.shape)
        self.program.add(Kind.ELEMENTWISE, self._tensor(operator.inputs[0]), target, **_ACTIVATIONS[operator.kind])

    _build_ReLU = _build_ReLU6 = _build_Sigmoid = _build_activation

    def _build_MatMul(self, operator: Operator) -> None:
        source, _, *transposed = operator.inputs
        flags = [self._graph.constants.get(each) for each in transposed] or [0, 0]
        if flags != [0, 1]:  # nn.Dense
            raise NotSupported("MatMul of another form")
        name, tensors = self._fold(operator)
        end, activation = self._activation(name)
        target = self._new(end, operator.shape)
        self.program.add(Kind.DENSE, self._tensor(source), target, numbers=(1,), **tensors, **activation)

    def _build_Softmax(self, operator: Operator) -> None:
        self.program.add(Kind.SOFTMAX, self._tensor(operator.inputs[0]), self._new(operator.name, operator.shape))


def _rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of a feature map's rows, one a channel of an image."""
    batch, channels, height, width = shape
    return batch * channels, height * width
