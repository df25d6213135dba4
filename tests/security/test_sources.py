"""What the sources must not have in them: ways to run what somebody sent, logged secrets, others' insides."""

from __future__ import annotations

import ast
import io
import logging
import threading
from pathlib import Path

import pytest

import bluesky_streamrecon
from bluesky_streamrecon.beamline.serving import BeamlineEndpoint, PeerJoined
from bluesky_streamrecon.config_file import load_config_file
from bluesky_streamrecon.logs import ContextFilter, LineFormatter, set_role, set_run, set_up_logging
from bluesky_streamrecon.wire import ClientSecurity, RankEndpoint, ServerSecurity, generate_keys

ROOT = Path(bluesky_streamrecon.__file__).parent
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
ALLOWED = {"pickle": "remote_documents.py"}  # Bluesky's 0MQ proxy pickles; test_follower shows that no code of it runs
CALLS = {"eval", "exec", "compile"}
BOUND = 20.0


def sources():
    roots = [ROOT, ROOT.parent / "plans", ROOT.parent / "sim_devices"]
    found = {path.resolve() for root in roots if root.exists() for path in root.rglob("*.py")}
    assert len(found) > 50
    return sorted(found)


def test_nothing_unpickles_or_evaluates_what_it_was_given():
    bad = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    roots = {name.name.partition(".")[0] for name in names} & MODULES
                    bad += [f"{path}:{node.lineno}" for root in roots if ALLOWED.get(root) != path.name]
                case ast.ImportFrom(module=module) if module and module.partition(".")[0] in MODULES:
                    bad.append(f"{path}:{node.lineno}")
                case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                    bad.append(f"{path}:{node.lineno} {name}")
                case ast.Call(func=ast.Attribute(attr="recv_pyobj" | "send_pyobj")):
                    bad.append(f"{path}:{node.lineno}")
                case ast.keyword(arg="allow_pickle", value=value):
                    if not (isinstance(value, ast.Constant) and value.value is False):
                        bad.append(f"{path}:{node.value.lineno} allow_pickle")
    assert not bad


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def test_devices_use_nothing_private_of_ophyd_async():
    """It may change with any version, and ours has no upper bound."""
    bad, looked_at = [], 0
    for path in sources():
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = {
            f"{node.module}.{name.name}"
            for node in nodes
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ophyd_async"
            for name in node.names
        }
        bad += [f"{path}: {name}" for name in imported if is_private(name)]
        looked_at += bool(imported)
        for node in nodes if imported else ():
            match node:
                case ast.Attribute(value=ast.Name(id="self" | "cls") | ast.Call(func=ast.Name(id="super"))):
                    pass
                case ast.Attribute(attr=attribute) if is_private(attribute):
                    bad.append(f"{path}:{node.lineno} {attribute}")
    assert looked_at > 5
    assert not bad


def test_secret_keys_are_in_no_log_and_no_repr(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    for name in ("beamline", "cluster", "stranger"):
        generate_keys(tmp_path, name)
    security = ServerSecurity.from_files(tmp_path / "beamline.secret", tmp_path / "cluster.public")
    joined = threading.Event()
    beamline = BeamlineEndpoint(
        security=security,
        job_id="job",
        on_event=lambda event, _: joined.set() if isinstance(event, PeerJoined) else None,
    )
    shown = [repr(security)]
    ends = []
    try:
        for name in ("stranger", "cluster"):
            client = ClientSecurity.from_files(tmp_path / f"{name}.secret", tmp_path / "beamline.public")
            shown.append(repr(client))
            ends.append(RankEndpoint(beamline.address, job_id="job", rank=0, size=1, security=client))
        assert joined.wait(BOUND)
    finally:
        for end in ends:
            end.close(0.1)
        beamline.close(0.1)
    (tmp_path / "config.toml").write_text(
        '[job]\nkey="beamline.secret"\nallowed=["cluster.public"]\njob_key="cluster.secret"\nserver_key="beamline.public"\n'
    )
    shown += [str(row) for row in load_config_file(tmp_path / "config.toml").rows()]
    text = caplog.text + "\n".join(shown)
    for name in ("beamline", "cluster", "stranger"):
        secret = (tmp_path / f"{name}.secret").read_text().split()[-1]
        assert len(secret) == 40
        assert secret not in text


# ------------------------------------------------------------------------------------------------ logs


@pytest.fixture
def line():
    set_run(None)
    set_role(None)

    def line(message, *arguments, **options):
        record = logging.LogRecord("bluesky_streamrecon.recon.job", logging.ERROR, "", 0, message, arguments, None)
        record.__dict__.update(options)
        assert ContextFilter().filter(record)
        return LineFormatter().format(record)

    yield line
    set_run(None)
    set_role(None)


def test_record_is_one_line_with_time_level_place_run_and_role(line):
    moment, rest = line("the job\n  has %s", "ended").split(" ", 1)
    assert moment.endswith("Z")
    assert rest == "ERROR recon.job run=- role=- the job | has ended"
    set_run("77aa")
    set_role("rank-1")
    assert line("run 9123df61: words are not looked into").endswith(
        "ERROR recon.job run=77aa role=rank-1 run 9123df61: words are not looked into"
    )


def test_each_thread_logs_its_own_run_and_role():
    log, told = logging.getLogger("bluesky_streamrecon.recon.job"), io.StringIO()
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    handler = set_up_logging("INFO", told)
    try:

        def work(run, role):
            set_run(run)
            set_role(role)
            log.info("at work")

        threads = [threading.Thread(target=work, args=(f"run-{i}", f"rank-{i}")) for i in range(2)]
        for thread in threads:
            thread.start()
            thread.join()
        log.info("here")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        handler.close()
    lines = [line.partition("recon.job ")[2] for line in told.getvalue().splitlines()]
    assert lines == ["run=run-0 role=rank-0 at work", "run=run-1 role=rank-1 at work", "run=- role=- here"]


def test_traceback_stays_on_the_line(line):
    try:
        raise ValueError("oh")
    except ValueError as error:
        told = line("failed", exc_info=(ValueError, error, error.__traceback__))
    assert told.count("\n") == 0
    assert told.endswith("ValueError: oh")
