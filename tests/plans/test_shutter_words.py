"""Shutter and sample table are set to words that they take, which is known before anything moves."""

from __future__ import annotations

import asyncio

import pytest
from ophyd_async.core import AsyncStatus, StandardReadable, StrictEnum, soft_signal_rw
from ophyd_async.core import StandardReadableFormat as Format

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import stream_tomo_plan, take_references_plan
from bluesky_streamrecon.sim_devices import sim_beamline


class Demand(StrictEnum):
    RESET = "Reset"
    OPEN = "Open"
    CLOSE = "Close"


class Status(StrictEnum):
    OPEN = "OPEN"
    CLOSED = "CLOSED"


class Place(StrictEnum):
    IN = "In Beam"
    OUT = "Out of Beam"


class Gate(StrictEnum):
    UP = "up"
    DOWN = "down"


class Switch(StandardReadable):
    """Reads as one enum, is set to another, and moves the simulated device with it."""

    def __init__(self, name, kind, initial, follows=None, words=None):
        with self.add_children_as_readables(Format.HINTED_SIGNAL):
            self.state = soft_signal_rw(kind, initial)
        self.moves = []
        self._follows, self._words = follows, words or {}
        super().__init__(name=name)

    @AsyncStatus.wrap
    async def set(self, value):
        if str(getattr(value, "value", value)) == "stuck":
            raise RuntimeError(f"{self.name} is stuck")
        self.moves.append(value)
        if self._follows is not None:
            await self._follows.set(self._words[value])


class DemandSwitch(Switch):
    @AsyncStatus.wrap
    async def set(self, value: Demand):
        assert isinstance(value, Demand)
        self.moves.append(value)
        await self._follows.set(self._words[value])


class Classic:
    """As ophyd's signals describe an enum, and no loop is in them."""

    def __init__(self, name, words):
        self.name, self.parent, self.moves, self._words = name, None, [], words

    def describe(self):
        return {self.name: {"source": "PV:X", "dtype": "integer", "shape": [], "enum_strs": tuple(self._words)}}

    def set(self, value):
        from ophyd.status import Status as OphydStatus

        self.moves.append(value)
        status = OphydStatus()
        status.set_finished()
        return status


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)


@pytest.fixture
def tomo(beamline, pretend_job):
    def plan(**kwargs):
        given = {"num": 4, "window": 4, "flats": 1, "darks": 1, "shutter": beamline.shutter}
        given |= {"sample_table": beamline.table, "job": pretend_job}
        return stream_tomo_plan([beamline.detector], beamline.stage, **{**given, **kwargs})

    return plan


def test_words_are_those_that_the_device_is_set_to_not_those_it_reads_as(run_engine, documents, tomo, beamline, of):
    words = {Demand.OPEN: "open", Demand.CLOSE: "closed"}
    shutter = DemandSwitch("fast_shutter", Status, Status.OPEN, beamline.shutter, words)
    run_engine(tomo(shutter=shutter))
    assert shutter.moves == [Demand.CLOSE, Demand.OPEN, Demand.OPEN, Demand.CLOSE]
    assert of(documents, "stop")[0]["num_events"]["dark"] == 1


def test_words_of_a_device_that_says_only_what_it_reads_as_are_found_in_whatever_case(run_engine, tomo):
    shutter = Switch("shutter", Status, Status.CLOSED)
    table = Switch("table", Place, Place.IN)
    run_engine(tomo(shutter=shutter, sample_table=table))
    assert shutter.moves == ["CLOSED", "OPEN", "OPEN", "CLOSED"]
    assert table.moves == ["Out of Beam", "In Beam", "In Beam"]


def test_signal_of_an_enum_is_a_shutter_by_itself(run_engine, tomo):
    shutter = soft_signal_rw(Status, Status.OPEN, name="shutter")
    run_engine(tomo(shutter=shutter))
    closed = asyncio.run_coroutine_threadsafe(shutter.get_value(), run_engine.loop).result(20)
    assert closed == Status.CLOSED


