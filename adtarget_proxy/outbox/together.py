"""Small writes of several threads in one transaction: what they cost is mostly the commit, and a burst of answers shares it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from sqlite3 import Connection
from typing import Any, TypeVar, cast

from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox.database import Database

T = TypeVar("T")


class Together:
    """While one thread's transaction is under way, others line up; whoever comes next writes for all of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._line: deque[_Task] = deque()
        self._turn = threading.Lock()

    def write(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, once it is committed. Raises OutboxError, or what ``work`` raises; then it changed nothing."""
        task = _Task(work)
        self._line.append(task)
        with self._turn:
            if not task.is_done:
                self._write([self._line.popleft() for _ in range(len(self._line))])
        if task.error is not None:
            raise task.error
        return cast("T", task.value)

    def _write(self, tasks: list[_Task]) -> None:
        try:
            with self._database.writing() as db:
                values = [task.work(db) for task in tasks]
        except BaseException as error:
            if len(tasks) > 1 and not isinstance(error, OutboxError):  # a fault of one of them is its own
                for task in tasks:
                    self._write([task])
                return
            for task in tasks:
                task.error, task.is_done = error, True
        else:
            for task, value in zip(tasks, values, strict=True):
                task.value, task.is_done = value, True


class _Task:
    """A piece of work, and what came of it."""

    __slots__ = ("error", "is_done", "value", "work")

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.value: Any = None
        self.error: BaseException | None = None
        self.is_done = False
