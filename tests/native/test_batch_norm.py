"""Batch norms by the native library, forward and backward, against float64."""

import numpy as np
import pytest

from tests.native import onednn as dnn
from tests.native.batch_norms import (
    GLOBAL,
    RELU,
    USE_SCALE,
    USE_SHIFT,
    BatchNorm,
    check,
    draw_batch_norm,
    expected,
    forward_of,
    run_both,
    run_forward,
)

pytestmark = pytest.mark.slow


def test_random_batch_norms(onednn):
    random = np.random.default_rng(0)
    for _ in range(100):
        check(onednn, draw_batch_norm(random), random)


@pytest.mark.soak
def test_large_random_batch_norms(onednn):
    random = np.random.default_rng(1)
    for _ in range(100):
        check(onednn, draw_batch_norm(random, 120), random)


# Strips of 512 floats: several maps in one, the last strip shorter; one map exactly, a float too long, in two strips.
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 7), (15, 17), (16, 32), (19, 27), (1, 511), (32, 33)])
@pytest.mark.parametrize("most", [1, 3, 600])
def test_strips(onednn, most, size):
    channels = min(most, 2000 // (size[0] * size[1]) + 3)
    check(onednn, BatchNorm((8, channels, *size)), np.random.default_rng(0))


@pytest.mark.parametrize("shape", [(2, 16, 112, 112), (256, 64, 4, 4)])
def test_layers_of_networks(onednn, shape):
    check(onednn, BatchNorm(shape), np.random.default_rng(0))


def test_channels_without_variance(onednn):
    """They become their shift; the source's gradient is nothing but the rounding of terms that cancel."""
    case = BatchNorm((1, 5, 1, 1))
    arrays = case.draw(np.random.default_rng(0))
    result = run_both(onednn, case, arrays)
    np.testing.assert_array_equal(result[dnn.TARGET].ravel(), arrays[dnn.SHIFT])
    np.testing.assert_array_equal(result[dnn.MEAN], arrays[dnn.MEAN])
    np.testing.assert_array_equal(result[dnn.VARIANCE], 0)
    np.testing.assert_array_equal(result[dnn.SCALE_GRADIENT], 0)
    np.testing.assert_array_equal(result[dnn.SHIFT_GRADIENT], arrays[dnn.TARGET_GRADIENT].ravel())
    terms = np.abs(arrays[dnn.TARGET_GRADIENT].ravel() * arrays[dnn.SCALE]) / np.sqrt(1e-5)
    assert (np.abs(result[dnn.SOURCE_GRADIENT].ravel()) <= 1e-6 * terms).all()


@pytest.mark.parametrize("level", [0, 100])
def test_means_far_from_zero(onednn, level):
    check(onednn, BatchNorm((8, 32, 14, 14), level=level), np.random.default_rng(0))


@pytest.mark.parametrize("flags", [GLOBAL, GLOBAL | USE_SCALE | USE_SHIFT])
def test_inference(onednn, flags):
    case = BatchNorm((4, 24, 9, 9), flags)
    arrays = case.draw(np.random.default_rng(0))
    with forward_of(onednn, case, dnn.INFERENCE) as forward:
        result = run_forward(forward, case, arrays)[dnn.TARGET]
    assert dnn.worst_error(result, expected(case, arrays)[dnn.TARGET]) <= 1e-5


def test_nan_stays_in_its_channel(onednn):
    case = BatchNorm((4, 24, 9, 9))
    arrays = case.draw(np.random.default_rng(0))
    clean = run_both(onednn, case, arrays)
    arrays[dnn.SOURCE][1, 5, 3, 3] = np.nan
    arrays[dnn.MEAN][5] = arrays[dnn.VARIANCE][5] = np.nan  # as forward would give them
    for key, result in run_both(onednn, case, arrays).items():
        axis = 1 if result.ndim == 4 else 0
        assert np.isnan(result.take(5, axis)).all() == (key != dnn.SHIFT_GRADIENT)
        assert np.delete(result, 5, axis).tobytes() == np.delete(clean[key], 5, axis).tobytes()


@pytest.mark.parametrize("case", [BatchNorm((4, 16, 9, 9), USE_SCALE | USE_SHIFT | RELU), BatchNorm((4, 16, 9, 9), 0)])
def test_other_batch_norms_are_left_to_onednn(onednn, case):
    """Fused with ReLU, or inference with the batch's own statistics, which oneDNN does not store."""
    arrays = case.draw(np.random.default_rng(0))
    propagation = dnn.TRAINING if case.flags & RELU else dnn.INFERENCE
    with (
        forward_of(onednn, case, propagation) as forward,
        pytest.raises(dnn.Refused, match="dnnl_primitive_execute: status 2"),
    ):
        run_forward(forward, case, arrays)
