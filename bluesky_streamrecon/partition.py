"""Which detector rows each rank reconstructs. Arithmetic on (rows, ranks), no MPI.

Slices are independent, so rows are dealt in contiguous blocks. Kernels take 16 slices at a time, and what is left over
8 or 4 at a time at a higher price, so blocks are such that few ranks have something left over. With more ranks than
rows, or on request, a group of ranks shares one block and splits the window's projections between its members.
"""

from __future__ import annotations

from dataclasses import dataclass

from bluesky_streamrecon.errors import ConfigError

__all__ = ["RowBlock", "choose_preview_rows", "partition_rows"]

PORTIONS = (4, 8, 16)
"""Slices that kernels take at a time."""


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Detector rows ``[first, stop)`` of one rank, and its place in the group that shares them.

    Parameters
    ----------
    first, stop : int
        Half-open range of detector rows.
    group : int
        Number of the block, 0-based from the top of the detector.
    member, members : int
        This rank is number `member` (0-based) of the `members` ranks that share the block.
    """

    first: int
    stop: int
    group: int
    member: int
    members: int

    @property
    def rows(self) -> int:
        """Number of detector rows in the block."""
        return self.stop - self.first

    def with_halo(self, halo: int, detector_rows: int) -> tuple[int, int]:
        """Return the detector rows ``[first, stop)`` of the block and at most `halo` more on each side.

        Examples
        --------
        >>> [block.with_halo(3, 32) for block in partition_rows(32, 2)]
        [(0, 19), (13, 32)]
        """
        return max(self.first - halo, 0), min(self.stop + halo, detector_rows)


def partition_rows(rows: int, ranks: int, *, share: int = 1) -> tuple[RowBlock, ...]:
    """Deal detector rows to ranks.

    Parameters
    ----------
    rows : int
        Detector rows, at least 1.
    ranks : int
        Number of ranks, at least 1.
    share : int, optional
        Ranks that share one block, at least 1. More than asked share where there are more ranks than rows.

    Returns
    -------
    tuple of RowBlock
        One per rank, in rank order. Blocks are contiguous and cover every row once per group. With fewer than 16
        rows for each group they differ by at most one row; with more, by at most 16: all have the same multiple of
        16, and what remains is dealt in portions of 4, 8 or 16 rows, the smallest that suffice. Groups differ by at
        most one member.

    Raises
    ------
    ConfigError
        If a number is not positive, or `share` is larger than `ranks`.

    Examples
    --------
    >>> [(b.first, b.stop) for b in partition_rows(5, 2)]
    [(0, 3), (3, 5)]
    >>> [b.rows for b in partition_rows(100, 2)], [b.rows for b in partition_rows(2160, 16)][-3:]
    ([52, 48], [136, 128, 128])
    >>> [(b.first, b.stop, b.member, b.members) for b in partition_rows(1, 3)]
    [(0, 1, 0, 3), (0, 1, 1, 3), (0, 1, 2, 3)]
    """
    for name, value in (("rows", rows), ("ranks", ranks), ("share", share)):
        if value < 1:
            raise ConfigError(f"partition: got {name}={value}, expected at least 1")
    if share > ranks:
        raise ConfigError(f"partition: got share={share} with {ranks} ranks, expected share <= ranks")
    groups = min(rows, ranks // share)
    edges = _row_edges(rows, groups)
    first_rank = _even_edges(ranks, groups)
    return tuple(
        RowBlock(edges[g], edges[g + 1], g, rank - first_rank[g], first_rank[g + 1] - first_rank[g])
        for g in range(groups)
        for rank in range(first_rank[g], first_rank[g + 1])
    )


def _row_edges(rows: int, groups: int) -> list[int]:
    """Split `rows` into blocks that kernels can work on without much waste; give their edges."""
    each = rows // groups // PORTIONS[-1] * PORTIONS[-1]
    if not each:
        return _even_edges(rows, groups)
    rest = rows - each * groups
    portion = next(portion for portion in PORTIONS if portion * groups >= rest)
    return [group * each + min(group * portion, rest) for group in range(groups + 1)]


def _even_edges(total: int, parts: int) -> list[int]:
    """Split `total` into `parts` runs, the longer ones first; give their edges."""
    size, longer = divmod(total, parts)
    return [i * size + min(i, longer) for i in range(parts + 1)]


def choose_preview_rows(rows: int) -> tuple[int, ...]:
    """Choose up to three detector rows to be shown, evenly spread, away from the edges.

    Examples
    --------
    >>> choose_preview_rows(16), choose_preview_rows(1)
    ((4, 8, 12), (0,))
    """
    return tuple(sorted({min(rows - 1, round(rows * part)) for part in (0.25, 0.5, 0.75)}))
