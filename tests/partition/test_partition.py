"""Partition: every row reconstructed, in rank order, and the work evenly dealt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.partition import choose_preview_rows, partition_rows


@given(st.integers(1, 3000), st.integers(1, 300), st.data())
def test_every_row_belongs_to_exactly_one_group_and_every_rank_has_one(rows, ranks, data):
    share = data.draw(st.integers(1, ranks))
    blocks = partition_rows(rows, ranks, share=share)
    assert len(blocks) == ranks
    firsts = [b for b in blocks if b.member == 0]
    assert [r for b in firsts for r in range(b.first, b.stop)] == list(range(rows))
    assert max(b.rows for b in blocks) - min(b.rows for b in blocks) <= (1 if rows < 16 * len(firsts) else 16)
    for group in {b.group for b in blocks}:
        members = [b for b in blocks if b.group == group]
        assert [b.member for b in members] == list(range(len(members)))
        assert {(b.first, b.stop, b.members) for b in members} == {(members[0].first, members[0].stop, len(members))}
        assert len(members) >= share


@given(st.integers(16, 3000), st.integers(1, 40))
def test_no_rank_has_more_than_an_even_split_would_give_it_and_few_have_a_rest(rows, ranks):
    def slabs(count: int) -> float:
        rest = count % 16
        return count // 16 + (0 if not rest else 0.6 if rest <= 4 else 0.75 if rest <= 8 else 1)

    blocks = [b.rows for b in partition_rows(rows, ranks) if b.member == 0]
    even = [len(part) for part in np.array_split(np.arange(rows), len(blocks))]
    assert max(map(slabs, blocks)) <= max(map(slabs, even))
    assert sum(map(slabs, blocks)) <= sum(map(slabs, even))


@given(st.integers(1, 100), st.integers(1, 100))
def test_groups_of_ranks_form_only_where_ranks_exceed_rows(rows, ranks):
    sharing = any(b.members > 1 for b in partition_rows(rows, ranks))
    assert sharing == (ranks > rows)


@pytest.mark.parametrize("bad", [{"rows": 0}, {"ranks": 0}, {"share": 0}, {"share": 9}])
def test_impossible_partitions_are_refused(bad):
    with pytest.raises(ConfigError, match="partition"):
        partition_rows(**{"rows": 4, "ranks": 2} | bad)


def test_preview_rows_are_spread_and_inside():
    assert choose_preview_rows(1) == (0,)
    assert choose_preview_rows(2) == (0, 1)
    assert choose_preview_rows(2160) == (540, 1080, 1620)