def test_words_of_a_classic_signal_are_found(run_engine, tomo):
    shutter = Classic("shutter", ["Shut", "Opened", "Invalid"])
    run_engine(tomo(shutter=shutter))
    assert shutter.moves == ["Shut", "Opened", "Opened", "Shut"]


def test_words_that_are_given_are_the_devices_own_in_its_case(run_engine, tomo):
    shutter = Switch("shutter", Gate, Gate.UP)
    run_engine(tomo(shutter=shutter, shutter_words=("UP", "Down")))
    assert shutter.moves == ["down", "up", "up", "down"]


def test_sample_table_may_be_a_motor_with_two_positions(run_engine, tomo):
    class Motor(Classic):
        def describe(self):
            return {self.name: {"source": "PV:Y", "dtype": "number", "shape": []}}

    table = Motor("sample_x", [])
    run_engine(tomo(sample_table=table, table_words=(0.0, 25.5)))
    assert table.moves == [25.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"shutter": Switch("gate", Gate, Gate.UP)},
            r"shutter gate: its positions are 'up', 'down'; got no shutter_words",
        ),
        (
            {"shutter": Switch("gate", Gate, Gate.UP), "shutter_words": ("open", "down")},
            r"positions are 'up', 'down'; got shutter_words=\('open', 'down'\)",
        ),
        ({"shutter_words": ("open", "open")}, "shutter_words: got .*, expected two that differ"),
        ({"shutter_words": "open"}, "shutter_words: got 'open', expected two"),
        ({"table_words": ("in",)}, "table_words: got"),
        ({"table_words": ("here", "there")}, "sample_table table: its positions are 'in', 'out'"),
        ({"table_words": (1.0, 2.0)}, r"sample_table table: can not be set to 1.0 \(table_words\)"),
    ],
)
def test_words_that_can_not_work_are_refused_before_anything_moves(
    run_engine, documents, tomo, script, beamline, arguments, words
):
    with pytest.raises(ConfigError, match=words):
        run_engine(tomo(**arguments))
    assert (documents, script.launched, beamline.stage.angle) == ([], [], 0.0)


def test_shutter_that_could_mean_two_things_has_to_be_told(run_engine, tomo, documents):
    class Both(Switch):
        async def describe(self):
            demand = {"source": "x", "dtype": "string", "shape": [], "choices": ["Open", "Close"]}
            return {**await super().describe(), "demand": demand}

    with pytest.raises(ConfigError, match="say which with shutter_words="):
        run_engine(tomo(shutter=Both("both", Status, Status.OPEN)))
    assert documents == []
    shutter = Both("both", Status, Status.OPEN)
    run_engine(tomo(shutter=shutter, shutter_words=("open", "close")))
    assert shutter.moves == ["Close", "Open", "Open", "Close"]


def test_shutter_is_closed_even_if_the_table_is_stuck_and_the_table_comes_back_if_the_shutter_is(run_engine, beamline):
    class Stuck(Switch):
        @AsyncStatus.wrap
        async def set(self, value):
            self.moves.append(value)
            raise RuntimeError(f"{self.name} is stuck")

    shutter, stuck = Switch("shutter", Status, Status.OPEN), Stuck("table", Place, Place.IN)
    with pytest.raises(Exception, match="is stuck"):
        run_engine(take_references_plan([beamline.detector], flats=1, darks=0, shutter=shutter, sample_table=stuck))
    assert shutter.moves == ["CLOSED"]
    shutter, table = Stuck("shutter", Status, Status.OPEN), Switch("table", Place, Place.IN)
    with pytest.raises(Exception, match="is stuck"):
        run_engine(take_references_plan([beamline.detector], flats=1, darks=1, shutter=shutter, sample_table=table))
    assert table.moves == ["In Beam"]
