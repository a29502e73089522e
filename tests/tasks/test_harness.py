"""The bridge to lm-evaluation-harness: its scores, its prompts, our errors."""

import copy
import json
import os
import random
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.models import hooks
from prunelib.models.lm import LM
from prunelib.models.sublayers import Site
from prunelib.tasks import harness

pytest.importorskip("lm_eval")

DATASETS = os.environ.get(harness.FOLDER)
CLOSE = 1e-4  # nats; float32 rounding in batches of another shape
WORDS = ["<unk>", "<s>", "</s>", "<|x|>", "Question", "Answer", *":.?#ABCDEabcdefghijklmnopqrstuvwxyz0123456789"]
CHOICES = {"label": list("ABCDE"), "text": ["a b", "c", "d e f", "g", "h"]}
ROWS = {
    "commonsense_qa": [{"question": f"{a} {b} {a} ?", "choices": CHOICES, "answerKey": key, "id": key}
                       for a, b, key in ("abA", "cdB", "efE", "ghC", "xzA", "yuD")],
    "gsm8k": [{"question": f"a {n} b {n + 1} . c ?", "answer": f"d {n} e {n + 1} .\n#### {2 * n + 1}"}
              for n in range(1, 8)],
    "multiarith": [{"question": f"p {n} q 2 . r ?", "final_ans": f"{n - 2}.0"} for n in range(3, 8)],
    "addsub": [{"question": f"s {n} t 3 ?", "final_ans": n + 3} for n in range(1, 5)],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for task, rows in ROWS.items():
        (tmp_path / harness.LOCAL[task].file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture(autouse=True)
def no_folder_by_default(monkeypatch):
    monkeypatch.delenv(harness.FOLDER, raising=False)


def _tokenizer(bos: bool):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", extra_special_tokens=["<|x|>"],
        chat_template="{% for m in messages %}<|x|>{{ m['content'] }}</s>{% endfor %}<|x|>",
    )  # fmt: skip


@pytest.fixture
def made(make_model):
    """Factory: a tiny random model that reads 512 tokens, with a word tokenizer."""

    def make(family="llama", bos=True, **changes):
        model = make_model(family, vocab_size=len(WORDS), **{"max_position_embeddings": 512, **changes})
        return LM.from_model(model, _tokenizer(bos), name=f"tiny-{family}")

    return make


def _stock(lm, batch_size=1):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=lm.model, tokenizer=copy.deepcopy(lm.tokenizer), batch_size=batch_size)


def _theirs(lm, task, folder, shots, chat=False, limit=None):
    """The same definition and rows scored by lm-eval alone."""
    from lm_eval import simple_evaluate

    with harness.definition(task, shots, folder) as asked:
        return simple_evaluate(
            _stock(lm), tasks=[asked], num_fewshot=harness.SHOTS[task] if shots is None else shots, limit=limit,
            bootstrap_iters=1, apply_chat_template=chat, task_manager=harness._manager(False),
        )  # fmt: skip


def _same(lm, task, folder, shots, chat=False, limit=None):
    """Ours, after comparing every score, prompt, text and log-likelihood with theirs."""
    ours = harness.evaluate(lm, task, limit, shots, folder=folder, chat=chat)
    raw = _theirs(lm, task, folder, shots, chat, limit)
    theirs = harness._tidy(raw)
    assert len(ours.scores) and ours.scores.equals(theirs.scores)
    for row in ours.scores.itertuples():
        assert row.value == raw["results"][task][f"{row.metric},{row.filter}"]
        assert row.stderr == pytest.approx(raw["results"][task][f"{row.metric}_stderr,{row.filter}"])
    for name in ("doc_id", "filter", "prompt", "target", "metrics", "filtered"):
        assert ours.samples[name].tolist() == theirs.samples[name].tolist()
    for mine, other in zip(*(map(json.loads, one.samples["response"]) for one in (ours, theirs)), strict=True):
        if isinstance(mine, str):
            assert mine == other
        else:
            assert [(option, greedy) for option, (_, greedy) in mine] == [(o, g) for o, (_, g) in other]
            assert [score for _, (score, _) in mine] == pytest.approx([s for _, (s, _) in other], abs=CLOSE)
    return ours


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("task, shots", [("commonsense_qa", 0), ("commonsense_qa", 2), ("gsm8k", 2), ("multiarith", 0)])
def test_scores_texts_and_likelihoods_are_lm_evals_own(made, folder, family, task, shots):
    found = _same(made(family), task, folder, shots)
    assert found.scores["n"].unique().tolist() == [len(ROWS[task]) - shots]
    assert found.scores["shots"].unique().tolist() == [shots]


