"""``prunelib compress`` as a user meets it."""

import json
import subprocess
import sys

import pytest
import tiny_files
import torch
from test_cli import prunelib, refused
from transformers import AutoConfig, AutoModelForCausalLM

from prunelib import cli


@pytest.fixture
def folder(tmp_path, make_model):
    """A working directory with the model folder ``tiny``."""
    tiny_files.write_folder(make_model("llama"), tmp_path / "tiny")
    return tmp_path


def call(capsys, folder, monkeypatch, *arguments):
    """The command in this process: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)
    capsys.readouterr()
    code = cli.main(["compress", "--model", "tiny", "--device", "cpu", "--sequences", "3", "--length", "8", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(4, 20)[None]).logits


def test_a_folder_that_transformers_loads(folder):
    """In a process of its own: result on stdout, silence on stderr, a whole folder."""
    done = prunelib(
        "compress",
        "--model",
        "tiny",
        "--spec",
        "wanda:2:4",
        "--out",
        "new/w24",
        "--length",
        "16",
        "--seed",
        "3",
        cwd=folder,
    )
    expected = "new/w24\nWanda 2:4 of tiny: 28 matrices, 50.0% zeros, 9.00 bits a block weight\n"
    assert done == (0, expected, "")
    assert not torch.equal(logits(folder / "new" / "w24"), logits(folder / "tiny"))
    manifest = json.loads((folder / "new" / "w24" / "prunelib.json").read_text())
    assert manifest["source"]["name"] == "tiny" and manifest["spec"] == "wanda:2:4"
    calibration = manifest["calibration"]
    assert (calibration["source"], calibration["seed"]) == ("self", 3)
    assert (calibration["sequences"], calibration["length"]) == (32, 16)
    assert manifest["packages"]["torch"] and manifest["code"]["digest"]
    assert [p.name for p in (folder / "new").iterdir()] == ["w24"]


@pytest.mark.parametrize(("spec", "said"), [
    ("sites:mlp:1+temperature", "Drop mlp:1 + temperature of tiny: 1 vector, without mlp:1, "),
    ("sites:mlp:1+linear", "Drop mlp:1 + linear map of tiny: 1 matrices, 0.0% zeros, without mlp:1, "),
    ("magnitude:0.5+full:1", "Magnitude 50% + fine-tuning 1 of tiny: 28 matrices, 50.0% zeros, 9.00 bits"),
])  # fmt: skip
def test_repaired(spec, said, capsys, folder, monkeypatch):
    """A repaired checkpoint is as good a start for `prunelib run --model DIR` as any."""
    code, out, err = call(capsys, folder, monkeypatch, "--spec", spec, "--out", "out")
    assert code == 0 and err == "" and out.startswith(f"out\n{said}")
    import prunelib as package

    with torch.no_grad():
        loaded = package.load(str(folder / "out"), device="cpu").model(input_ids=torch.arange(4, 20)[None]).logits
    assert torch.equal(loaded, logits(folder / "out")) and not torch.equal(loaded, logits(folder / "tiny"))


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("sites:attn:0+block:2", "Drop attn:0, block:2 of tiny: without attn:0, block:2, "),
        ("drop:joint:2:iter", "Drop-2AM iter of tiny: without "),
        ("drop:angular:2", "Drop-2B angular of tiny: without block:"),
        ("gptq:4:g8:act", "GPTQ-4 g8 act of tiny: 28 matrices, "),
        ("magnitude:0.25", "Magnitude 25% of tiny: 28 matrices, 25.0% zeros, 13.00 bits"),
    ],
)
def test_specs(spec, line, capsys, folder, monkeypatch):
    code, out, err = call(capsys, folder, monkeypatch, "--spec", spec, "--out", "out")
    assert code == 0 and err == "" and out.startswith(f"out\n{line}") and out.count("\n") == 2
    manifest = json.loads((folder / "out" / "prunelib.json").read_text())
    assert manifest["spec"] == spec and bool(manifest["drop"]) == spec.startswith(("drop", "sites"))
    assert not torch.equal(logits(folder / "out"), logits(folder / "tiny"))


def test_calibration_from_a_file_and_seeds(capsys, folder, monkeypatch):
    (folder / "texts.txt").write_text(" ".join("abcdefghijklmnopqrstuvwxyz" * 20))
    hashes = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        code, _, err = call(
            capsys,
            folder,
            monkeypatch,
            "--spec",
            "wanda:0.5",
            "--out",
            name,
            "--calibration",
            "texts.txt",
            "--seed",
            seed,
        )
        manifest = json.loads((folder / name / "prunelib.json").read_text())
        assert code == 0 and err == "" and manifest["calibration"]["source"] == "texts.txt"
        hashes.append((manifest["calibration"]["ids_sha256"], manifest["zero_mask_sha256"]))
    assert hashes[0] == hashes[1] and hashes[0][0] != hashes[2][0]


def test_half_precision(capsys, folder, monkeypatch):
    code, _, _ = call(capsys, folder, monkeypatch, "--spec", "rtn:4:g8", "--out", "out", "--dtype", "bfloat16")
    assert code == 0 and json.loads((folder / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--spec", "wandaa:0.5"], "did you mean 'wanda'"),
        (["--spec", "drop:atn:8"], "did you mean 'attn'"),
        (["--spec", "wanda:5:4"], "5:4 keeps 5 of every 4"),
        (["--spec", "rtn:0"], "bits must be 2 to 8"),
        (["--spec", "rtn:4:g0"], "a group must hold at least 1"),
        (["--spec", "dense"], "nothing to compress"),
        (["--spec", "wanda:0"], "wanda:0 leaves every weight of tiny as it is"),
        (["--spec", "drop:attn:0"], "drop:attn:0 leaves every weight of tiny as it is"),
        (["--spec", "drop:attn:5"], "cannot drop 5 attn sites: the model has 4 layers"),
        (["--spec", "sites:attn:9"], "there is no attn:9 to drop"),
        (["--spec", "magnitude:2:5"], "needs rows that are a multiple of 5"),
        (["--spec", "wanda:0.5", "--out", "tiny"], "tiny exists and is not empty"),
        (["--spec", "wanda:0.5", "--out", "tiny/config.json"], "config.json is a file"),
        (["--spec", "wanda:0.5", "--out", "tiny/config.json/x"], "config.json is a file"),
        (["--spec", "wanda:0.5", "--sequences", "0"], "calibration needs n ≥ 1"),
        (["--spec", "wanda:0.5", "--sequences", "many"], "sequences must be a whole number, got 'many'"),
        (["--spec", "wanda:0.5", "--length", "1.5"], "length must be a whole number"),
        (["--spec", "wanda:0.5", "--length", "65"], "needs 65 positions, tiny has 64"),
        (["--spec", "wanda:0.5", "--seed", "x"], "seed must be a whole number"),
        (["--spec", "wanda:0.5", "--calibration", "no.txt"], "cannot read no.txt"),
        (["--spec", "wanda:0.5", "--calibration", "slef"], "must end in .txt or .jsonl"),
        (["--spec", "wanda:0.5", "--dtype", "flot32"], "did you mean 'float32'"),
        (["--spec", "wanda:0.5", "--device", "gpu"], "device 'gpu' is not available"),
        (["--spec", "wanda:0.5", "--revision", "main"], "tiny takes no revision"),
        (["--spec", "wanda:0.5", "--model", "smollm2-135m-instrct"], "did you mean 'smollm2-135m-instruct'"),
        (["--spec", "wanda:0.5", "--model", "./nothing"], "no such model folder"),
        (["--spec", "wanda:0.5", "--model", "nothing.gguf"], "no such model folder or file: nothing.gguf"),
        (["--spec", "wanda:0.5", "--model", "all-minilm-l6-v2"], "is an encoder, not a causal language model"),
        (["--spec"], "requires an argument"),
        (["--sepc", "wanda:0.5"], "did you mean '--spec'"),
        (["--spec", "wanda:0.5", "--sequnces", "3"], "did you mean '--sequences'"),
        (["--spec", "wanda:0.5", "--seq", "3"], "unknown argument --seq"),
        ([], "--spec"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments, message, capsys, folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = [] if "--out" in arguments or arguments == ["--spec"] else ["--out", "out"]
    assert message in refused(call(capsys, folder, monkeypatch, *out, *arguments))
    assert [p.name for p in folder.iterdir()] == ["tiny"]


def test_gguf_files(capsys, folder, monkeypatch):
    monkeypatch.setenv("PRUNELIB_CACHE", str(folder / "cache"))
    tiny_files.write_gguf(folder / "small.gguf")
    (folder / "broken.gguf").write_bytes(b"GGUF and then nothing")
    code, out, err = call(capsys, folder, monkeypatch, "--model", "small.gguf", "--spec", "wanda:2:4", "--out", "out")
    assert code == 0 and out.startswith("out\nWanda 2:4 of small.gguf: 14 matrices") and "converting" in err
    assert "quantization_config" not in json.loads((folder / "out" / "config.json").read_text())
    assert logits(folder / "out").isfinite().all()
    code, out, err = call(capsys, folder, monkeypatch, "--model", "broken.gguf", "--spec", "wanda:2:4", "--out", "new")
    assert code == 2 and out == "" and "cannot read" in err.splitlines()[-1] and not (folder / "new").exists()


def test_a_folder_is_needed(capsys, folder, monkeypatch):
    assert "--out" in refused(call(capsys, folder, monkeypatch, "--spec", "wanda:0.5"))


def test_a_bad_specification_is_found_before_anything_is_loaded(folder):
    """Typing errors are answered at once: torch takes seconds to import."""
    code = "import sys; from prunelib import cli; print(cli.main(sys.argv[1:]), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "compress", "--model", "tiny", "--spec", "wandaa:0.5", "--out", "x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60)
    assert done.stdout == "2 False\n" and "did you mean 'wanda'" in done.stderr


def test_a_hybrid_is_refused_by_the_true_reason(capsys, folder, monkeypatch):
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 32, "num_experts": 2, "attn_layer_period": 2,
             "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 2, "use_mamba_kernels": False}  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("jamba", **small))
    tiny_files.write_folder(model, folder / "hybrid")
    done = call(capsys, folder, monkeypatch, "--model", "hybrid", "--spec", "magnitude:0.5", "--out", "out")
    line = refused(done)
    assert "JambaForCausalLM is not supported: missing a row for model type 'jamba'" in line
    assert not (folder / "out").exists()


def test_a_checkpoint_with_dropped_sublayers_is_not_compressed_again(capsys, folder, monkeypatch):
    assert call(capsys, folder, monkeypatch, "--spec", "sites:attn:1", "--out", "first")[0] == 0
    for spec in ("wanda:0.5", "rtn:4", "drop:attn:1"):
        done = call(capsys, folder, monkeypatch, "--model", "first", "--spec", spec, "--out", "second")
        assert "first already has dropped sublayers (attn:1)" in refused(done)
    assert not (folder / "second").exists()


def test_an_interruption_says_that_nothing_was_written(capsys, folder, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("prunelib.methods.save.cachefiles.write_marker", stop)
    code, out, err = call(capsys, folder, monkeypatch, "--spec", "rtn:4", "--out", "out")
    assert code == 130 and out == "" and err == "prunelib: interrupted; nothing was written to out\n"
    assert [p.name for p in folder.iterdir()] == ["tiny"]


def test_progress_only_on_a_terminal(capsys, folder, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, out, err = call(capsys, folder, monkeypatch, "--spec", "wanda:0.5", "--out", "out")
    assert "Wanda 50%: 4/4" in err and err.endswith("\r\033[K") and out.startswith("out\n")


def test_help_teaches_by_example(capsys):
    assert cli.main(["compress", "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text and "prunelib compress --spec wanda:2:4 --out" in text
    for word in (
        "magnitude:P",
        "gptq:B",
        "drop:[kl|",
        "drop:kl:mlp:8:once",
        "sites:attn:3+mlp:7",
        "from_pretrained",
        "prunelib.json",
    ):
        assert word in text
    assert max(map(len, text.split("specifications:")[1].splitlines())) <= 120
    assert cli.main(["--help"]) == 0
    assert "prunelib compress --spec wanda:2:4 --out DIR" in capsys.readouterr().out


def test_every_example_of_the_help_parses():
    from prunelib.methods import parse

    examples = [line.split() for line in cli.COMPRESS_EPILOG.splitlines() if line.startswith("  prunelib compress")]
    assert len(examples) >= 3
    for words in examples:
        given = cli.commands.commands["compress"].make_context("compress", words[2:]).params
        assert given["plan"] == "plan.json" if given["spec"] is None else parse(given["spec"]).spec == given["spec"]


@pytest.mark.real_model
def test_the_default_model_without_two_attentions(default_lm, capsys, tmp_path, monkeypatch):
    from prunelib.methods import parse
    from prunelib.models import hooks

    monkeypatch.chdir(tmp_path)
    code = cli.main(
        ["compress", "--spec", "drop:attn:2", "--out", "out", "--device", "cpu", "--sequences", "2", "--length", "32"]
    )
    assert code == 0 and capsys.readouterr().out.startswith("out\nDrop-2A of smollm2-135m-instruct: without attn:")
    manifest = json.loads((tmp_path / "out" / "prunelib.json").read_text())
    assert manifest["fingerprints"]["dense"] == default_lm.fingerprint
    ids = torch.arange(1000, 1016)[None]
    with torch.no_grad(), hooks.dropped(default_lm, parse("sites:" + "+".join(manifest["drop"]))):
        expected = default_lm.model(input_ids=ids).logits
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()(input_ids=ids).logits
    assert torch.equal(found, expected)
