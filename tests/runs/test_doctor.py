"""``prunelib doctor`` names the fault and the fix."""

import importlib.metadata

import pytest

from prunelib.errors import PrunelibError
from prunelib.models import fetch
from prunelib.runs import doctor


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "cache"
    monkeypatch.setenv("PRUNELIB_CACHE", str(folder))
    return folder


def check(name: str) -> doctor.Check:
    return next(c for c in doctor.report() if c.name.startswith(name))


def test_report_of_a_sound_environment(cache):
    checks = doctor.report()
    assert all(c.ok for c in checks), [c for c in checks if not c.ok]
    assert all(len(c) == 4 and c.message and not c.fix for c in checks)
    assert not cache.exists()
    assert "not cached" in check("model smollm2").message


def test_old_package(monkeypatch, cache):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.0.0" if name == "transformers" else real(name))
    found = check("package transformers")
    assert not found.ok and "4.0.0, needed" in found.message and "pip install" in found.fix


def test_absent_package(monkeypatch, cache):
    monkeypatch.setattr(doctor, "_requirements", lambda: ["surely-absent-package>=1", "torch>=2"])
    found = check("package surely-absent-package")
    assert not found.ok and found.message == "not installed"


def test_cache_in_the_way_of_a_file(cache):
    cache.parent.mkdir()
    cache.write_text("a file")
    found = check("model cache")
    assert not found.ok and "PRUNELIB_CACHE" in found.fix


def test_full_disk(cache, monkeypatch):
    class Usage:
        free = 5 * 10**6

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: Usage)
    found = check("model cache")
    assert not found.ok and found.fix.startswith("free 750 MB")


def test_corrupt_model(cache, monkeypatch):
    def corrupt(*args, **kwargs):
        raise PrunelibError("corrupt model cache: model.safetensors")

    monkeypatch.setattr(doctor, "_is_cached", lambda alias: True)
    monkeypatch.setattr(fetch, "fetch", corrupt)
    found = check("model smollm2")
    assert not found.ok and found.fix == "prunelib models --refetch smollm2-135m-instruct"


def test_token_is_never_shown(cache, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = str(doctor.report())
    assert "hf_secret" not in text and "HF_TOKEN set" in text and "cached hub models only" in text


def test_models_lists_every_alias(cache):
    rows = fetch.models()
    assert [r["alias"] for r in rows] == list(fetch.aliases())
    assert {"alias", "kind", "licence", "download", "cached", "path", "source"} == set(rows[0])
