"""``prunelib select`` as a user meets it, and what ``prunelib compress`` makes of its plan."""

import json

import pytest
import tiny_files
import torch
from test_cli import prunelib, refused

from prunelib import cli
from prunelib.engine.text import calibration
from prunelib.measure.removal import Removals
from prunelib.models.load import load
from prunelib.models.sublayers import Site
from prunelib.runs import selection


@pytest.fixture
def folder(tmp_path, make_model):
    """A working directory with the model folder ``tiny``."""
    tiny_files.write_folder(make_model("llama"), tmp_path / "tiny")
    return tmp_path


def call(capsys, folder, monkeypatch, *arguments, command="select"):
    monkeypatch.chdir(folder)
    capsys.readouterr()
    small = ["--model", "tiny", "--device", "cpu", "--sequences", "3", "--length", "8"]
    code = cli.main([command, *small, *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_table_in_a_process_of_its_own(folder):
    """Result on stdout, silence on stderr, no file where none is asked for."""
    code, out, err = prunelib("select", "--model", "tiny", "--budget", "3", cwd=folder)
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[0] == "Drop-3AM kl of tiny, 8 × 48 tokens of self"
    assert lines[2].split()[:2] == ["step", "site"] and lines[2].endswith("nats, with all above gone")
    sites = [line.split()[1] for line in lines[3:6]]
    assert [line.split()[0] for line in lines[3:6]] == ["1", "2", "3"]
    assert lines[-1] == "sites:" + "+".join(sites) and len(lines) == 8
    assert [p.name for p in folder.iterdir()] == ["tiny"]


def test_each_step_drops_what_does_least(capsys, folder, monkeypatch):
    code, _, err = call(capsys, folder, monkeypatch, "--budget", "3", "--kinds", "mlp", "--out", "plan.json")
    plan = json.loads((folder / "plan.json").read_text())
    assert code == 0 and err == "" and plan["spec"] == "drop:kl:mlp:3" and len(plan["sites"]) == 3
    lm = load("tiny", device="cpu")
    tokens = calibration(lm, "self", 3, 8, 0)
    assert plan["calibration"]["ids_sha256"] == tokens.ids_hash and plan["source"]["name"] == "tiny"
    removals, gone = Removals(lm, tokens.ids), []
    for site in map(Site.parse, plan["sites"]):
        removals.rebase(gone)
        harm = {i: float(removals.without(Site("mlp", i))[:, 0].mean()) for i in range(4) if Site("mlp", i) not in gone}
        assert min(harm, key=harm.get) == site.layer
        assert plan["scores"][str(site)] == pytest.approx(harm[site.layer], rel=1e-6)
        gone.append(site)


def test_a_plan_begins_with_those_of_smaller_budgets(capsys, folder, monkeypatch):
    sites = {}
    for budget in ("8", "5", "1"):
        for criterion in ("kl", "tv", "varp", "random"):
            arguments = ("--budget", budget, "--criterion", criterion, "--out", "plan.json")
            assert call(capsys, folder, monkeypatch, *arguments)[0] == 0  # an older plan is replaced
            sites[criterion, budget] = json.loads((folder / "plan.json").read_text())["sites"]
    for criterion in ("kl", "tv", "varp", "random"):
        assert len(set(sites[criterion, "8"])) == 8
        for budget in ("5", "1"):
            assert sites[criterion, budget] == sites[criterion, "8"][: int(budget)]


@pytest.mark.parametrize(
    ("arguments", "spec", "said"),
    [
        (["--criterion", "cosine", "--once"], "drop:joint:2", "Drop-2AM of tiny"),
        (["--criterion", "cosine", "--kinds", "attn"], "drop:attn:2:iter", "Drop-2A iter of tiny"),
        (["--criterion", "tv", "--kinds", "block", "--once"], "drop:tv:block:2:once", "total variation, of it alone"),
        (["--kinds", "mlp, attn", "--criterion", "varp"], "drop:varp:attn+mlp:2", "variance of Δz under p, with all"),
        (["--criterion", "random", "--seed", "3"], "drop:random:attn+mlp:2:seed3", "random number"),
    ],
)
def test_other_criteria(arguments, spec, said, capsys, folder, monkeypatch):
    code, out, err = call(capsys, folder, monkeypatch, "--budget", "2", "--out", "plan.json", *arguments)
    plan = json.loads((folder / "plan.json").read_text())
    assert code == 0 and err == "" and said in out and plan["spec"] == spec
    assert (plan["calibration"] is None) == ("random" in spec)
    assert str(selection.read(folder / "plan.json").spec) == out.splitlines()[-1]


def test_compress_takes_a_plan(capsys, folder, monkeypatch):
    assert call(capsys, folder, monkeypatch, "--budget", "2", "--out", "plan.json")[0] == 0
    sites = json.loads((folder / "plan.json").read_text())["sites"]
    made = {}
    for name, arguments in (
        ("a", ["--plan", "plan.json"]),
        ("b", ["--spec", "sites:" + "+".join(sites)]),
        ("c", ["--spec", "drop:kl:attn+mlp:2"]),
    ):
        code, out, err = call(capsys, folder, monkeypatch, *arguments, "--out", name, command="compress")
        assert code == 0 and err == "" and out.startswith(name)
        made[name] = json.loads((folder / name / "prunelib.json").read_text())
    assert made["a"]["drop"] == made["b"]["drop"] == made["c"]["drop"] == sites
    assert made["a"]["fingerprints"] == made["b"]["fingerprints"] == made["c"]["fingerprints"]
    assert made["c"]["spec"] == "drop:kl:attn+mlp:2" and made["c"]["label"] == "Drop-2AM kl"
    assert set(sites) <= set(made["c"]["drop_scores"]) and made["a"]["drop_scores"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--criterion", "kll"], "did you mean 'kl'"),
        (["--kinds", "mpl"], "did you mean 'mlp'"),
        (["--kinds", "block,mlp"], "a block is both of its sublayers"),
        (["--budget", "0"], "budget must be at least 1 site"),
        (["--budget", "x"], "budget must be a whole number, got 'x'"),
        (["--budget", "9"], "cannot drop 9 attention and MLP sites: the model has 4 layers"),
        (["--kinds", "mlp", "--budget", "5"], "cannot drop 5 mlp sites"),
        (["--criterion", "random", "--kinds", "block", "--budget", "5"], "cannot drop 5 block sites"),
        (["--sequences", "0"], "calibration needs n ≥ 1"),
        (["--length", "65"], "needs 65 positions, tiny has 64"),
        (["--seed", "-1"], "seed must be"),
        (["--out", "tiny"], "cannot write tiny: it is a folder"),
        (["--out", "tiny/config.json"], 'no field "schema"'),
        (["--budgte", "3"], "did you mean '--budget'"),
        (["--model", "./nothing"], "no such model folder"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments, message, capsys, folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = (folder / "tiny" / "config.json").read_bytes()
    assert message in refused(call(capsys, folder, monkeypatch, "--budget", "2", *arguments))
    assert (folder / "tiny" / "config.json").read_bytes() == before and len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1}', 'no field "sites"'),
        ('{"schema": 1, "sites": []}', '"sites" is empty'),
        ('{"schema": 2, "sites": ["mlp:1"]}', "a plan of schema 2; this version reads 1"),
        ('{"schema": 1, "sites": ["mpl:1"]}', "did you mean 'mlp'"),
        ('{"schema": 1, "sites": ["mlp:1", "mlp:1"]}', "dropped twice"),
        ('{"schema": 1, "sites": ["mlp:7"]}', "there is no mlp:7 to drop"),
        ('["mlp:1"]', "needs an object"),
        ("{", "not JSON"),
    ],
)
def test_a_plan_that_is_none_is_one_line(text, message, capsys, folder, monkeypatch):
    (folder / "plan.json").write_text(text)
    done = call(capsys, folder, monkeypatch, "--plan", "plan.json", "--out", "x", command="compress")
    assert message in refused(done) and not (folder / "x").exists()


def test_compress_takes_one_of_spec_and_plan(capsys, folder, monkeypatch):
    for arguments in ([], ["--spec", "rtn:4", "--plan", "plan.json"]):
        done = call(capsys, folder, monkeypatch, *arguments, "--out", "x", command="compress")
        assert "one of --spec and --plan" in refused(done)
    done = call(capsys, folder, monkeypatch, "--plan", "none.json", "--out", "x", command="compress")
    assert "cannot read none.json" in refused(done)


def test_an_interrupted_selection_writes_nothing(capsys, folder, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(selection, "select", interrupted)
    code, out, err = call(capsys, folder, monkeypatch, "--out", "plan.json")
    assert code == 130 and out == "" and "nothing was written" in err and not (folder / "plan.json").exists()


def test_progress_counts_every_removal(tiny):
    lm, seen = tiny("llama"), []
    tokens = torch.randint(3, 97, (2, 8), generator=torch.Generator().manual_seed(0))
    from prunelib.methods import parse

    parse("drop:kl:attn+mlp:3").plan(lm, tokens, progress=lambda *counts: seen.append(counts))
    assert seen == [(i, 8 + 7 + 6) for i in range(1, 22)]


def test_help_teaches(capsys):
    assert cli.main(["select", "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text and "compress --plan plan.json" in text and "Theorem 3" in text
    assert max(map(len, text.splitlines())) <= 120


def test_every_example_of_the_help_parses():
    lines = [line.split() for line in cli.SELECT_EPILOG.splitlines() if line.startswith("  prunelib select")]
    assert len(lines) >= 4
    for words in lines:
        given = cli.commands.commands["select"].make_context("select", words[2:]).params
        numbers = {name: int(given[name]) for name in ("budget", "sequences", "length", "seed")}
        request = selection.Request(**{k: v for k, v in given.items() if k != "out"} | numbers)
        assert request.method.count == numbers["budget"]
