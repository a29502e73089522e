"""The real hub client against a hub on the loopback: fetched, cut, refused, moved, and offline afterwards.

Each case is a process of its own, as a user's is: huggingface_hub reads its environment when it is imported.
"""

import os
import re
import subprocess
import sys

import loopback_hub
import pytest
import tiny_files

PRINT = "import sys, prunelib; print(prunelib.load(*sys.argv[1:], device='cpu').revision)"


@pytest.fixture
def hub(tmp_path):
    with loopback_hub.serving() as server:
        yield server


@pytest.fixture(scope="module")
def folder(make_model, tmp_path_factory):
    return tiny_files.write_folder(make_model("llama"), tmp_path_factory.mktemp("llama"))


@pytest.fixture
def call(hub, tmp_path):
    """``call("load", "acme/tiny")`` in a process that knows this hub alone: (exit code, standard output, error)."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    base = kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "PRUNELIB_CACHE": str(tmp_path / "cache"),
                   "HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "5", "HF_HUB_DOWNLOAD_TIMEOUT": "5"}  # fmt: skip

    def run(*words: str, code: str = "", **environment: str):
        command = [sys.executable, "-c", code, *words] if code else [sys.executable, "-m", "prunelib.cli", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=base | environment, timeout=300
        )
        return done.returncode, done.stdout, done.stderr

    return run


def refused(done, *words: str) -> None:
    code, out, err = done
    line = err.strip().splitlines()[-1]
    assert code == 2 and out == "" and "Traceback" not in err, err
    assert all(word in line for word in words), line


def fetched(hub, file: str) -> int:
    """How often a file was asked for, its head alone not counted."""
    return sum(line.startswith("GET") for line in hub.of(file))


@pytest.fixture
def tiny(hub, folder):
    repo = hub.repos.setdefault("acme/tiny", loopback_hub.Repo())
    repo.push(folder)
    return repo


def test_a_model_is_fetched_once_and_named_by_its_commit(hub, tiny, call):
    for _ in range(2):
        code, out, err = call("acme/tiny", code=PRINT)
        assert code == 0, err
        assert out.strip() == tiny.branches["main"]
    assert fetched(hub, "model.safetensors") == 1


def test_afterwards_no_network_is_needed(hub, tiny, call):
    assert call("acme/tiny", code=PRINT)[0] == 0
    asked = len(hub.asked)
    code, out, err = call("acme/tiny", code=PRINT, HF_HUB_OFFLINE="1")
    assert code == 0 and out.strip() == tiny.branches["main"], err
    assert len(hub.asked) == asked
    nobody = "http://127.0.0.1:9"  # nothing listens there
    code, out, err = call("acme/tiny", code=PRINT, HF_ENDPOINT=nobody)
    assert code == 0 and out.strip() == tiny.branches["main"], err


def test_without_network_and_cache_it_is_one_line(call):
    refused(call("kl", "--model", "acme/tiny", "--against", "rtn:4", HF_HUB_OFFLINE="1"),
            "acme/tiny is not in the hub cache and cannot be downloaded (HF_HUB_OFFLINE is set)")  # fmt: skip


def test_a_cut_connection_is_resumed(hub, make_model, tmp_path, call):
    """The client keeps whole pieces of 10 MB: what came before the cut is not fetched again."""
    large = tiny_files.write_folder(make_model("llama", vocab_size=100_000), tmp_path / "large")
    assert (large / "model.safetensors").stat().st_size > 24e6
    commit = hub.repos.setdefault("acme/large", loopback_hub.Repo()).push(large)
    hub.cut_after = 15_000_000
    code, out, err = call("acme/large", code=PRINT)
    assert code == 0 and out.strip() == commit, err
    first, second = (line for line in hub.of("model.safetensors") if line.startswith("GET"))
    assert "bytes" not in first and 10_000_000 <= int(re.search(r"bytes=(\d+)-", second)[1]) <= 15_000_000


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("acme/closed", "", ["acme/closed is gated: accept its licence on the hub and set HF_TOKEN"]),
        ("acme/hidden", "", ["unknown model 'acme/hidden'", "private without HF_TOKEN"]),
        ("acme/nothing", "", ["unknown model 'acme/nothing'", "not on the hub"]),
        ("acme/tiny", "v9", ["acme/tiny has no revision 'v9'"]),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, tiny, folder, call, name, revision, words):
    hub.repos["acme/closed"] = loopback_hub.Repo(gated=True)
    hub.repos["acme/hidden"] = loopback_hub.Repo(private=True)
    for repo in ("acme/closed", "acme/hidden"):
        hub.repos[repo].push(folder)
    options = ["--revision", revision] if revision else []
    refused(call("run", "05", "--profile", "smoke", "--model", name, *options), *words)


def test_an_unsupported_model_is_refused_before_its_weights_are_fetched(hub, tmp_path, call):
    from transformers import AutoConfig

    AutoConfig.for_model("mamba", hidden_size=32, num_hidden_layers=1, vocab_size=32).save_pretrained(tmp_path / "m")
    repo = hub.repos["acme/other"] = loopback_hub.Repo()
    repo.push(tmp_path / "m", **{"model.safetensors": b"0" * 1000})
    refused(call("run", "05", "--profile", "smoke", "--model", "acme/other"), "MambaForCausalLM is not supported")
    assert fetched(hub, "model.safetensors") == 0


def test_weights_in_several_files(hub, make_model, tmp_path, call):
    make_model("llama").save_pretrained(tmp_path / "m", max_shard_size="20KB")
    tiny_files.tokenizer().save_pretrained(tmp_path / "m")
    shards = sorted(file.name for file in (tmp_path / "m").glob("*.safetensors"))
    assert len(shards) > 2
    repo = hub.repos["acme/shards"] = loopback_hub.Repo()
    commit = repo.push(tmp_path / "m")
    code, out, err = call("acme/shards", code=PRINT)
    assert code == 0 and out.strip() == commit, err
    assert all(fetched(hub, shard) == 1 for shard in shards)


def test_a_branch_that_moved_is_followed_and_a_commit_is_kept(hub, tiny, make_model, tmp_path, call):
    first = tiny.branches["main"]
    assert call("acme/tiny", code=PRINT)[1].strip() == first
    second = tiny.push(tiny_files.write_folder(make_model("qwen2"), tmp_path / "other"))
    assert call("acme/tiny", code=PRINT)[1].strip() == second
    assert call("acme/tiny", first, code=PRINT)[1].strip() == first
    assert call("acme/tiny", code=PRINT, HF_HUB_OFFLINE="1")[1].strip() == second


def test_a_run_of_a_hub_model_end_to_end(hub, tiny, call, tmp_path):
    words = (
        "run",
        "06",
        "--model",
        "acme/tiny",
        "--profile",
        "smoke",
        "--device",
        "cpu",
        "-p",
        "limit=2",
        "-p",
        "layer=1",
    )
    code, out, err = call(*words)
    assert code == 0, err
    from prunelib.files import read_json

    manifest = read_json(tmp_path / out.strip().splitlines()[-1] / "manifest.json")
    assert manifest["model"]["name"] == "acme/tiny" and manifest["model"]["revision"] == tiny.branches["main"]
    assert call(*words, HF_HUB_OFFLINE="1")[0] == 0
