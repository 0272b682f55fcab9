"""How long things may take, in seconds: one value, so that a test can own the clock without touching the code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The defaults are those of the delivery plan."""

    tick: float = 0.05  # how often the clerk looks for new journal lines
    poll: float = 0.25  # how often it looks for what other processes put, or what has become due
    machine: float = 3.0  # how often it looks at the other journals of the machine
    expire: float = 5.0  # how often it lifts, expires and forgets
    call: float = 15.0  # one clock for a whole exchange with AdTarget
    promote: float = 0.6  # what a click spends at most on its visitor's waiting visit
    follow: float = 0.025  # how often a click looks for another process' answer
    token: float = 2.0  # how long a claimed event waits for the bucket before it is put back
    backoff_first: float = 1.0
    backoff_longest: float = 60.0
    probe_first: float = 1.0  # a breaker's first pause; it doubles with every probe that fails
    probe_longest: float = 30.0
    resume: float = 30.0  # a paused account (401, 402) is probed this often
    idle: float = 60.0  # a lane's extra thread ends after this long without work
