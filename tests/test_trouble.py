"""What is wrong with an outbox is said once a cause, and that it is over once."""

from __future__ import annotations

import logging

import pytest

from adtarget_proxy.outbox.trouble import Trouble

MET, OVER = "met", "over"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([(0, MET, "journal", "full")], ["journal full"]),
        ([(0, MET, "journal", "full"), (1, MET, "store", "full"), (90, MET, "store", "full")], ["journal full"]),
        ([(0, MET, "store", "locked"), (1, MET, "store", "full")], ["store locked", "store full"]),
        (
            [(0, MET, "journal", "full"), (1, MET, "store", "full"), (2, OVER, "journal", 3), (3, OVER, "store", 0)],
            ["journal full", "the outbox is well again; 3 events were given up"],
        ),
        (
            [(0, MET, "store", "full"), (1, OVER, "store", 0), (2, MET, "store", "full"), (3, OVER, "store", 0)],
            ["store full", "the outbox is well again; 0 events were given up"],
        ),
        (
            [(0, MET, "store", "full"), (1, OVER, "store", 0), (61, MET, "store", "full")],
            ["store full", "the outbox is well again; 0 events were given up", "store full"],
        ),
        ([(0, OVER, "store", 0)], []),
    ],
    ids=[
        "one",
        "the same, later, from elsewhere",
        "another cause",
        "over for all",
        "it flaps",
        "it comes back",
        "nothing",
    ],
)
def test_a_cause_is_said_once_and_its_end_once(
    caplog: pytest.LogCaptureFixture, steps: list[tuple[float, str, str, str | int]], said: list[str]
) -> None:
    clock = [0.0]
    trouble = Trouble(lambda: clock[0])
    for clock[0], what, who, detail in steps:
        if what == MET:
            trouble.met(who, str(detail), f"{who} {detail}")
        else:
            trouble.over(who, lost=int(detail))
    assert caplog.messages == said


def test_a_log_that_fails_is_no_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("the log's disk is full")

    monkeypatch.setattr(logging.Logger, "_log", broken)
    trouble = Trouble()
    trouble.met("journal", "full", "full")
    trouble.over("journal")
