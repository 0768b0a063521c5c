"""A head whose classes are split over ranks equals one process with all of them: real process groups, every case of `ranks.py`."""

import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from lossmith.fused import LinearLogits

WORLD = 3
LIMIT = 900
"""Seconds: messages between ranks time out after 60; this is for what else may hang."""


@pytest.mark.subprocess
@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch without gloo")
def test_ranks_are_one_process(tmp_path):
    """One test for them all, so that the processes are started once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])  # the children import these modules by name
        from tests.fused.ranks import work

        context = torch.multiprocessing.spawn(work, (str(tmp_path), WORLD), nprocs=WORLD, join=False)
        end = time.monotonic() + LIMIT
        while not context.join(timeout=1):
            if time.monotonic() > end:
                for process in context.processes:
                    process.kill()
                pytest.fail(f"the ranks were not done after {LIMIT} seconds")
    failed = {f"rank {rank}: {name}": trace for rank in range(WORLD) for name, trace in torch.load(tmp_path / f"{rank}.pt").items()}
    assert not failed, "\n\n".join(f"{name}\n{trace}" for name, trace in failed.items())


def test_one_process_says_what_a_group_needs():
    with pytest.raises(ValueError, match=r"group needs torch\.distributed\.init_process_group; leave it out in one process"):
        LinearLogits(torch.zeros(2, 3), torch.zeros(4, 3), group=object())
