import numpy as np
import pytest
from mindspore import Tensor

from rp2k_lab.model.normalize import Normalize

pytestmark = pytest.mark.usefixtures("pynative")
MEAN, STD = (0.4716, 0.4250, 0.3540), (0.2178, 0.2079, 0.1935)


def test_equals_numpy():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    result = Normalize(MEAN, STD)(Tensor(images)).asnumpy()
    assert (result.shape, result.dtype) == ((2, 3, 5, 7), np.float32)
    expected = ((images / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_mean_becomes_zero_and_one_deviation_one():
    images = np.round(255 * np.array([[[MEAN]], [[np.add(MEAN, STD)]]])).astype(np.uint8)
    result = Normalize(MEAN, STD)(Tensor(images)).asnumpy()
    np.testing.assert_allclose(result[0], 0, atol=0.011)
    np.testing.assert_allclose(result[1], 1, atol=0.011)


def test_has_no_parameters():
    assert list(Normalize(MEAN, STD).get_parameters()) == []
