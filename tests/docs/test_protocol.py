"""The protocol's reference names every message with its fields and its channel; the how-to for a new one is true."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from bluesky_streamrecon.beamline.serving.hub import Hub
from bluesky_streamrecon.wire import fields
from bluesky_streamrecon.wire.codec import PREAMBLE, encode
from bluesky_streamrecon.wire.link import Sent
from bluesky_streamrecon.wire.messages import CHANNELS, Hello, Message, Problem

DOCS = Path(__file__).parents[2] / "docs"
PROTOCOL = (DOCS / "reference" / "protocol.md").read_text()
HOW_TO = (DOCS / "how-to" / "add-a-message.md").read_text()
FRAMES = {"pixels", "lines"}  # travel beside the header; not so the pixels of a picture

MESSAGES = {message.__struct_config__.tag: message for message in get_args(Message)}


def rows(text):
    """Return the cells of all lines of tables."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]


@pytest.mark.parametrize("tag", MESSAGES)
def test_reference_has_the_fields_of_each_message(tag):
    (cells,) = [row for row in rows(PROTOCOL) if re.fullmatch(rf"`{tag}`( \+ pixels)?", row[0])]
    of_struct = set(MESSAGES[tag].__struct_fields__) - (FRAMES if "pixels" in cells[0] else set())
    assert set(re.findall(r"`([a-z_]+)`", cells[-1])) == of_struct


def test_reference_has_no_message_that_there_is_not():
    tables = re.findall(r"^\| `type` \|.*\n\|.*\n((?:\|.*\n)+)", PROTOCOL, flags=re.MULTILINE)
    assert {re.match(r"`([a-z-]+)`", row[0])[1] for table in tables for row in rows(table)} == MESSAGES.keys()


def test_reference_has_the_channel_of_each_message_that_must_not_be_lost():
    written = {
        (row[0].strip("`"), tag) for row in rows(PROTOCOL) if len(row) == 5 for tag in re.findall("`([a-z-]+)`", row[3])
    }
    assert written == {(channel, message.__struct_config__.tag) for message, channel in CHANNELS.items()}


def test_places_that_the_how_to_names_exist():
    places = re.findall(r"`([\w/]+\.py)`(?: \| | )`(\w[\w.]*)`", HOW_TO)
    assert len(places) == 14
    for module, name in places:
        found = importlib.import_module("bluesky_streamrecon." + module.removesuffix(".py").replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)


def test_end_that_does_not_know_the_message_of_the_how_to_answers_and_goes_on():
    names = {"msgspec": msgspec, **vars(fields)}
    source = re.search(r"```python\n(.*?)```", HOW_TO, flags=re.DOTALL)[1]
    exec(source.replace('tag="temperature"', 'tag="temperature-unknown"'), names)  # it may have been added since
    (header,) = encode(names["Temperature"](run_uid="run", rank=0, celsius=30.0))
    assert bytes(header).startswith(PREAMBLE)
    hub = Hub(job_id="job")
    hub.receive(b"1", encode(Hello(job_id="job", role="rank", instance="i")), 0.0)
    hub.receive(b"1", [header], 0.0)
    said = []

    def send(_, message):
        said.append(message)
        return Sent.DONE

    hub.pump(send, 0.0)
    (problem,) = [message for message in said if isinstance(message, Problem)]
    assert (problem.where, "temperature" in problem.text) == ("message", True)
    assert (hub.garbage.count, len(hub.peers())) == (1, 1)
