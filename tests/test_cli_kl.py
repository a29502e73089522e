"""``prunelib kl`` as a user meets it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tiny_files
import torch
from test_cli import prunelib, refused

from prunelib import cli
from prunelib.measure.token_summary import TITLES
from prunelib.models.load import load
from prunelib.runs import pair

TEXTS = ["a b hello c d world e f g h i j", "world k l m hello n o p q r s t u v w"]


@pytest.fixture
def folder(tmp_path, make_model):
    """A working directory with the model folders ``tiny`` and ``other`` and the file ``texts.jsonl``."""
    model = make_model("llama")
    tiny_files.write_folder(model, tmp_path / "tiny")
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
    tiny_files.write_folder(model, tmp_path / "other")
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return tmp_path


def call(capsys, folder, monkeypatch, *arguments):
    """The command in this process: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)
    capsys.readouterr()
    more = [] if "--text" in arguments else ["--text", "texts.jsonl"]
    small = ["--sequences", "3", "--length", "8"] if "--length" not in arguments else []
    code = cli.main(["kl", "--model", "tiny", "--device", "cpu", *small, *more, *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def numbers(out: str) -> dict[str, float]:
    return {row["name"]: row["value"] for row in json.loads(out)["statistics"]}


def plain(dense, pruned, texts=TEXTS) -> dict[str, float]:
    """By full softmax in float64 of whole texts: no cache, no chunk, textbook formulas."""
    kl, back, nll, dp = [], [], [], []
    for text in texts:
        ids = torch.tensor([dense.encode_one(text, chat=False)])
        with torch.no_grad():
            p, q = (lm.model(input_ids=ids).logits[0, :-1].double().softmax(-1) for lm in (dense, pruned))
        kl += (p * (p / q).log()).sum(-1).tolist()
        back += (q * (q / p).log()).sum(-1).tolist()
        here = ids[0, 1:, None]
        nll += [-torch.stack([p.gather(-1, here).log(), q.gather(-1, here).log()])]
        dp += (q - p).gather(-1, here)[:, 0].tolist()
    nll = torch.cat(nll, 1).mean((1, 2))
    return {
        "kl_dense_pruned_mean": np.mean(kl),
        "kl_dense_pruned_median": np.median(kl),
        "kl_dense_pruned_p99": np.percentile(kl, 99),
        "kl_dense_pruned_max": np.max(kl),
        "kl_pruned_dense_mean": np.mean(back),
        "dp_rms": np.mean(np.square(dp)) ** 0.5,
        "dp_p5": np.percentile(dp, 5),
        "perplexity_dense": float(nll[0].exp()),
        "perplexity_pruned": float(nll[1].exp()),
        "perplexity_ratio": float((nll[1] - nll[0]).exp()),
        "tokens": len(kl),
    }


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_two_texts_against_full_softmax(dtype, capsys, folder, monkeypatch):
    code, out, err = call(capsys, folder, monkeypatch, "--against", "other", "--dtype", dtype, "--json")
    assert code == 0 and err == ""
    expected = plain(*(load(name, dtype=dtype, device="cpu") for name in ("tiny", "other")))
    found = numbers(out)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_a_specification_is_what_compress_saves(capsys, folder, monkeypatch):
    monkeypatch.chdir(folder)
    made = ["compress", "--model", "tiny", "--spec", "wanda:0.5", "--out", "saved", "--device", "cpu", "--seed", "3"]
    assert cli.main([*made, "--sequences", "4", "--length", "16"]) == 0
    options = ["--seed", "3", "--sequences", "4", "--length", "16", "--json"]
    code, out, err = call(capsys, folder, monkeypatch, "--against", "wanda:0.50", *options)
    assert code == 0 and err == ""
    _, saved, _ = call(capsys, folder, monkeypatch, "--against", "saved", *options)
    assert numbers(out) == pytest.approx(numbers(saved), rel=1e-6)
    about = json.loads(out)["pruned"]
    assert about["spec"] == "wanda:0.5" and about["name"] == "Wanda 50% of tiny" and about["bits_per_weight"] == 9
    manifest = json.loads((folder / "saved" / "prunelib.json").read_text())
    assert about["calibration"]["ids_sha256"] == manifest["calibration"]["ids_sha256"]


@pytest.mark.parametrize("against", ["tiny", "dense"])
def test_a_model_against_itself(against, capsys, folder, monkeypatch):
    code, out, _ = call(capsys, folder, monkeypatch, "--against", against, "--json")
    found = numbers(out)
    assert code == 0 and found["same_top"] == found["top_agreement_5"] == found["perplexity_ratio"] == 1
    zero = [name for name in found if name.startswith(("kl_", "dp_", "flips")) and not name.endswith("_p")]
    assert len(zero) > 20 and all(found[name] == 0 for name in zero)


@pytest.mark.parametrize("spec", ["drop:attn:1", "magnitude:0.5+drop:mlp:1", "rtn:4:g8", "sites:attn:0+block:2"])
def test_specs(spec, capsys, folder, monkeypatch):
    code, out, err = call(capsys, folder, monkeypatch, "--against", spec)
    assert code == 0 and err == "" and out.splitlines()[1].endswith(" of tiny")


def test_the_table(folder):
    """In a process of its own: every statistic on stdout, silence on stderr."""
    code, out, err = prunelib("kl", "--model", "tiny", "--against", "other", "--text", "texts.jsonl", cwd=folder)
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[:2] == ["dense   tiny", "pruned  other"]
    assert lines[2:4] == ["text    texts.jsonl: 2 texts, 2 pieces of at most 64 tokens", ""]
    assert len(lines) == 4 + len(TITLES) and all(any(line.startswith(t) for t in TITLES.values()) for line in lines[4:])
    assert lines[4].endswith("nats") and "–" in lines[4] and lines[-1].split() == ["clusters", "2"]
    assert max(map(len, lines)) <= 120


def test_json_says_what_was_compared(capsys, folder, monkeypatch):
    found = json.loads(call(capsys, folder, monkeypatch, "--against", "other", "--window", "5", "--json")[1])
    assert found["dense"]["fingerprint"] != found["pruned"]["fingerprint"]
    text = found["text"]
    assert (text["source"], text["texts"], text["pieces"], text["window"]) == ("texts.jsonl", 2, 6, 5)
    assert found["code"]["digest"] and found["packages"]["torch"]
    for row in found["statistics"]:
        assert list(row) == ["name", "value", "lo", "hi", "unit", "exact"]
        assert row["exact"] == (row["lo"] is None) and row["value"] is not None
        assert row["exact"] or row["lo"] <= row["value"] <= row["hi"]


def test_one_piece_has_no_interval(capsys, folder, monkeypatch):
    (folder / "one.txt").write_text(TEXTS[0])
    code, out, _ = call(capsys, folder, monkeypatch, "--against", "other", "--text", "one.txt")
    assert code == 0 and "(interval not defined)" in out.splitlines()[4] and "one.txt: 1 text, 1 piece of" in out
    code, out, _ = call(capsys, folder, monkeypatch, "--against", "other", "--text", "one.txt", "--json")
    rows = {row["name"]: row for row in json.loads(out)["statistics"]}
    assert rows["nll_difference_p"]["value"] is None and rows["kl_dense_pruned_mean"]["hi"] is None


def test_gguf_files(capsys, folder, monkeypatch):
    monkeypatch.setenv("PRUNELIB_CACHE", str(folder / "cache"))
    tiny_files.write_gguf(folder / "small.gguf")
    options = ["--model", "small.gguf", "--json", "--text", "texts.jsonl"]
    code, out, _ = call(capsys, folder, monkeypatch, "--against", "small.gguf", *options)
    assert code == 0 and numbers(out)["kl_dense_pruned_max"] == 0
    code, out, _ = call(capsys, folder, monkeypatch, "--against", "magnitude:0.5", *options)
    assert code == 0 and numbers(out)["kl_dense_pruned_mean"] > 0
    line = refused(call(capsys, folder, monkeypatch, "--against", "small.gguf"))
    assert "tiny and small.gguf have different vocabularies (32 and 33 tokens): 31 ids differ" in line


def test_an_interruption_ends_in_one_line(capsys, folder, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("prunelib.measure.next_token.statistics", stop)
    code, out, err = call(capsys, folder, monkeypatch, "--against", "other")
    assert (code, out, err) == (130, "", "prunelib: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "wandaa:0.5"], "unknown method 'wandaa' (did you mean 'wanda'?)"),
        (["--against", "wanda"], "wanda needs a setting, such as wanda:0.5"),
        (["--against", "wanda:2"], "sparsity must be at least 0 and below 1, got 2"),
        (["--against", "wanda:0.5+drop:atn:8"], "did you mean 'attn'"),
        (["--against", "drop:attn:5"], "cannot drop 5 attn sites"),
        (["--against", "smollm2-135m-instrct"], "did you mean 'smollm2-135m-instruct'"),
        (["--against", "./nothing"], "no such model folder"),
        (["--against", "nothing.gguf"], "no such model folder or file: nothing.gguf"),
        (["--against", "all-minilm-l6-v2"], "is an encoder, not a causal language model"),
        (["--against", ""], "there is nothing to compare with"),
        (["--against", "other", "--text", "none.txt"], "cannot read none.txt"),
        (["--against", "other", "--text", "tiny"], "tiny must end in .txt or .jsonl"),
        (["--against", "other", "--window", "1"], "window must be at least 2 tokens, got 1"),
        (["--against", "other", "--window", "0"], "window must be at least 2 tokens, got 0"),
        (["--against", "other", "--window", "many"], "window must be a whole number, got 'many'"),
        (["--against", "other", "--window", "65"], "a window needs 65 positions, other has 64"),
        (["--against", "other", "--seed", "-1"], "seed must be"),
        (["--against", "other", "--dtype", "flot32"], "did you mean 'float32'"),
        (["--against", "wanda:0.5", "--length", "65"], "needs 65 positions, tiny has 64"),
        (["--against"], "requires an argument"),
        (["--agianst", "other"], "did you mean '--against'"),
        ([], "--against"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments, message, capsys, folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert message in refused(call(capsys, folder, monkeypatch, *arguments))


def test_another_vocabulary_is_refused_by_what_differs(capsys, folder, monkeypatch, make_model):
    tiny_files.write_folder(make_model("llama", vocab_size=99), folder / "wide")
    line = refused(call(capsys, folder, monkeypatch, "--against", "wide"))
    assert "tiny has 97 logits a token and wide has 99" in line
    monkeypatch.setattr(tiny_files, "WORDS", [*tiny_files.WORDS[:-2], "world", "hello", "moon"])
    tiny_files.write_folder(make_model("llama"), folder / "swapped")
    line = refused(call(capsys, folder, monkeypatch, "--against", "swapped"))
    assert "tiny and swapped have different vocabularies (32 and 33 tokens): 3 ids differ" in line
    assert "30 is 'hello' and 'world', 31 is 'world' and 'hello', 32 is no token and 'moon'" in line


def test_a_dropped_checkpoint_can_be_compared_but_not_compressed_again(capsys, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli.main(["compress", "--model", "tiny", "--spec", "sites:attn:1", "--out", "less", "--device", "cpu"]) == 0
    code, out, _ = call(capsys, folder, monkeypatch, "--against", "less", "--json")
    _, same, _ = call(capsys, folder, monkeypatch, "--against", "sites:attn:1", "--json")
    assert code == 0 and numbers(out) == pytest.approx(numbers(same), rel=1e-6)
    done = call(capsys, folder, monkeypatch, "--model", "less", "--against", "wanda:0.5")
    assert "less already has dropped sublayers (attn:1)" in refused(done)


@pytest.mark.parametrize(
    ("against", "spec"),
    [("tiny", None), ("gpt2", None), ("org/model", None), ("smollm2-135m-instruct", None), ("dense", "dense"),
     ("wanda:0.50", "wanda:0.5"), ("drop:mlp:4+wanda:2:4", "drop:mlp:4+wanda:2:4")],
)  # fmt: skip
def test_a_model_or_a_specification(against, spec, folder, monkeypatch):
    monkeypatch.chdir(folder)
    method = pair.method_of(against)
    assert (method and method.spec) == spec


def test_a_folder_named_like_a_specification_is_a_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "tiny").rename("wanda:0.5")
    assert pair.method_of("wanda:0.5") is None


def test_typing_errors_are_answered_before_torch_is_imported(folder):
    code = "import sys; from prunelib import cli; print(cli.main(sys.argv[1:]), 'torch' in sys.modules)"
    for wrong in (["--against", "wandaa:0.5"], ["--against", "wanda:0.5", "--text", "none.txt"]):
        command = [sys.executable, "-c", code, "kl", "--model", "tiny", *wrong]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60)
        assert done.stdout == "2 False\n", done.stderr


def test_progress_only_on_a_terminal(capsys, folder, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, out, err = call(capsys, folder, monkeypatch, "--against", "wanda:0.5")
    assert "Wanda 50%: 4/4" in err and "Wanda 50% of tiny: 25 of 25 tokens" in err and err.endswith("\r\033[K")
    assert out.startswith("dense   tiny\n")


def test_help_teaches_by_example(capsys):
    assert cli.main(["kl", "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text and "prunelib kl --against wanda:2:4" in text
    for word in ("KL(dense ‖ pruned)", "Δp", "flips", "--window", "clusters", "prunelib compress --help"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 120
    assert cli.main(["--help"]) == 0
    assert "prunelib kl --against wanda:2:4" in capsys.readouterr().out


def test_every_example_of_the_help_parses():
    examples = [line.split(">")[0].split() for line in cli.KL_EPILOG.splitlines() if line.startswith("  prunelib kl")]
    assert len(examples) >= 3
    for words in examples:
        given = cli.commands.commands["kl"].make_context("kl", words[2:]).params
        method = pair.method_of(given["against"])
        assert method is None or method.spec == given["against"]


@pytest.mark.real_model
def test_the_default_model_against_full_softmax(default_lm, capsys, tmp_path, monkeypatch):
    """Two passages in float64: the dropped model's own forward pass and a softmax over 49,152 tokens."""
    from prunelib.methods import parse
    from prunelib.models import hooks

    texts = ["Wool traps still air, and still air carries heat very slowly.", "Every September they make dumplings."]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    spec, options = "sites:attn:28+mlp:27", ["--text", "two.jsonl", "--device", "cpu", "--dtype", "float64", "--json"]
    assert cli.main(["kl", "--against", spec, *options]) == 0
    found = numbers(capsys.readouterr().out)
    dense = load(default_lm.name, dtype="float64", device="cpu")

    pruned = load(default_lm.name, dtype="float64", device="cpu")
    with hooks.dropped(pruned, parse(spec)):
        expected = plain(dense, pruned, texts)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
