"""Batches are dealt out whole, each to one process."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from cyqd.training import ShardedBatchSampler
from cyqd.training.sharding import shares


def deal(size: int, batch_size: int, world: int, offset: int = 0) -> list[list[list[int]]]:
    """What each of ``world`` processes would evaluate."""
    dealt = []
    for rank in range(world):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dist, "is_initialized", lambda: True)
            patch.setattr(dist, "get_rank", lambda rank=rank: rank)
            patch.setattr(dist, "get_world_size", lambda: world)
            sampler = ShardedBatchSampler(size, batch_size=batch_size, offset=offset)
            dealt.append(list(sampler))
            assert len(sampler) == len(dealt[-1])
    return dealt


@given(size=st.integers(1, 60), batch_size=st.integers(1, 9), world=st.integers(1, 7), offset=st.integers(0, 9))
def test_every_batch_goes_to_one_process_unchanged(size: int, batch_size: int, world: int, offset: int) -> None:
    alone = list(ShardedBatchSampler(size, batch_size=batch_size))
    assert sorted(index for batch in alone for index in batch) == list(range(size))
    dealt = deal(size, batch_size, world, offset)
    assert sorted(batch for share in dealt for batch in share) == sorted(alone)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_tasks_of_few_batches_go_to_different_processes() -> None:
    dealt = [deal(size, 8, 6, offset=before) for size, before in ((20, 0), (5, 3), (16, 4))]  # 3, 1, 2 batches
    assert [sum(map(len, column)) for column in zip(*dealt, strict=True)] == [1] * 6


def test_the_order_is_kept() -> None:
    assert list(ShardedBatchSampler(5, batch_size=2, order=[4, 2, 0, 1, 3])) == [[4, 2], [0, 1], [3]]


@pytest.mark.parametrize(("size", "batch_size"), [(0, 4), (4, 0)])
def test_nothing_to_deal_is_an_error(size: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        ShardedBatchSampler(size, batch_size=batch_size)


@pytest.mark.parametrize("batches", [[7, 3, 1], [4, 4], [1, 1, 1]])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_are_what_the_sampler_deals(batches: list[int], world: int) -> None:
    tasks = [deal(number, 1, world, offset=sum(batches[:task])) for task, number in enumerate(batches)]
    assert shares(batches, world) == [[len(task[rank]) for task in tasks] for rank in range(world)]
