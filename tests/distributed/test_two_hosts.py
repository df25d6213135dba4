"""Beamline and job on two hosts, with keys, over a network that fails."""

from __future__ import annotations

import itertools
import json
import subprocess

import pytest

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("no_orphans"), pytest.mark.timeout(110)]

CUT_AT, MEND_AT = 10, 40  # projections, 0.1 s each: the link is gone for 3 s


def all_is_well(result, projections):
    assert (result["exit_status"], result["taken"], result["used"]) == ("success", projections, projections)
    assert result["ledger"]["balanced"], result
    assert result["ledger"]["dropped"] == 0
    assert result["images"] == projections


def test_link_that_loses_packets_and_is_cut_in_the_middle_of_a_run_changes_neither_pace_nor_image(
    hosts, two_hosts, far_scan
):
    kind = next((kind for kind in ("netem", "tun") if hosts.why_not(kind) is None), None)
    # A computer that can not lose packets on purpose can still cut the link.
    pair = two_hosts("veth") if kind is None else two_hosts(kind, delay=0.05, loss=0.01)
    scan = far_scan(pair, "--projections", "50")
    undisturbed = scan.line("scan")
    all_is_well(undisturbed, 50)
    times = [scan.line("projection", CUT_AT)["at"]]
    pair.cut()
    times += [scan.line("projection")["at"] for _ in range(CUT_AT, MEND_AT)]
    pair.mend()
    disturbed = scan.line("scan")
    all_is_well(disturbed, 50)
    assert disturbed["error"] <= 1e-4
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 2.0


def test_nothing_is_left_of_the_hosts_even_if_making_them_fails(hosts, two_hosts, monkeypatch):
    pair = two_hosts("veth")

    def named():
        listed = subprocess.run(["ip", "--json", "netns", "list"], capture_output=True, text=True, check=True).stdout
        return {entry["name"] for entry in json.loads(listed or "[]")}

    assert {pair.beamline, pair.cluster} <= named()
    pair.__exit__()
    assert not {pair.beamline, pair.cluster} & named()
    broken = hosts.TwoHosts("veth")
    monkeypatch.setattr(broken, "_devices", ("a-name-that-is-too-long", "b"))
    with pytest.raises(RuntimeError, match="a-name-that-is-too-long"):
        broken.__enter__()
    assert not {pair.beamline, pair.cluster} & named()
