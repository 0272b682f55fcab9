"""Whether a disk is slow, told from its slow appends: one alone may be a busy machine's, which holds a process up now and then."""

from __future__ import annotations


class Slowness:
    """A disk is slow where an append was and the one before it as well.

    What memory holds dies with the process, so a moment without a processor must not lead there. That holds up every thread that
    is in an append; on a slow disk the row goes on with one that began after the first of them was over.
    """

    def __init__(self) -> None:
        self._size, self._ended = -1, 0.0  # the file's after the last slow append, and when the first of its row ended

    def shows(self, began: float, ended: float, written: int, size: int) -> bool:
        """Of a slow append between these times (seconds of any steady clock), which left a file of ``size``: is it the disk?"""
        in_a_row = self._size == size - written
        self._size = size
        if not in_a_row:
            self._ended = ended
            return False
        return began >= self._ended