@pytest.mark.parametrize("task, shots", [("commonsense_qa", 1), ("addsub", 1)])
def test_the_same_with_a_chat_template_and_dropped_sublayers(made, folder, task, shots):
    lm = made(bos=False)
    with hooks.dropped(lm, (Site("attn", 0), Site("mlp", 2))):
        found = _same(lm, task, folder, shots, chat=True)
    assert found.samples["prompt"].str.startswith("<|x|>").all()


def _requests(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, i, ("task", i, 1)) for i, one in enumerate(arguments)]


PAIRS = [("", "a b c"), ("", "<s> a b"), ("a b", " c d"), ("a b ", "c d"), ("<s> a b", " c"), ("a b", " c")]


@pytest.mark.parametrize("bos", [True, False])
def test_pairs_are_encoded_as_lm_eval_does(made, bos):
    lm = made(bos=bos)
    found = harness.wrapped(lm).loglikelihood(_requests("loglikelihood", PAIRS))
    # One by one: lm-eval's cache mixes up continuations that end alike after contexts that do not.
    wanted = [_stock(lm).loglikelihood([one], disable_tqdm=True)[0] for one in _requests("loglikelihood", PAIRS)]
    assert [one for one, _ in found] == pytest.approx([one for one, _ in wanted], abs=CLOSE)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]


def test_the_windows_of_a_whole_text_are_lm_evals(made):
    lm, texts = made(max_position_embeddings=8), [("a b c d e f g h i j k l m n o p q r",), ("a",)]
    found = harness.wrapped(lm).loglikelihood_rolling(_requests("loglikelihood_rolling", texts))
    wanted = _stock(lm).loglikelihood_rolling(_requests("loglikelihood_rolling", texts))
    assert found == pytest.approx(wanted, abs=CLOSE)


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.8}, {"eos_token_id": [2, 20]}])
@pytest.mark.parametrize(
    "options",
    [{"until": ["e f", "k"], "max_gen_toks": 24}, {"until": "m", "do_sample": False, "temperature": 0.0},
     {"until": ["<|x|>", "</s>"], "max_gen_toks": 60}, {"until": [], "max_gen_toks": 9, "repetition_penalty": 1.3}],
)  # fmt: skip
def test_generation_stops_as_lm_eval_does(made, options, settings):
    lm = made()
    for name, value in settings.items():
        setattr(lm.model.generation_config, name, value)
    arguments = [(prompt, options) for prompt in ("a b c", "d", "<s> e f g h", "x y z x y")] + [("p", {"until": ["q"]})]
    found = harness.wrapped(lm, batch_size=1).generate_until(_requests("generate_until", arguments))
    assert found == _stock(lm).generate_until(_requests("generate_until", arguments), disable_tqdm=True)


def test_options_share_their_context_and_examples_are_read_once(made, folder, monkeypatch):
    lm, read = made(), []
    real = lm.body.forward
    monkeypatch.setattr(lm.body, "forward", lambda **k: read.append(k["input_ids"].numel()) or real(**k))
    found = harness.evaluate(lm, "commonsense_qa", folder=folder, shots=3)
    whole = sum(5 * len(lm.tokenizer(prompt)["input_ids"]) for prompt in found.samples["prompt"])
    assert sum(read) < whole / 6


