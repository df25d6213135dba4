"""The profile's files: written once, brought up to date, and never taken from a person who changed them."""

import inspect
import json
import re
import runpy
import socket
from types import SimpleNamespace

import pytest
from bluesky.plans import count
from bluesky.utils import is_plan
from tiled_server import KEY

from bluesky_streamrecon.errors import ConfigError, StorageError
from bluesky_streamrecon.plans import use_beamline
from bluesky_streamrecon.profile import install_profile, remove_profile
from bluesky_streamrecon.storage import EmbeddedTiled, open_catalog


def startup_files(report):
    return sorted((report.directory / "startup").glob("*.py"))


def test_install_writes_readable_numbered_files_that_compile(tmp_path):
    report = install_profile("tomo", tmp_path)
    assert set(report.files.values()) == {"written"}
    files = startup_files(report)
    assert [f.name[:2] for f in files] == sorted(f.name[:2] for f in files)
    for file in files:
        compile(file.read_text(), str(file), "exec")


def test_profile_takes_job_places_and_the_plans_defaults_from_the_configuration(tmp_path, monkeypatch):
    path = tmp_path / "beamline.toml"
    path.write_text(
        '[job]\njob_id = "tomo-1"\n[recon]\nwindow = 30\n'
        '[storage]\ndirectory = "shared"\nuri = "http://facility"\nlive_images = 7\n'
    )
    monkeypatch.setenv("STREAMRECON_CONFIG", str(path))
    monkeypatch.delenv("STREAMRECON_TILED_URI", raising=False)
    opened, kept = [], []
    storage = SimpleNamespace(
        close=None, catalog={}, databroker=None, writer=lambda *_: None, uri="http://facility/key"
    )
    monkeypatch.setattr("bluesky_streamrecon.storage.open_storage", lambda *a, **k: opened.append((a, k)) or storage)
    monkeypatch.setattr("atexit.register", kept.append)
    names = started(tmp_path)
    assert opened == [(("http://facility",), {"directory": tmp_path / "shared"})]
    job = names["recon_job"]
    assert (job.job_id, job.options.output) == ("tomo-1", tmp_path / "shared" / "reconstructions")
    writer = names["live_images"]
    assert (writer._uri, writer._most) == ("http://facility/key", 7)
    assert kept[-2:] == [job.close, writer.close]
    for close in reversed(kept[-2:]):
        close()
    assert inspect.signature(names["stream_tomo_plan"]).parameters["window"].default == 30


def started(tmp_path):
    """Run the startup files but the first, as IPython does, and return what they define."""
    names = {"RE": SimpleNamespace(subscribe=lambda *_: 0, md={})}
    for file in startup_files(install_profile("tomo", tmp_path))[1:]:
        names = runpy.run_path(str(file), names)
    use_beamline(None)
    return names


@pytest.mark.parametrize(
    "why",
    [
        StorageError("Tiled at http://facility: no catalogue (connection refused)"),
        ModuleNotFoundError("No module named 'jose'", name="jose"),
        OSError(28, "No space left on device"),
    ],
)
def test_catalogue_that_can_not_start_is_said_in_one_line_and_takes_no_plan_with_it(
    tmp_path, monkeypatch, capsys, run_engine, documents, why
):
    monkeypatch.setenv("STREAMRECON_DATA", str(tmp_path / "data"))
    kept = []
    monkeypatch.setattr("atexit.register", kept.append)

    def fails(*_args, **_kwargs):
        raise why

    monkeypatch.setattr("bluesky_streamrecon.storage.open_storage", fails)
    names = started(tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"NO CATALOGUE ({type(why).__name__}: {why}): in this session runs go to ")
    assert all(is_plan(names[name]) for name in ("stream_tomo_plan", "stream_tomo_fly_plan", "take_references_plan"))
    run_engine.subscribe(names["tiled_writer"])
    (uid,) = run_engine(count([names["stage"]])).run_start_uids
    for close in kept:
        close()
    backup = (tmp_path / "data" / "not_stored" / f"{uid}.jsonl").read_text().splitlines()
    assert [json.loads(each)["name"] for each in backup] == [name for name, _ in documents]


