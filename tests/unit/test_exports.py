import json
from dataclasses import replace
from pathlib import Path

import pytest

from stance import BundleError, ConfigError, exports, load
from stance.exports import Exports, GateResult, Speed, machine_name

PASSED = GateResult(True, "d", 10, 2, 1.0, "f_stance", 0.0, 0.0, 0.0, 0.0)


@pytest.fixture
def cache(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("STANCE_CACHE", str(tmp_path))
    return Exports(tiny_bundle)


def record(cache: Exports, **speeds: float) -> None:
    found = {n.replace("_", "-"): Speed(v, 0.0) for n, v in speeds.items()}
    cache.record_speeds(machine_name("cpu"), found)


def test_without_exports_auto_is_fp32_and_nothing_is_written(cache, tiny_bundle, tmp_path):
    assert load(tiny_bundle, device="cpu").backend == "fp32"
    assert list(tmp_path.iterdir()) == []


def test_auto_takes_the_fastest_that_passed(cache, tiny_bundle):
    cache.record_gate("bf16", PASSED)
    record(cache, fp32=10.0, bf16=20.0)
    assert load(tiny_bundle, device="cpu").backend == "bf16"
    record(cache, fp32=20.0, bf16=10.0)
    assert load(tiny_bundle, device="cpu").backend == "fp32"


def test_auto_never_takes_one_that_failed_or_that_neighbours_change_here(cache, tiny_bundle):
    cache.record_gate("bf16", replace(PASSED, is_passed=False))
    record(cache, fp32=10.0, bf16=20.0)
    assert load(tiny_bundle, device="cpu").backend == "fp32"
    cache.record_gate("bf16", PASSED)
    speeds = {"fp32": Speed(10.0, 0.0), "bf16": Speed(20.0, 0.01)}
    cache.record_speeds(machine_name("cpu"), speeds)
    assert load(tiny_bundle, device="cpu").backend == "fp32"


def test_speeds_are_measured_once_a_machine(cache, tiny_bundle, monkeypatch):
    measured = []
    measure = exports.measure
    monkeypatch.setattr(
        exports, "measure", lambda b, *rest: measured.append(b.name) or measure(b, *rest)
    )
    cache.record_gate("bf16", PASSED)
    first = load(tiny_bundle, device="cpu").backend
    assert measured == ["fp32", "bf16"]
    assert load(tiny_bundle, device="cpu").backend == first
    assert measured == ["fp32", "bf16"]
    monkeypatch.setattr(exports, "machine_name", lambda device: "another machine")
    load(tiny_bundle, device="cpu")
    assert measured == ["fp32", "bf16"] * 2


def test_a_new_gate_result_forgets_the_speeds(cache):
    record(cache, fp32=10.0)
    cache.record_gate("bf16", PASSED)
    assert cache.speeds() == {}


def test_a_backend_that_was_not_checked_is_refused_with_the_command(cache, tiny_bundle):
    with pytest.raises(BundleError, match=r"run: stance export .* --backend bf16"):
        load(tiny_bundle, backend="bf16")


def test_names_and_devices_that_do_not_fit_are_refused(cache, tiny_bundle):
    with pytest.raises(ConfigError, match="unknown backend 'int4'; expected auto, fp32, bf16"):
        load(tiny_bundle, backend="int4")
    with pytest.raises(ConfigError, match="onnx-int8 runs on the CPU"):
        load(tiny_bundle, device="cuda", backend="onnx-int8")


def changed(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_text("{"),
        lambda p: p.write_text("[]"),
        lambda p: p.write_text("[" * 100_000),
        lambda p: p.write_bytes(b"\xff\xfe"),
        lambda p: p.write_text("{}"),
        lambda p: changed(p, format_version=99),
        lambda p: changed(p, gates={"bf16": {"is_passed": True}}),
        lambda p: changed(p, gates={"bf16": None}),
        lambda p: changed(p, speeds={"m": {"bf16": {"sentences_per_s": "9"}}}),
    ],
)
def test_a_damaged_record_is_one_error_with_the_remedy(cache, tiny_bundle, damage):
    cache.record_gate("bf16", PASSED)
    damage(cache.folder / "backends.json")
    with pytest.raises(BundleError, match=r"damaged .*; remove .* and run stance export again"):
        load(tiny_bundle)


def test_an_exported_file_that_is_not_the_checked_one_is_refused(cache, tiny_bundle, tmp_path):
    cache.record_gate("onnx-int8", replace(PASSED, sha256="0" * 64))
    with pytest.raises(BundleError, match=r"onnx-int8\.onnx: damaged .*stance export again"):
        load(tiny_bundle, backend="onnx-int8")
    (tmp_path / "file").write_bytes(b"other")
    cache.record_gate("onnx-int8", replace(PASSED, sha256="0" * 64), tmp_path / "file")
    with pytest.raises(BundleError, match="not the file that was checked"):
        load(tiny_bundle, backend="onnx-int8")


def test_a_cache_that_cannot_be_made_is_one_error(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STANCE_CACHE", str(tmp_path / "file"))
    with pytest.raises(BundleError, match="name another cache folder in STANCE_CACHE"):
        Exports(tiny_bundle).record_gate("bf16", PASSED)
    assert load(tiny_bundle, device="cpu").backend == "fp32"