def test_a_group_has_the_interval_of_all_its_items(made, folder):
    from lm_eval import evaluator
    from lm_eval.api.group import AggMetricConfig, Group

    with harness.definition("commonsense_qa", 0, folder) as one, harness.definition("commonsense_qa", 2, folder) as two:
        loaded = harness._manager(False).load([one | {"task": "one"}, two | {"task": "two"}])
        group = Group(name="both", aggregate_metric_list=[AggMetricConfig(metric="acc", filter_list=["none"])])
        for task in loaded["tasks"].values():
            group.add(task)
        loaded["groups"] = {"both": group}
        scores = harness._tidy(evaluator.evaluate(harness.wrapped(made()), loaded, bootstrap_iters=0)).scores
    rows = scores.set_index("task")
    assert rows.loc[["one", "two", "both"], "n"].tolist() == [6, 4, 10]
    right = rows.loc["one", "value"] * 6 + rows.loc["two", "value"] * 4
    assert rows.loc["both", "value"] == pytest.approx(right / 10)
    assert rows.loc["both", "lo"] < rows.loc["both", "value"] < rows.loc["both", "hi"]


def test_an_interval_only_where_the_value_is_a_mean_over_items():
    assert all(np.isnan(harness._spread([0.0, 1.0], 0.7)))
    assert all(np.isnan(harness._spread([(1, 2), (3, 4)], 0.5)))
    error, lo, hi = harness._spread([0.0, 1.0, 1.0, 1.0], 0.75)
    assert error == pytest.approx(0.25) and 0 < lo < 0.75 < hi <= 1


def test_samples_keep_what_was_asked_and_told(made, folder):
    found = harness.evaluate(made(), "commonsense_qa", folder=folder, limit=2)
    row = found.samples.iloc[0]
    assert len(found.samples) == 2 and row["target"] == "A"
    assert row["prompt"].startswith("Question: a b a ?\nA. a b\nB. c")
    assert [option for option, _ in json.loads(row["response"])] == [" A", " B", " C", " D", " E"]
    assert json.loads(row["metrics"])["acc"] in (0, 1)


def test_nothing_is_printed_fetched_or_left_behind(made, folder, monkeypatch, capfd):
    import logging

    import datasets
    from huggingface_hub import constants

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    def state():
        return (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            os.environ.copy(),
            logging.root.manager.disable,
            logging.getLogger("lm_eval").level,
            constants.HF_HUB_OFFLINE,
            datasets.is_progress_bar_enabled(),
            datasets.config.HF_HUB_OFFLINE,
            lm.tokenizer.pad_token,
        )

    lm, steps = made(), []
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv(harness.FOLDER, str(folder))
    with harness._undisturbed(offline=True):  # imports what it needs
        pass
    before = state()
    harness.evaluate(lm, "multiarith", limit=2, progress=lambda *step: steps.append(step))
    with pytest.raises(PrunelibError):
        harness.evaluate(lm, "gsm8k", shots=len(ROWS["gsm8k"]))
    assert state() == before and steps[-1] == (2, 2)
    assert tuple(capfd.readouterr()) == ("", "")


