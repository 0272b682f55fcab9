"""How a fault of our own is told: by its kind and place, never by its message, which may hold what a visitor sent."""

from __future__ import annotations


def told(error: BaseException) -> str:
    """``TypeError in ladder.py:120``."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    file = trace.tb_frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{type(error).__name__} in {file}:{trace.tb_lineno}"
