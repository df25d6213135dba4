"""The configuration file: what it says, what it leaves out, and where each setting comes from."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bluesky_streamrecon import config_file
from bluesky_streamrecon.beamline import MpiLauncher, make_job, make_launcher
from bluesky_streamrecon.config_file import ConfigFile, JobSection, configuration_path, load_config_file
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire import generate_keys


@pytest.fixture(autouse=True)
def _no_file_of_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("STREAMRECON_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.delenv("STREAMRECON_DATA", raising=False)


@pytest.fixture
def written(tmp_path):
    def write(text, name="config.toml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_without_a_file_defaults_hold():
    assert configuration_path() is None
    assert load_config_file() == ConfigFile()
    assert {origin for _, _, origin in load_config_file().rows()} == {"default"}


def test_file_is_found_by_option_then_variable_then_in_the_users_directory(written, monkeypatch):
    usual = written("[job]\nranks = 3\n", "xdg/bluesky-streamrecon/config.toml")
    assert load_config_file().path == usual
    told = written("[job]\nranks = 4\n", "told.toml")
    monkeypatch.setenv("STREAMRECON_CONFIG", str(told))
    assert load_config_file().job.ranks == 4
    assert load_config_file(written("[job]\nranks = 5\n")).job.ranks == 5


def test_each_setting_tells_where_it_comes_from(written):
    path = written("[job]\nranks = 3\n[job.slurm]\npoll = 2.5\n[recon]\nwindow = 30\n[steering]\nthreshold = 0.9\n")
    rows = {name: (value, origin) for name, value, origin in load_config_file(path).rows()}
    assert rows["job.ranks"] == (3, str(path))
    assert rows["job.slurm.poll"] == (2.5, str(path))
    assert rows["recon.ranks"] == (3, "job.ranks")
    assert rows["recon.window"] == (30, str(path))
    assert rows["steering.threshold"] == (0.9, str(path))
    assert rows["job.restarts"] == (3, "default")
    for name, kind in (("recon", ConfigFile().recon), ("storage", ConfigFile().storage)):
        assert {f"{name}.{field}" for field in kind.__struct_fields__} <= set(rows)


@pytest.mark.parametrize("given", ["start = 360\nstop = 0\n", "stop = 360\n"])
def test_range_to_follow_that_would_be_taken_for_a_half_turn_is_refused(written, given):
    with pytest.raises(ConfigError, match=r"\[follow\].*got start=.*, expected finite degrees with start < stop"):
        load_config_file(written(f"[follow]\n{given}"))


def test_there_is_one_rank_for_each_gpu_unless_the_file_says_how_many(written, monkeypatch):
    monkeypatch.setattr(config_file, "usable_gpus", lambda: 4)
    cuda = "[recon]\nbackend = 'cuda'\n"
    read = load_config_file(written(cuda))
    assert (read.job.ranks, read.recon.ranks) == (4, 4)
    rows = {name: (value, origin) for name, value, origin in read.rows()}
    assert rows["job.ranks"] == rows["recon.ranks"] == (4, "one for each GPU")
    assert "ranks" not in read.plan_settings()
    assert load_config_file(written("[job]\nranks = 3\n" + cuda)).job.ranks == 3
    assert load_config_file(written("[recon]\nbackend = 'auto'\n")).job.ranks == load_config_file().job.ranks == 4
    for on_the_cpu in ("backend = 'cpu'", "share = 2"):
        assert load_config_file(written(f"[recon]\n{on_the_cpu}\n")).job.ranks == JobSection().ranks
    slurm = "[job]\nlauncher = 'slurm'\n[job.slurm]\noptions = ['--nodes=2', '--gpus-per-node=h100:4']\n"
    assert load_config_file(written(slurm + cuda)).job.ranks == 8
    assert load_config_file(written("[job]\nlauncher = 'none'\n" + cuda)).job.ranks == JobSection().ranks
    monkeypatch.setattr(config_file, "usable_gpus", lambda: 0)
    assert load_config_file(written(cuda)).job.ranks == JobSection().ranks


def test_what_the_file_says_of_images_and_steering_becomes_arguments_of_the_plans(written):
    path = written(
        "[job]\nranks = 3\n[recon]\nwindow = 30\n[recon.options]\nfloor = 1e-5\n"
        "[steering]\ntolerance = 0.03\n[steering.options]\nmine = 2\n"
    )
    assert load_config_file(path).plan_settings() == {
        "window": 30, "options": {"floor": 1e-5}, "tolerance": 0.03, "policy_options": {"mine": 2}
    }  # fmt: skip
    assert ConfigFile().plan_settings() == {}


def test_paths_are_relative_to_the_file(written, tmp_path):
    path = written(
        '[job]\nlogs = "logs"\nkey = "k.secret"\nallowed = ["a.public", "/abs"]\njob_key="j"\nserver_key="s"\n'
    )
    job = load_config_file(path).job
    assert (job.logs, job.key) == (tmp_path / "logs", tmp_path / "k.secret")
    assert job.allowed == (tmp_path / "a.public", Path("/abs"))
    assert load_config_file(written('[storage]\ndirectory = "d"\n')).data == tmp_path / "d"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[jobs]\n", r"unknown table \[jobs\]; known: job, recon, steering, storage"),
        ("[job]\nrank = 2\n", r"\[job\]: JobSection: .*`rank`; known fields: launcher, ranks"),
        ("[job]\nranks = 'two'\n", r"\[job\]: JobSection: Expected `int`, got `str` - at `\$.ranks`"),
        ("[job]\nranks = 0\n", r"Expected `int` >= 1 - at `\$.ranks`"),
        ("[recon]\nwindow = 2\nstep = 3\n", r"\[recon\]: .*window=2 is shorter than step=3"),
        ("[job]\nkey = 'a'\n", "key and allowed: got one of them"),
        ("[job]\njob_key = 'a'\n", "job_key and server_key: got one of them"),
        ("[job]\nkey = 'a'\nallowed = ['b']\n", "the beamline has keys and the job has none"),
        ("[job\n", "not TOML"),
    ],
)
def test_what_can_not_work_is_refused_with_the_file_and_the_table(written, text, said):
    path = written(text)
    with pytest.raises(ConfigError, match=said) as refused:
        load_config_file(path)
    assert str(path) in str(refused.value)


def test_file_of_another_systems_editor_is_read(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[job]\r\nranks = 3\r\n")
    assert load_config_file(path).job.ranks == 3


def test_working_directory_that_is_gone_does_no_harm(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert load_config_file().path is None


def test_missing_file_that_was_asked_for_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config_file(tmp_path / "none.toml")


def test_job_is_made_as_described(run_engine, written, tmp_path):
    generate_keys(tmp_path, "beamline")
    generate_keys(tmp_path, "cluster")
    text = """
    [job]
    launcher = "none"
    address = "tcp://127.0.0.1:*"
    job_id = "tomo-1"
    key = "beamline.secret"
    allowed = ["cluster.public"]
    restarts = 1
    finish_timeout = 33.0
    """
    configuration = load_config_file(written(text))
    job = make_job(configuration, start_timeout=7.0)
    assert (job.local, job.job_id, job.options.finish_timeout, job.options.start_timeout) == (
        False,
        "tomo-1",
        33.0,
        7.0,
    )
    assert job.options.restarts == 1
    assert job.security.allowed
    assert job.options.output == configuration.data / "reconstructions"
    assert isinstance(make_launcher(ConfigFile()), MpiLauncher)
    assert make_launcher(configuration) is None


def test_settings_are_those_that_travel_with_a_run(written):
    recon = load_config_file(written("[recon]\nalgorithm = 'sirt'\n[recon.options]\nrelaxation = 0.5\n")).recon
    assert msgspec.to_builtins(recon)["options"] == {"relaxation": 0.5}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (SteeringSettings, "advisory", "yes"),
        (SteeringSettings, "tolerance", "0.01"),
        (SteeringSettings, "minimum_coverage", "2"),
        (SteeringSettings, "preview_rows", (1.5,)),
        (ReconSettings, "axis", "middle"),
        (ReconSettings, "disc", 1),
    ],
)
def test_setting_of_a_wrong_type_is_refused_when_it_is_made_not_when_the_job_decodes_it(kind, name, value):
    with pytest.raises(ConfigError, match=rf"^{name}: got {re.escape(repr(value))}; expected"):
        kind(**{name: value})


def test_numbers_of_numpy_are_settings_that_can_be_sent():
    recon = ReconSettings(axis=np.float64(127.5), window=np.int64(12))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(recon), type=ReconSettings) == recon