def test_server_that_comes_up_during_the_session_is_given_its_runs_by_the_command_that_the_session_named(
    tmp_path, monkeypatch, capfd, run_engine, program
):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}/api/v1?api_key={KEY}"
    monkeypatch.setenv("STREAMRECON_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("STREAMRECON_TILED_URI", uri)
    kept = []
    monkeypatch.setattr("atexit.register", kept.append)
    names = started(tmp_path)
    (line,) = capfd.readouterr().out.splitlines()
    assert re.search(r"NO CATALOGUE .*start IPython anew, and `streamrecon resubmit` stores them", line)
    assert KEY not in line
    run_engine.subscribe(names["tiled_writer"])
    with EmbeddedTiled(tmp_path / "served", port=port):
        (uid,) = run_engine(count([names["stage"]])).run_start_uids
        for close in kept:
            close()
        done = program("resubmit", "--uri", uri)
        assert (done.returncode, done.stdout) == (0, "1 stored, 0 already there, 0 refused\n"), done.stderr
        catalog = open_catalog(uri)
        assert catalog[uid].metadata["stop"]["exit_status"] == "success"
        catalog.context.close()


def test_installing_twice_changes_nothing(tmp_path):
    install_profile("tomo", tmp_path)
    report = install_profile("tomo", tmp_path)
    assert set(report.files.values()) == {"unchanged"}


def test_a_changed_file_is_never_overwritten_and_ours_lies_beside_it(tmp_path):
    changed = startup_files(install_profile("tomo", tmp_path))[0]
    ours = changed.read_text()
    changed.write_text("my_own = True\n")
    report = install_profile("tomo", tmp_path)
    assert changed.read_text() == "my_own = True\n"
    assert report.files[changed] == "kept"
    assert changed.with_suffix(".py.new").read_text() == ours


def test_a_file_of_an_older_version_is_brought_up_to_date(tmp_path, monkeypatch):
    first = startup_files(install_profile("tomo", tmp_path))[0]
    current = first.read_text()
    manifest = first.parent.parent / "streamrecon-files.json"
    import hashlib

    old = b"# what an older version wrote\n"
    first.write_bytes(old)
    text = manifest.read_text().replace(hashlib.sha256(current.encode()).hexdigest(), hashlib.sha256(old).hexdigest())
    manifest.write_text(text)
    assert install_profile("tomo", tmp_path).files[first] == "updated"
    assert first.read_text() == current


def test_queue_server_permissions_are_written_when_asked_for_and_brought_up_to_date_from_then_on(tmp_path):
    def permissions(report):
        return report.files.get(report.directory / "startup" / "user_group_permissions.yaml")

    assert permissions(install_profile("tomo", tmp_path)) is None
    assert permissions(install_profile("tomo", tmp_path, queueserver=True)) == "written"
    assert permissions(install_profile("tomo", tmp_path)) == "unchanged"
    assert permissions(remove_profile("tomo", tmp_path)) == "removed"


def test_remove_takes_all_of_ours_away(tmp_path):
    report = install_profile("tomo", tmp_path)
    (report.directory / "history.sqlite").touch()  # IPython leaves this one
    assert set(remove_profile("tomo", tmp_path).files.values()) == {"removed"}
    assert not report.directory.exists()


def test_remove_leaves_what_a_person_changed_or_added(tmp_path):
    report = install_profile("tomo", tmp_path)
    changed, *others = startup_files(report)
    changed.write_text("mine = 1\n")
    added = changed.parent / "99-mine.py"
    added.write_text("mine = 2\n")
    remove_profile("tomo", tmp_path)
    assert startup_files(report) == [changed, added]
    assert not any(f.exists() for f in others)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="profile"):
        install_profile(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_profile_that_is_not_ours_is_not_removed(tmp_path):
    (tmp_path / "profile_other").mkdir()
    with pytest.raises(ConfigError, match="other"):
        remove_profile("other", tmp_path)
    assert (tmp_path / "profile_other").exists()
