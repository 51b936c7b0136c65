"""The workers' part without other processes; with them: tests/task/test_parallel.py."""

from types import SimpleNamespace

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.core.errors import Interrupted, TrainingDiverged
from rp2k_lab.device.workers import ALONE, Workers, join_workers
from rp2k_lab.train import callbacks


class Meeting(Workers):
    """Worker `rank` of as many as have something to say: their values at each gathering, its own included."""

    def __init__(self, *said, rank=0):
        super().__init__(rank, len(said[0]))
        object.__setattr__(self, "said", iter(said))

    def gather(self, values):
        everyone = np.asarray(next(self.said), np.float32)
        np.testing.assert_array_equal(everyone[self.rank], np.asarray(values, np.float32))
        return everyone


def test_a_process_on_its_own_is_the_first_of_one():
    assert join_workers(SimpleNamespace(parallel="none")) is ALONE
    assert ALONE.is_rank_zero
    np.testing.assert_array_equal(ALONE.gather(np.array([1, 2])), np.float32([[1, 2]]))
    assert ALONE.shard([5, 3, 4]) == [5, 3, 4]
    labels = np.arange(6, dtype=np.int32).reshape(3, 2)
    joined = ALONE.gather_shards(labels, 3)
    np.testing.assert_array_equal(joined, labels)
    assert joined.dtype == np.int32


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("rows", [1, 4, 5, 6])
def test_shares_are_equally_long_and_together_every_row_in_order(rows, count):
    table = list(range(100, 100 + rows))
    shares = [Workers(rank, count).shard(table) for rank in range(count)]
    assert len({len(share) for share in shares}) == 1
    found = np.array(shares)[..., None]
    for rank in range(count):
        joined = Meeting(found, rank=rank).gather_shards(found[rank], rows)
        assert joined[:, 0].tolist() == table


@pytest.mark.parametrize("signums", [(None, 15), (15, None), (2, 15)])
def test_a_signal_to_one_worker_stops_all(signums):
    said = [[signum or 0] for signum in signums]
    for rank, signum in enumerate(signums):
        with pytest.raises(Interrupted) as error:
            Meeting(said, rank=rank).check(SimpleNamespace(signum=signum))
        assert error.value.exit_code == 75


def test_no_signal_stops_none():
    Meeting([[0], [0]]).check(SimpleNamespace(signum=None))
    ALONE.check(SimpleNamespace(signum=None))


@pytest.mark.parametrize("rank", [0, 1])
def test_workers_agree_on_loss_and_stop(rank):
    steps = ([[1, 0], [2, 0]], [[np.nan, 0], [2, 0]], [[1, 0], [3, 15]])
    watch = SimpleNamespace(signum=None)
    state = callbacks.TrainingState(1, 3, 4, np.ones(3, np.float32))
    agree = callbacks.SyncWorkers(Meeting(*steps, rank=rank), watch)
    seen = []
    for said in steps:
        state.loss, signum = said[rank]
        watch.signum = signum or None
        agree.step_end(state)
        seen.append((state.loss, state.stop))
    assert seen[0] == (1.5, False)
    assert np.isnan(seen[1][0])
    assert seen[2] == (2, True)


def test_batch_statistics_become_the_mean_and_nothing_else_changes():
    net = nn.SequentialCell(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    before = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    names = [name for name in before if name.endswith(("moving_mean", "moving_variance"))]
    assert len(names) == 2
    own = np.concatenate([before[name] for name in names])
    Meeting([own, own + np.array([2, 4, 6, 8])]).average_batch_statistics(net)
    added = iter(([1, 2], [3, 4]))
    for parameter in net.get_parameters():
        expected = before[parameter.name] + (next(added) if parameter.name in names else 0)
        np.testing.assert_array_equal(parameter.asnumpy(), expected, err_msg=parameter.name)


def test_parameters_are_filled_in_their_own_shapes_and_types():
    net = nn.Dense(3, 2)
    counter = mindspore.Parameter(Tensor(np.zeros(1, np.int32)), name="step")
    parameters = [net.weight, counter, net.bias]
    Workers._fill(parameters, np.arange(9, dtype=np.float32))
    np.testing.assert_array_equal(net.weight.asnumpy(), np.arange(6).reshape(2, 3))
    assert (counter.asnumpy().tolist(), counter.dtype) == ([6], mindspore.int32)
    np.testing.assert_array_equal(net.bias.asnumpy(), [7, 8])


@pytest.mark.parametrize("error", [Interrupted(15), TrainingDiverged("loss=nan")])
def test_what_ends_all_workers_is_said_by_the_first_once_it_is_there(error):
    first, second = Meeting([[0], [0]]), Meeting([[0], [0]], rank=1)
    with pytest.raises(type(error)), first.ending_together():
        raise error
    with pytest.raises(SystemExit) as end, second.ending_together():
        raise error
    assert end.value.code == error.exit_code
    for workers in (first, second):
        assert next(workers.said, None) is None  # each has waited


def test_what_ends_one_worker_alone_waits_for_none():
    with pytest.raises(OSError, match="disk"), Meeting([[0], [0]], rank=1).ending_together():
        raise OSError("disk")


def test_all_hear_what_the_first_says():
    text = "/data/跑/out"
    assert ALONE.broadcast_text(text) == text
    said = [np.frombuffer(t.encode().ljust(4096, b"\0"), np.uint8) for t in (text, "/elsewhere")]
    assert Meeting(said, rank=0).broadcast_text(text) == text
    assert Meeting(said, rank=1).broadcast_text("/elsewhere") == text
