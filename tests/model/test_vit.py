"""Attention and the position table of ViT; test_parity.py compares the whole networks with timm's."""

import numpy as np
import pytest
from mindspore import Tensor

from rp2k_lab.model import create_model, load_torch_weights, vit
from rp2k_lab.model.weights.torch_names import match_torch_weights, torch_name
from tests.helpers import numpy_layers, parity_inputs

SMALL = {"width_multiplier": 1 / 6, "depth_multiplier": 1 / 12}


@pytest.mark.parametrize(
    ("old", "new", "rows"),
    [
        (4, 2, [[0.45868, 0.45868, 0.11983, -0.03719], [-0.03719, 0.11983, 0.45868, 0.45868]]),
        (3, 5, [[1.07547, -0.07547, 0], [0.64925, 0.39552, -0.04478], [0, 1, 0], [-0.04478, 0.39552, 0.64925],
                [0, -0.07547, 1.07547]]),
        (3, 3, np.eye(3)),
    ],
)  # fmt: skip
def test_resizing_is_pytorchs_bicubic_with_antialiasing(old, new, rows):
    matrix = vit.resize_matrix(old, new)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix, rows, atol=1e-5)


def test_a_table_is_resized_along_both_axes_without_its_class_token():
    table = np.random.default_rng(0).normal(size=(1, 17, 3)).astype(np.float32)
    resized = vit.resize_table(table, 2)
    assert (resized.shape, resized.dtype) == ((1, 5, 3), np.float32)
    np.testing.assert_array_equal(resized[:, 0], table[:, 0])
    matrix, grid = vit.resize_matrix(4, 2), table[0, 1:].reshape(4, 4, 3)
    expected = [[matrix[y] @ grid[..., c] @ matrix[x] for c in range(3)] for y in range(2) for x in range(2)]
    np.testing.assert_allclose(resized[0, 1:], expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 17, 3), (1, 16, 3), (17, 3), (1, 1, 3), (3,)])
def test_other_tables_stay_as_they_are(shape):
    """One of the same grid, and those of other forms: without a class token, of another number of axes."""
    table = np.ones(shape, np.float32)
    assert vit.resize_table(table, 4) is table


@pytest.mark.usefixtures("pynative")
def test_attention_equals_its_formula():
    cell = numpy_layers.draw_parameters(vit.Attention(8, 2))
    x = np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)
    query, key, value = numpy_layers.dense(x, cell.qkv).reshape(2, 5, 3, 2, 4).transpose(2, 0, 3, 1, 4)
    scores = np.exp(query @ key.transpose(0, 1, 3, 2) / 2)
    attended = (scores / scores.sum(-1, keepdims=True) @ value).transpose(0, 2, 1, 3).reshape(2, 5, 8)
    expected = numpy_layers.dense(attended, cell.proj)
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def net(undrawn):
    """Return a network of one block with weights as if trained, for tables of 6 · 6 patches."""
    net = create_model("vit_small_dinov2", 5, grid=6, **SMALL).set_train(False)
    for parameter in net.get_parameters():
        parameter.set_data(Tensor(parity_inputs.draw_weight(torch_name(parameter.name), parameter.shape)))
    return net


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (3, 6), (8, 4)])
def test_positions_of_every_size_come_from_one_table(net, rows, columns):
    table = net.backbone.pos_embed.asnumpy()[0, 1:].reshape(6, 6, -1)
    matrices = vit.resize_matrix(6, rows), vit.resize_matrix(6, columns)
    expected = np.einsum("yY,xX,YXc->yxc", *matrices, table).reshape(1, rows * columns, -1)
    np.testing.assert_allclose(net.backbone.positions(rows, columns).asnumpy(), expected, atol=1e-5)
    assert net(Tensor(parity_inputs.draw_images(2, (14 * rows, 14 * columns)))).shape == (2, 5)


@pytest.mark.usefixtures("pynative")
def test_weights_of_another_grid_are_resized_when_they_are_loaded(net):
    """Beside a classifier of other classes, as a file of timm's at another input size."""
    state = {torch_name(p.name).replace(".scale", ".gamma"): p.asnumpy() for p in net.get_parameters()}
    state |= {"fc.weight": np.zeros((7, 64)), "mask_token": np.zeros((1, 64))}
    other = create_model("vit_small_dinov2", 5, grid=4, **SMALL)
    match = load_torch_weights(other, state, with_classifier=False)
    assert match.resized == [("pos_embed", (1, 17, 64), (1, 37, 64))]
    assert match.resizing() == ["pos_embed: 37 positions resized to 17; model.grid=6 keeps the file's"]
    np.testing.assert_array_equal(other.backbone.pos_embed.asnumpy(), vit.resize_table(state["pos_embed"], 4))
    assert match.unexpected == ["mask_token"]
    assert match_torch_weights(net, state, with_classifier=False).resized == []


@pytest.mark.usefixtures("undrawn")
def test_a_table_of_another_form_is_refused():
    """DINOv2 with registers has no position of the class token."""
    net = create_model("vit_small_dinov2", 5, grid=4, **SMALL)
    state = {torch_name(p.name): p.asnumpy() for p in net.get_parameters()}
    problem = match_torch_weights(net, state | {"pos_embed": np.zeros((1, 16, 64))}).problem()
    assert problem == "pos_embed is 1×16×64 in the file and 1×17×64 in the network"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("name", "accepted", "refused", "message"),
    [
        ("vit_small", (48, 32), (48, 40), "least 32 pixels, multiples of 16\nuse size=[48,48]"),
        ("vit_small_dinov2", (42, 56), (32, 14), "least 28 pixels, multiples of 14\nuse size=[42,28]"),
    ],
)
def test_sides_are_multiples_of_the_patch(name, accepted, refused, message):
    net = create_model(name, 5, **SMALL)
    net.check_input(accepted)
    with pytest.raises(ValueError, match="needs sides of at") as error:
        net.check_input(refused)
    assert str(error.value).endswith(message)
