"""The command line as a user meets it: exit codes, one-line errors, help that teaches."""

import os
import re
import subprocess
import sys

import pytest

from prunelib import cli


def prunelib(*arguments, cwd=None, **env):
    """Run the command in a process of its own; returns (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "prunelib.cli", *arguments],
        capture_output=True, text=True, cwd=cwd, timeout=300, env=os.environ | env,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def refused(done):
    """The one line of a refusal: exit code 2, nothing on stdout, no traceback."""
    code, out, err = done
    assert code == 2 and out == "", (code, out, err)
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("prunelib: "), err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--model", "smollm2-135m-instrct"], "did you mean 'smollm2-135m-instruct'"),
        (["run", "--model", "./no/such/folder"], "no such model"),
        (["run", "--profile", "quik"], "did you mean 'quick'"),
        (["run", "09-nothing"], "unknown notebook '09-nothing'"),
        (["run", "05", "-p", "drop_cuont=3"], "did you mean 'drop_count'"),
        (["run", "05", "-p", "drop_count=many"], "must be a whole number"),
        (["run", "--seed", "x"], "must be a whole number"),
        (["run", "--seed", "-1"], "seed must be a whole number from 0 to 4294967295, got -1"),
        (["run", "--seed", str(2**64)], "seed must be a whole number from 0 to 4294967295"),
        (["run", "--seed", "9" * 5000], "must be a whole number, got '9999"),
        (["compress", "--spec", "wanda:2:4", "--out", "x", "--seed", "-1"], "seed must be"),
        (["run", "06", "-p", "temperature=nan"], "temperature must be a number, got 'nan'"),
        (["run", "--out", "x" * 300], "File name too long"),
        (["run", "--model", "m" * 5000], "m" * 5000),
        (["run", "--model", "~nobody-of-that-name/m"], "begins with ~"),
        (["it's"], "unknown command 'it's'"),
        (["%s"], "unknown command '%s'"),
        (["run", "-p", "%s=%d"], "unknown parameter '%s'"),
        (["run", "--out", os.fsdecode(b"\xff")], "not UTF-8"),
        (["whence", "x" * 300 + ".svg"], "File name too long"),
        # everything is checked before anything runs
        (["run", "-p", "specs=wanda:0.5"], "08-dropping-layers takes drop, sites; 'wanda:0.5' is for 07-methods, 09-"),
        (["run", "07", "09", "-p", "specs=drop:attn:8:iter"], "takes magnitude, wanda, sparsegpt, ria, owl; 'drop:a"),
        (["run", "-p", "specs=wonda:0.5"], "did you mean 'wanda'"),
        (["run", "-p", "temperature=-1"], "temperature must be above 0, got -1"),
        (["run", "-p", "temperatures=1,-2"], "temperature must be above 0, got -2"),
        (["run", "-p", "limit=-1"], "limit must be 0 or a number of prompts, got -1"),
        (["run", "-p", "prompts=nothing.jsonl"], "nothing.jsonl"),
        (["run", "-p", "drop_count=-1"], "drop_count must be at least 0, got -1"),
        (["run", "-p", "benchmark_items=-1"], "benchmark_items must be at least 0, got -1"),
        (["run", "-p", "pooling=max"], "unknown pooling 'max'"),
        (["run", "-p", "encoder=all-minilm-l6"], "did you mean 'all-minilm-l6-v2'"),
        (["run", "-p", "encoder=smollm2-135m-instruct"], "is a language model; as an embedder"),
        (["run", "-p", "encoder=./none"], "no such encoder folder: ./none"),
        (["run", "-p", "encoder=a b"], "'a b' is no name of an encoder"),
        (["run", "-p", "corpus=./none"], "no such corpus folder: ./none"),
        (["run", "--sed", "1"], "unknown argument --sed"),
        (["runn"], "did you mean 'run'"),
        ([], "missing command"),
        (["cite", "fig-nothing"], "run `prunelib run` first"),
        (["whence", "no-such-file.svg"], "no-such-file.svg"),
        (["book", "--run", "no/such/run"], "no/such/run"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments, message, tmp_path):
    assert message in refused(prunelib(*arguments, cwd=tmp_path, HF_HUB_OFFLINE="1"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["05", "-p", "drop_count=31"], "cannot drop 31"),
        (["06", "-p", "temperature=0"], "temperature must be above 0, got 0"),
        (["06", "-p", "temperatures=1,-2"], "temperature must be above 0, got -2"),
        (["06", "-p", "layer=30"], "layer must be -1 or 0 to 29"),
        (["10", "-p", "specs=sites:attn:3+mlp:30"], "there is no mlp:30 to drop: the model has 30 layers"),
        (["08", "-p", "specs=drop:angular:31"], "cannot drop 31 block sites"),
        (["06", "-p", "prompts=nothing.jsonl"], "nothing.jsonl"),
    ],
)
def test_a_bad_value_for_this_model_is_one_line_before_anything_runs(arguments, message, tmp_path, default_lm):
    done = prunelib("run", *arguments, "--profile", "smoke", cwd=tmp_path)
    assert message in refused(done)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    done = prunelib("run", "05", "--profile", "smoke", "--out", "runs/x", cwd=tmp_path)
    assert "cannot write to runs/x" in refused(done)


def test_a_folder_of_the_user_s_is_refused_with_fresh_too(tmp_path):
    mine = tmp_path / "notebooks" / "05-layerwise.ipynb"
    mine.parent.mkdir()
    mine.write_text("mine")
    for more in ([], ["--fresh"]):
        message = refused(prunelib("run", "05", "--out", ".", *more, cwd=tmp_path))
        assert message == "prunelib: . is not empty and no run folder of prunelib; name another one with --out"
    assert mine.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["notebooks"]


def test_a_reader_that_goes_away_ends_quietly(tmp_path):
    command = [sys.executable, "-m", "prunelib.cli", "run", "--dry-run"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_dry_run_names_notebooks_and_parameters_and_their_cost_and_writes_nothing(tmp_path):
    code, out, err = prunelib("run", "05", "--dry-run", "-p", "limit=3", cwd=tmp_path)
    assert (code, err) == (0, "") and "limit=3" in out and "05-layerwise: model='smollm2-135m-instruct'" in out
    assert re.search(r"^05-layerwise +[\d.]+ (s|min) +[\d.]+ (MB|GB) +\d+ MB +[\d.]+$", out, re.M)
    assert list(tmp_path.iterdir()) == []


def test_help_teaches_by_example(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text and all(c in text for c in ("run", "book", "cite", "whence", "models", "doctor"))
    assert cli.main(["run", "--help"]) == 0
    assert re.search(r"--dry-run\s+print what would run", capsys.readouterr().out)


def test_models_and_doctor_answer(tmp_path):
    code, out, _ = prunelib("models")
    assert code == 0 and "smollm2-135m-instruct" in out and "Apache-2.0" in out
    code, out, _ = prunelib("doctor")
    assert code in (0, 1) and out.count("\n") >= 5
    assert code == 0 or "fix:" in out
