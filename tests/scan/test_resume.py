"""A scan that is cut short goes on: killed at any moment, truncated, corrupted, on other devices and processes."""

from __future__ import annotations

import random
import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest

from jaxperf.errors import InputError
from jaxperf.scan import journal as journals


@pytest.fixture(scope="module")
def whole(start, finish):
    """What the scan finds undisturbed."""
    result = finish(start())
    assert result.pop("resumed") == 0
    assert result["feasible"] > 100_000
    return result


@pytest.fixture(scope="module")
def full(start, finish, tmp_path_factory):
    """A finished journal."""
    path = tmp_path_factory.mktemp("journal") / "journal.bin"
    finish(start(journal=path))
    return path


def _resumed(start, finish, path):
    result = finish(start(journal=path, resume=True))
    return result.pop("resumed"), result


def _kill(start, path, seed, signal_number=signal.SIGKILL):
    """Starts a slowed scan, waits until the journal has grown to a random size, and kills it."""
    wanted = random.Random(seed).randint(1, 120_000)
    process = start(journal=path, sleep=0.02)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.stat().st_size >= wanted:
            break
        time.sleep(0.002)
    time.sleep(random.Random(-seed).uniform(0, 0.05))
    process.send_signal(signal_number)
    process.communicate()
    return process.returncode


def _survives(start, finish, whole, path, seed):
    _kill(start, path, seed)
    before = journals.resume(path, journals.read_identity(path))
    kept = len(before.done)
    before.close()
    resumed, result = _resumed(start, finish, path)
    assert result == whole
    assert (resumed > 0) == (kept > 0)


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_scan_goes_on_and_finds_the_same(start, finish, whole, tmp_path, seed):
    _survives(start, finish, whole, tmp_path / "journal.bin", seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 24))
def test_a_scan_killed_at_any_moment_goes_on_and_finds_the_same(start, finish, whole, tmp_path, seed):
    _survives(start, finish, whole, tmp_path / "journal.bin", seed)


def test_a_finished_journal_is_the_whole_result(start, finish, whole, full):
    resumed, result = _resumed(start, finish, full)
    assert resumed == whole["configurations"]
    assert result == whole


def test_a_truncated_journal_is_saved_to_its_last_good_record(full, tmp_path):
    data, identity = full.read_bytes(), journals.read_identity(full)
    everything = journals.resume(full, identity)
    everything.close()
    ends = [len(data) * share // 10 for share in range(3, 10)] + [len(data) - 1]
    for end in ends:
        path = tmp_path / "cut.bin"
        path.write_bytes(data[:end])
        held = journals.resume(path, identity)
        held.close()
        assert 0 < len(held.done) < len(everything.done)
        assert path.stat().st_size == end - held.lost
        for unit, parts in held.done.items():
            for mine, its in zip(parts, everything.done[unit], strict=True):
                assert all(np.array_equal(mine[name], its[name]) for name in its)


def test_a_corrupt_journal_is_saved_and_gives_the_same(start, finish, whole, full, tmp_path):
    path = tmp_path / "journal.bin"
    data = bytearray(full.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
    resumed, result = _resumed(start, finish, path)
    assert 0 < resumed < whole["configurations"]
    assert result == whole


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "no journal of a scan"), (b"hello world", "no journal of a scan"), (journals._MAGIC, "damaged at its head")],
)
def test_what_is_no_journal_is_refused(start, tmp_path, data, message):
    path = tmp_path / "journal.bin"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        journals.read_identity(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {"slo_tpot_ms": 3.0}}, r"another space \(slo_tpot differs\)"),
        ({"space": {"batch": [1, 2]}}, r"another space \(batch differs\)"),
        ({"space": {"systems": ["h100-sxm-8"]}}, "another space"),
    ],
)
def test_a_journal_of_another_space_is_refused(start, full, change, message):
    process = start(journal=full, resume=True, **change)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert re.search(message, err)
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", {"jaxperf": "0.0.1", "jax": "0", "code": "0"}, "another version (code, jax, jaxperf differ)"),
        ("specs", {"llama-3.1-8b": "0"}, "other specs"),
        ("precision", "float16", "another precision (float16 there"),
        ("platform", "tpu", "another kind of device (tpu there"),
        ("reductions", ["Counts()"], "other results wanted"),
    ],
)
def test_a_journal_of_another_version_is_refused(full, tmp_path, key, value, message):
    identity = journals.read_identity(full)
    path = tmp_path / "journal.bin"
    journals.create(path, identity | {key: value}).close()
    with pytest.raises(InputError) as error:
        journals.resume(path, identity)
    assert message in str(error.value)


def test_a_journal_has_one_writer(full, tmp_path):
    path = tmp_path / "journal.bin"
    shutil.copy(full, path)
    identity = journals.read_identity(path)
    first = journals.resume(path, identity)
    with pytest.raises(InputError, match="another scan is writing"):
        journals.resume(path, identity)
    first.close()


def test_two_devices_find_the_same(start, finish, whole, tmp_path):
    result = finish(start(devices=2, journal=tmp_path / "journal.bin"))
    result.pop("resumed")
    assert result == whole
    resumed, again = _resumed(start, finish, tmp_path / "journal.bin")
    assert resumed == whole["configurations"]
    assert again == whole


def _port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_two_processes_find_the_same_and_one_can_go_on_alone(start, finish, whole, tmp_path):
    where, path = f"127.0.0.1:{_port()}", tmp_path / "journal.bin"
    both = [start(join=[where, 2, index], journal=path) for index in range(2)]
    for process in both:
        result = finish(process)
        result.pop("resumed")
        assert result == whole
    assert (tmp_path / "journal.bin.1").exists()
    resumed, alone = _resumed(start, finish, path)
    assert resumed == whole["configurations"]
    assert alone == whole


@pytest.mark.parametrize("dying", [0, 1])
def test_a_process_that_dies_leaves_an_error_and_sound_journals(start, finish, whole, tmp_path, dying):
    where, path = f"127.0.0.1:{_port()}", tmp_path / "journal.bin"
    both = [start(join=[where, 2, i], journal=path, sleep=0.05, die=i == dying) for i in range(2)]
    _, err = both[1 - dying].communicate(timeout=120)
    both[dying].communicate()
    assert both[dying].returncode == -signal.SIGKILL
    assert both[1 - dying].returncode == 2, err
    assert f"process {dying} of the distributed scan died" in err.strip().splitlines()[-1]
    _, alone = _resumed(start, finish, path)
    assert alone == whole


def test_processes_with_different_scans_say_so(start, tmp_path):
    where = f"127.0.0.1:{_port()}"
    both = [start(join=[where, 2, index], space={"batch": [1, 2 + index]}) for index in range(2)]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2
        assert "another space (batch differs)" in err
