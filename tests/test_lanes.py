"""A lane's threads: how many there are, whose jobs they carry, and how they end."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from delivery_world import until

from adtarget_proxy.delivery.lanes import Lane


class Jobs:
    """Jobs that run until they are let go."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.go = threading.Event()
        self._lock = threading.Lock()

    def job(self, account: str = "a") -> None:
        with self._lock:
            self.running[account] += 1
        assert self.go.wait(20)
        with self._lock:
            self.running[account] -= 1
            self.done[account] += 1


def lane(**options: float | int) -> Lane:
    return Lane("test", **{"patience": 0.0, "idle": 60.0, **options})  # type: ignore[arg-type]


def test_a_job_runs_and_one_thread_carries_quick_jobs() -> None:
    it, done = lane(patience=30.0), []
    for number in range(100):
        it.submit("a", lambda number=number: done.append(number))  # type: ignore[misc]
    until(lambda: len(done) == 100)
    assert done == list(range(100))
    assert it.threads == 1


def test_it_grows_while_jobs_wait_for_threads_that_wait_for_answers_but_not_beyond_its_size() -> None:
    it, jobs = lane(size=16), Jobs()
    for _ in range(20):
        it.submit("a", jobs.job)
    until(lambda: jobs.running["a"] == 16)
    assert (it.threads, it.queued) == (16, 4)
    jobs.go.set()
    until(lambda: jobs.done["a"] == 20)


def test_it_grows_for_a_job_that_has_waited_even_if_nothing_new_comes() -> None:
    it, jobs = lane(patience=0.05), Jobs()
    it.submit("a", jobs.job)
    it.submit("a", jobs.job)

    def both_run() -> bool:
        it.grow()
        return jobs.running["a"] == 2

    until(both_run)
    jobs.go.set()


def test_threads_that_wait_for_the_bucket_are_no_reason_to_grow() -> None:
    it, resting, rested = lane(), threading.Event(), []

    def rest() -> None:
        resting.set()
        rested.append(it.rest_at_bucket("a", 20))

    it.submit("a", rest)
    assert resting.wait(5)
    until(lambda: it.submit("a", lambda: None) and it.threads == 1)
    it.stop()
    until(lambda: rested == [False])


def test_no_account_has_more_than_its_share_and_the_other_is_served() -> None:
    it, jobs = lane(size=16, share=8), Jobs()
    for _ in range(30):
        it.submit("hanging", lambda: jobs.job("hanging"))
    for _ in range(4):
        it.submit("alive", lambda: jobs.job("alive"))
    until(lambda: (jobs.running["hanging"], jobs.running["alive"]) == (8, 4))
    jobs.go.set()
    until(lambda: (jobs.done["hanging"], jobs.done["alive"]) == (30, 4))


def test_a_job_that_fails_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    it, done = lane(), threading.Event()
    it.submit("a", lambda: [][0])
    it.submit("a", done.set)
    assert done.wait(5)
    until(lambda: "a job of the test lane failed" in caplog.text)


def test_a_stopped_lane_gives_its_waiting_jobs_back_and_takes_no_more() -> None:
    it, jobs = lane(size=1), Jobs()
    it.submit("a", jobs.job)
    until(lambda: jobs.running["a"] == 1)
    waiting = jobs.job
    it.submit("a", waiting)
    assert it.stop() == [waiting]
    assert not it.submit("a", jobs.job)
    assert not it.rest(20)
    jobs.go.set()
    until(lambda: it.threads == 0)
    assert jobs.done["a"] == 1


def test_threads_without_work_end_but_for_one() -> None:
    it, jobs = lane(idle=0.02), Jobs()
    for _ in range(8):
        it.submit("a", jobs.job)
    until(lambda: jobs.running["a"] == 8)
    jobs.go.set()
    until(lambda: it.threads == 1)
    done = threading.Event()
    it.submit("a", done.set)
    assert done.wait(5)


def test_its_threads_are_daemons() -> None:
    it, seen = lane(), []
    it.submit("a", lambda: seen.append(threading.current_thread().daemon))
    until(lambda: seen == [True])


def test_where_no_thread_can_be_had_the_caller_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    it = lane()
    assert not it.submit("a", lambda: None)
    assert (it.threads, it.queued) == (0, 0)
