"""The bridge to lm-evaluation-harness: its scores, its prompts, our errors."""

import json

import numpy as np
import pytest

from prunelib import hooks
from prunelib.compress.drop import Site
from prunelib.errors import PrunelibError
from prunelib.lm import LM
from prunelib.tasks import harness

pytest.importorskip("lm_eval")

CHOICES = {"label": list("ABCDE"), "text": ["a bank", "a river", "the moon", "a shoe", "a song"]}
ROWS = {
    "commonsense_qa_validation.jsonl": [
        {"question": question, "choices": CHOICES, "answerKey": key}
        for question, key in (("Where is money kept?", "A"), ("What do fish swim in?", "B"), ("What is sung?", "E"))
    ],
    "gsm8k_test.jsonl": [
        {"question": f"Ann has {n} apples and gets {n + 1} more. How many has she?",
         "answer": f"She has {n}+{n + 1}=<<{n}+{n + 1}={2 * n + 1}>>{2 * n + 1}.\n#### {2 * n + 1}"}
        for n in range(2, 8)
    ],
    "multiarith.jsonl": [{"question": f"Tom had {n} pens and lost 2. How many are left?", "final_ans": f"{n - 2}.0"}
                         for n in range(4, 7)],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, rows in ROWS.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def stock(lm, task, folder, shots):
    """The same definition scored by lm-eval alone."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with harness.definition(task, shots, folder) as asked:
        model = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=2)
        return harness._tidy(simple_evaluate(model, tasks=[asked], num_fewshot=shots, bootstrap_iters=0,
                                             task_manager=harness._manager()))  # fmt: skip


@pytest.mark.parametrize(
    "task, shots, plan",
    [("commonsense_qa", 0, ()), ("commonsense_qa", 1, (Site("mlp", 9),)), ("gsm8k", 2, ()),
     ("multiarith", 0, (Site("attn", 20),))],
)  # fmt: skip
def test_scores_and_texts_are_lm_evals_own(default_lm, folder, task, shots, plan):
    with hooks.dropped(default_lm, plan):
        ours = harness.evaluate(default_lm, task, shots=shots, folder=folder)
        theirs = stock(default_lm, task, folder, shots)
    assert ours.scores.equals(theirs.scores) and len(ours.scores) and ours.scores["n"].min() >= 2
    for name in ("doc_id", "filter", "prompt", "target", "metrics"):
        assert ours.samples[name].tolist() == theirs.samples[name].tolist()
    for mine, other in zip(ours.samples["response"], theirs.samples["response"], strict=True):
        if task == "commonsense_qa":
            found, wanted = (np.array(json.loads(text), dtype=float)[:, 0, 0] for text in (mine, other))
            np.testing.assert_allclose(found, wanted, atol=1e-4)  # float32, other batches
        else:
            assert mine == other


def test_a_score_has_its_interval_and_its_samples(default_lm, folder):
    found = harness.evaluate(default_lm, "commonsense_qa", folder=folder, limit=2)
    row = found.scores.iloc[0]
    assert (row["task"], row["metric"], row["n"], row["shots"]) == ("commonsense_qa", "acc", 2, 0)
    assert row["lo"] <= row["value"] <= row["hi"]
    assert found.samples["prompt"].iloc[0].startswith("Question: Where is money kept?")
    assert json.loads(found.samples["metrics"].iloc[0]) in ({"acc": 0.0}, {"acc": 1.0})


def test_the_folder_of_the_environment_is_used(default_lm, folder, monkeypatch, capfd):
    monkeypatch.setenv(harness.FOLDER, str(folder))
    assert len(harness.evaluate(default_lm, "multiarith", limit=1).samples) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "task, options, message",
    [
        ("comonsense_qa", {}, "'comonsense_qa' cannot be read from a folder .did you mean 'commonsense_qa'"),
        ("humaneval", {}, "runs generated code: use prunelib.tasks.humaneval"),
        ("addsub", {}, "addsub.jsonl"),
        ("gsm8k", {"shots": 6}, "gsm8k_test.jsonl has 6 rows, and 6 examples were asked for"),
    ],
)
def test_what_cannot_be_asked_is_one_line(default_lm, folder, task, options, message):
    with pytest.raises(PrunelibError, match=message) as caught:
        harness.evaluate(default_lm, task, folder=folder, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line, message",
    [('{"question"', "multiarith.jsonl.*line 2"), ('{"question": "x"}', "multiarith.jsonl.*line 2.*final_ans")],
)
def test_a_malformed_row_names_its_file_and_line(default_lm, folder, line, message):
    file = folder / "multiarith.jsonl"
    file.write_text(json.dumps(ROWS["multiarith.jsonl"][0]) + "\n" + line + "\n")
    with pytest.raises(PrunelibError, match=message):
        harness.evaluate(default_lm, "multiarith", folder=folder)


def test_without_a_folder_and_a_network_it_is_one_line(default_lm, monkeypatch):
    monkeypatch.delenv(harness.FOLDER, raising=False)
    monkeypatch.setattr("prunelib.hub.offline", lambda: True)
    with pytest.raises(PrunelibError, match="multiarith is read from a folder only"):
        harness.evaluate(default_lm, "multiarith")
    with pytest.raises(PrunelibError, match="unknown task 'bolq'"):
        harness.evaluate(default_lm, "bolq")
    with pytest.raises(PrunelibError, match="boolq cannot be read.*set PRUNELIB_DATASETS") as caught:
        harness.evaluate(default_lm, "boolq")
    assert "\n" not in str(caught.value)


def test_an_item_that_does_not_fit_is_refused_not_cut(default_lm, folder):
    long = dict(ROWS["multiarith.jsonl"][0], question="word " * 9000)
    (folder / "multiarith.jsonl").write_text(json.dumps(long) + "\n")
    with pytest.raises(PrunelibError, match=r"an item needs \d+ tokens and .* reads 8192; use fewer shots"):
        harness.evaluate(default_lm, "multiarith", folder=folder)


def test_no_chat_template_is_one_line(default_lm, folder):
    import copy

    tokenizer = copy.deepcopy(default_lm.tokenizer)
    tokenizer.chat_template = None
    bare = LM(default_lm.model, tokenizer, default_lm.arch, "bare", "bare", None, default_lm.fingerprint)
    with pytest.raises(PrunelibError, match="bare has no chat template"):
        harness.evaluate(bare, "multiarith", folder=folder, chat=True)


def test_loggers_and_bars_are_as_before():
    import logging

    import datasets
    from huggingface_hub import constants

    before = (logging.getLogger("lm_eval").level, datasets.is_progress_bar_enabled(), constants.HF_HUB_OFFLINE)
    with pytest.raises(ZeroDivisionError), harness._quiet():
        raise ZeroDivisionError
    assert before == (logging.getLogger("lm_eval").level, datasets.is_progress_bar_enabled(), constants.HF_HUB_OFFLINE)