def test_the_module_imports_without_lm_eval():
    code = "import sys; sys.modules['lm_eval'] = None; import prunelib.tasks.harness"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize(
    "task, options, message",
    [
        ("comonsense_qa", {}, "'comonsense_qa' cannot be read from a folder .did you mean 'commonsense_qa'"),
        ("humaneval", {}, "humaneval runs generated code.*prunelib.tasks.humaneval"),
        ("mbpp_plus", {}, "mbpp_plus runs generated code"),
        ("gsm8k", {"shots": 7}, "gsm8k_test.jsonl has 7 rows, and 7 examples were asked for"),
        ("gsm8k", {"shots": -1}, "shots must be a whole number, at least 0, got -1"),
        ("gsm8k", {"limit": 0}, "limit must be a whole number, at least 1, got 0"),
        ("gsm8k", {"folder": "nowhere"}, "cannot read nowhere/gsm8k_test.jsonl"),
        ("addsub", {"folder": None}, "addsub is read from a folder only: set PRUNELIB_DATASETS"),
    ],
)
def test_what_cannot_be_asked_is_one_line(made, folder, task, options, message):
    with pytest.raises(PrunelibError, match=message) as caught:
        harness.evaluate(made(), task, **{"folder": folder, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "task, change, message",
    [
        ("multiarith", '{"question"', "multiarith.jsonl, line 2: not JSON"),
        ("multiarith", {"final_ans": None}, 'multiarith.jsonl, line 2: "final_ans" needs a text, got NoneType'),
        ("commonsense_qa", {"answerKey": ""}, 'line 2: "answerKey" needs one of A to E'),
        ("commonsense_qa", {"choices": {"label": ["A"], "text": ["x"]}}, 'line 2: "choices" needs the labels A to E'),
        ("multiarith", {"question": "a " * 600}, r"multiarith, document 1 needs 7\d\d tokens and tiny-llama reads 512"),
        ("commonsense_qa", {"question": "a " * 600}, r"commonsense_qa, document 1 needs 6\d\d tokens"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_and_nothing_is_cut(made, folder, task, change, message):
    first, second, *_ = ROWS[task]
    bad = change if isinstance(change, str) else json.dumps(second | change)
    (folder / harness.LOCAL[task].file).write_text(json.dumps(first) + "\n" + bad + "\n")
    with pytest.raises(PrunelibError, match=message):
        harness.evaluate(made(), task, folder=folder)


def test_a_missing_field_names_its_line(made, folder):
    (folder / "gsm8k_test.jsonl").write_text('\n{"question": "a"}\n')
    with pytest.raises(PrunelibError, match='gsm8k_test.jsonl, line 2: no field "answer"'):
        harness.evaluate(made(), "gsm8k", folder=folder)


@pytest.mark.parametrize("pair", [("a b", ""), ("", ""), (" ", "a")])
def test_an_option_without_tokens_is_one_line(made, pair):
    with pytest.raises(PrunelibError, match=r"task, document \d: the (option|context) gives no tokens"):
        harness.wrapped(made(bos=False)).loglikelihood(_requests("loglikelihood", [("a", "b"), pair]))


def test_without_a_tokenizer_or_a_chat_template_it_is_one_line(made, folder):
    lm = made()
    lm.tokenizer.chat_template = None
    with pytest.raises(PrunelibError, match="tiny-llama has no chat template"):
        harness.evaluate(lm, "multiarith", folder=folder, chat=True)
    lm.tokenizer = None
    with pytest.raises(PrunelibError, match="tiny-llama has no tokenizer"):
        harness.evaluate(lm, "multiarith", folder=folder)


def test_without_a_network_it_is_one_line(made, folder, monkeypatch):
    monkeypatch.setattr("prunelib.models.hub.offline", lambda: True)
    with pytest.raises(PrunelibError, match="gsm8k cannot be loaded: .*set PRUNELIB_DATASETS"):
        harness.evaluate(made(), "gsm8k")
    monkeypatch.setenv(harness.FOLDER, str(folder))  # which has no boolq
    with pytest.raises(PrunelibError, match="unknown task 'bolq' .did you mean 'boolq'"):
        harness.evaluate(made(), "bolq")
    with pytest.raises(PrunelibError, match="boolq cannot be loaded: .*fetch it once") as caught:
        harness.evaluate(made(), "boolq")
    assert "\n" not in str(caught.value)


def test_the_papers_names_are_known_to_lm_eval():
    known = {*harness._manager().all_tasks, *(task for task, local in harness.LOCAL.items() if not local.stock)}
    assert known.issuperset(harness.SHOTS) and known.issuperset(harness.CODE)


@pytest.mark.real_model
@pytest.mark.skipif(not DATASETS, reason="needs the data sets themselves")
@pytest.mark.parametrize("task, limit", [("commonsense_qa", 8), ("multiarith", 4), ("addsub", 4), ("gsm8k", 2)])
def test_on_the_data_sets_themselves(default_lm, task, limit):
    _same(default_lm, task, DATASETS, None, limit=limit)
