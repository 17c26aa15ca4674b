"""Work on one thread: the same bits on every machine of a kind, and no waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's CPU work on one thread, then as before.

    The number of threads decides the order of sums, so the last bits. And where other
    jobs share the cores, threads that wait for one another make small work slower: the
    eigenvalues of 2,048 features took 22 s with two threads, 3 s with one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def hold_numpy_to_one() -> None:
    """Give NumPy's products one thread, as torch has one, as long as the process runs.

    The threads of both would wait for one another, busily: a product of 4 ms took 30.
    """
    threadpool_limits(limits=1, user_api="blas")
