"""Tables for people: what a column is called and every number are readable at 80 columns."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from bluesky_streamrecon.cli._output import print_table

KERNELS = ["columns", "window", "slices", "algorithm", "threads", "seconds", "deviation", "gups", "gups_per_thread"]
VALUES = [1024, 12, 100, "sirt-with-a-long-name", 16, 1.234e-5, 9.876e-5, 1.234e-3, 1.234e-4]
ADVICE = "The receiver answers, and its rows do not fit the detector: look at rows= and bin= of the plan."


@pytest.mark.parametrize("width", [60, 80, 200])
def test_names_and_numbers_are_never_cut(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    print_table("Kernels", KERNELS, [VALUES, VALUES])
    text = capsys.readouterr().out
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    cells = re.split(r"[\s┃│]+", text)
    assert set(KERNELS) <= set(cells)
    for value in VALUES:
        assert cells.count(f"{value:.4g}" if isinstance(value, float) else str(value)) >= 2
    assert ("(continued)" in text) == (width < 200)


def test_a_long_text_is_folded_between_words(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_table("Checks", ["check", "ok", "what"], [["receiver", True, ADVICE]])
    text = capsys.readouterr().out
    assert "(continued)" not in text
    assert set(ADVICE.split()) <= set(re.split(r"[\s┃│]+", text))


def test_a_table_without_rows_shows_its_columns(capsys):
    print_table("Orders", ["angle", "score"], [])
    assert "angle" in capsys.readouterr().out


def test_who_reads_progress_may_go_away_and_the_work_goes_on_in_every_thread():
    work = """
import logging, threading
from bluesky_streamrecon.cli._output import console, print_json, show_progress

def tell():
    for text in ("read by nobody", "nor this"):
        logging.getLogger("bluesky_streamrecon.evaluation").info(text)
    done.append("told")

show_progress()
done = []
thread = threading.Thread(target=tell)
thread.start()
thread.join()
console().print("nor this")
print_json(done)
"""
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run([sys.executable, "-c", work], stdout=subprocess.PIPE, stderr=write, check=False)
    finally:
        os.close(write)
    assert (ended.returncode, ended.stdout) == (0, b'["told"]\n')
