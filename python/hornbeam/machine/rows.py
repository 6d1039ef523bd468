"""Row counts that share a measurement: exact up to 16, where one row more may be a step of the staircase;
above, neighbours within a third or a half of each other."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["LAST_ROWS", "bucket_of"]

#: The last row count of each bucket; one more holds all that are greater. 64 and 95 are the last before the
#: limits that hold where nothing was measured.
LAST_ROWS = (*range(1, 17), 24, 32, 48, 64, 95, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)


def bucket_of(rows: int) -> int:
    """The number of the bucket that a row count, at least 1, falls into."""
    return bisect_left(LAST_ROWS, rows)
