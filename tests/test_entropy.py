"""Ids come from the system's randomness: none twice, not in another thread, not in a forked child."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from adtarget_proxy.entropy import Entropy


@pytest.mark.parametrize("size", [1, 8, 16, 17, 64])
def test_as_many_bytes_as_asked_for(size: int) -> None:
    assert len(Entropy()(size)) == size


def test_nothing_is_handed_out_twice_to_whatever_thread() -> None:
    entropy = Entropy()
    with ThreadPoolExecutor(8) as pool:
        found = [id_ for ids in pool.map(lambda _: [entropy(16) for _ in range(500)], range(16)) for id_ in ids]
    assert len(set(found)) == len(found) == 8000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_draws_other_bytes_than_its_parent() -> None:
    entropy = Entropy()
    entropy(16)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"".join(entropy(16) for _ in range(100)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 1600)
    os.close(reading)
    os.close(writing)
    mine = {entropy(16) for _ in range(100)}
    assert len(theirs) == 1600
    assert mine.isdisjoint(theirs[at : at + 16] for at in range(0, 1600, 16))
