"""Workers in one process; tests/task/test_parallel.py runs several."""

from types import SimpleNamespace

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.core.errors import Interrupted, TrainingDiverged
from rp2k_lab.device.workers import ALONE, Workers, join_workers
from rp2k_lab.train import callbacks


class ScriptedWorkers(Workers):
    """Worker `rank` whose calls of `gather` return scripted values of all workers; checks its own."""

    def __init__(self, *script, rank=0):
        super().__init__(rank, len(script[0]))
        object.__setattr__(self, "script", iter(script))

    def gather(self, values):
        gathered = np.asarray(next(self.script), np.float32)
        np.testing.assert_array_equal(gathered[self.rank], np.asarray(values, np.float32))
        return gathered


def test_single_process_is_rank_zero_of_one():
    assert join_workers(SimpleNamespace(parallel="none")) is ALONE
    assert ALONE.is_rank_zero
    np.testing.assert_array_equal(ALONE.gather(np.array([1, 2])), np.float32([[1, 2]]))
    assert ALONE.shard([5, 3, 4]) == [5, 3, 4]
    labels = np.arange(6, dtype=np.int32).reshape(3, 2)
    joined = ALONE.gather_shards(labels, 3)
    np.testing.assert_array_equal(joined, labels)
    assert joined.dtype == np.int32


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_rows", [1, 4, 5, 6])
def test_shards_have_equal_length_and_cover_all_rows_in_order(num_rows, world_size):
    rows = list(range(100, 100 + num_rows))
    shards = [Workers(rank, world_size).shard(rows) for rank in range(world_size)]
    assert len({len(shard) for shard in shards}) == 1
    results = np.array(shards)[..., None]
    for rank in range(world_size):
        joined = ScriptedWorkers(results, rank=rank).gather_shards(results[rank], num_rows)
        assert joined[:, 0].tolist() == rows


@pytest.mark.parametrize("signums", [(None, 15), (15, None), (2, 15)])
def test_signal_to_one_worker_stops_all(signums):
    gathered = [[signum or 0] for signum in signums]
    for rank, signum in enumerate(signums):
        with pytest.raises(Interrupted) as error:
            ScriptedWorkers(gathered, rank=rank).check(SimpleNamespace(signum=signum))
        assert error.value.exit_code == 75


def test_without_signal_no_worker_stops():
    ScriptedWorkers([[0], [0]]).check(SimpleNamespace(signum=None))
    ALONE.check(SimpleNamespace(signum=None))


@pytest.mark.parametrize("rank", [0, 1])
def test_workers_agree_on_loss_and_stop(rank):
    steps = ([[1, 0], [2, 0]], [[np.nan, 0], [2, 0]], [[1, 0], [3, 15]])
    watch = SimpleNamespace(signum=None)
    state = callbacks.TrainingState(1, 3, 4, np.ones(3, np.float32))
    sync = callbacks.SyncWorkers(ScriptedWorkers(*steps, rank=rank), watch)
    results = []
    for step in steps:
        state.loss, signum = step[rank]
        watch.signum = signum or None
        sync.step_end(state)
        results.append((state.loss, state.stop))
    assert results[0] == (1.5, False)
    assert np.isnan(results[1][0])
    assert results[2] == (2, True)


def test_only_batch_statistics_are_averaged():
    net = nn.SequentialCell(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    before = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    names = [name for name in before if name.endswith(("moving_mean", "moving_variance"))]
    assert len(names) == 2
    values = np.concatenate([before[name] for name in names])
    ScriptedWorkers([values, values + np.array([2, 4, 6, 8])]).average_batch_statistics(net)
    added = iter(([1, 2], [3, 4]))
    for parameter in net.get_parameters():
        expected = before[parameter.name] + (next(added) if parameter.name in names else 0)
        np.testing.assert_array_equal(parameter.asnumpy(), expected, err_msg=parameter.name)


def test_filled_parameters_keep_shape_and_dtype():
    net = nn.Dense(3, 2)
    counter = mindspore.Parameter(Tensor(np.zeros(1, np.int32)), name="step")
    parameters = [net.weight, counter, net.bias]
    Workers._fill(parameters, np.arange(9, dtype=np.float32))
    np.testing.assert_array_equal(net.weight.asnumpy(), np.arange(6).reshape(2, 3))
    assert (counter.asnumpy().tolist(), counter.dtype) == ([6], mindspore.int32)
    np.testing.assert_array_equal(net.bias.asnumpy(), [7, 8])


@pytest.mark.parametrize("error", [Interrupted(15), TrainingDiverged("loss=nan")])
def test_common_error_is_raised_by_rank_zero_after_all_have_waited(error):
    first, second = ScriptedWorkers([[0], [0]]), ScriptedWorkers([[0], [0]], rank=1)
    with pytest.raises(type(error)), first.exit_together():
        raise error
    with pytest.raises(SystemExit) as end, second.exit_together():
        raise error
    assert end.value.code == error.exit_code
    for workers in (first, second):
        assert next(workers.script, None) is None  # it has waited


def test_error_of_one_worker_does_not_wait():
    with pytest.raises(OSError, match="disk"), ScriptedWorkers([[0], [0]], rank=1).exit_together():
        raise OSError("disk")


def test_text_of_rank_zero_is_broadcast():
    text = "/data/跑/out"
    assert ALONE.broadcast_text(text) == text
    gathered = [np.frombuffer(t.encode().ljust(4096, b"\0"), np.uint8) for t in (text, "/elsewhere")]
    assert ScriptedWorkers(gathered, rank=0).broadcast_text(text) == text
    assert ScriptedWorkers(gathered, rank=1).broadcast_text("/elsewhere") == text
