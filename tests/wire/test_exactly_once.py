"""Whatever the network does, each rank applies each item exactly once and in order."""

from __future__ import annotations

from hypothesis import event, given
from hypothesis import strategies as st
from protocol_in_memory import CREDIT, FAULTS, WINDOW, World, do

from bluesky_streamrecon.beamline.serving import RunFinished
from bluesky_streamrecon.wire.messages import Score

STEPS = st.lists(
    st.tuples(st.sampled_from(FAULTS.split()), st.integers(0, 7), st.integers(0, 2**16)), min_size=20, max_size=120
)


@given(steps=STEPS, ranks=st.integers(1, 2), early=st.booleans())
def test_each_rank_applies_each_item_exactly_once_in_order(
    steps: list[tuple[str, int, int]], ranks: int, early: bool
) -> None:
    world = World(ranks)
    if early:
        world.open()
    for step in steps:
        do(world, *step)
        for ledger in world.hub.ledger().values():
            assert ledger.applied <= ledger.acknowledged <= ledger.sent <= ledger.items
    world.heal()
    items = len(world.items)
    ledgers = world.hub.ledger().values()
    for what in ("resent", "duplicate", "restarts", "reconnects"):
        event(f"{what}: {'some' if any(getattr(ledger, what) for ledger in ledgers) else 'none'}")
    event(f"items: {min(items, 10) // 5 * 5} or more")
    assert world.hub.garbage.count == 0
    for party in world.ranks:
        assert party.applied == world.items
        assert party.corrected == world.corrections
        assert party.connector.garbage.count == 0, "nobody accuses the other side of breaking the protocol"
    assert len([e for e in world.events if isinstance(e, RunFinished)]) == 1
    for ledger in world.hub.ledger().values():
        assert ledger.balanced, ledger.explain()
        assert ledger.items == items
        assert ledger.done


@given(steps=STEPS)
def test_controller_learns_the_end_and_each_score_arrives_once(steps: list[tuple[str, int, int]]) -> None:
    world = World(1, controller=True)
    world.open()
    for step in steps:
        do(world, *step)
    world.heal()
    controller = world.parties[1]
    assert controller.closed
    scores = [e.image_number for e in world.events if isinstance(e, Score)]
    assert scores == sorted(set(scores))
    first = 1000 * controller.life + 1
    assert [n for n in scores if n >= first] == list(range(first, first + controller.scores))
    assert world.ranks[0].applied == world.items


@given(appends=st.integers(0, 30), ranks=st.integers(1, 3))
def test_quiet_network_resends_nothing(appends: int, ranks: int) -> None:
    world = World(ranks)
    world.open()
    for _ in range(appends):
        world.append()
    world.heal()
    for ledger in world.hub.ledger().values():
        assert (ledger.resent, ledger.duplicate, ledger.restarts, ledger.reconnects) == (0, 0, 0, 0)
        assert ledger.balanced


def test_job_that_starts_after_the_scan_gets_everything() -> None:
    world = World(2)
    world.open()
    for _ in range(10):
        world.append()
    world.close()
    world.heal()
    assert [party.applied for party in world.ranks] == [list(range(1, 11))] * 2


def test_rank_that_restarts_in_the_middle_begins_with_the_first_item() -> None:
    world = World(1)
    world.open()
    for _ in range(6):
        world.append()
    party = world.ranks[0]
    while len(party.applied) < 4:
        world.turn()
        for up in (True, False):
            world.deliver(party, up=up)
        party.turn()
        party.work(1)
    party.cut()
    party.start()
    world.heal()
    assert party.applied == [1, 2, 3, 4, 5, 6]
    ledger = world.hub.ledger()[0]
    assert (ledger.restarts, ledger.balanced) == (1, True)
    assert ledger.resent >= 4


def test_no_more_than_the_credit_is_sent_to_a_user_who_does_nothing() -> None:
    world = World(1)
    world.open()
    for _ in range(20):
        world.append()
    party = world.ranks[0]
    for _ in range(50):
        world.round()
        world.now += 0.1
    assert len(party.waiting) == CREDIT
    assert world.hub.ledger()[0].sent == CREDIT
    assert party.connector.garbage.count == 0
    party.work(2)
    world.round()
    world.round()
    assert world.hub.ledger()[0].sent == CREDIT + 2


def test_no_more_than_the_window_is_on_its_way() -> None:
    world = World(1)
    world.open()
    for _ in range(20):
        world.append()
    party = world.ranks[0]
    for _ in range(12):
        world.turn()
        for _ in range(len(party.up.flying)):
            world.deliver(party, up=True)
        while len(party.down.flying) and len(party.down.flying[0]) == 1:
            world.deliver(party, up=False)
        party.turn()
    pixels = [frames for frames in party.down.flying if len(frames) == 2]
    assert 1 <= len(pixels) <= WINDOW
