"""Standard benchmarks through lm-evaluation-harness, on the model in memory.

Tasks, prompts, filters and metrics are lm-eval's own. Here is only what it lacks: a
model that may be pruned at the moment, shared beginnings read once, and rows from a
folder of JSON lines where there is no network.
"""

import contextlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from prunelib import hub
from prunelib.checkpoint import reason
from prunelib.errors import PrunelibError, nearest
from prunelib.measure.stats import cluster_mean
from prunelib.tasks.jsonl import read_jsonl

FOLDER = "PRUNELIB_DATASETS"

SHOTS = {
    "boolq": 0, "rte": 0, "openbookqa": 0, "piqa": 0, "mmlu": 5, "winogrande": 5, "hellaswag": 10,
    "arc_challenge": 25, "gsm8k": 5, "commonsense_qa": 0, "multiarith": 0, "addsub": 0,
}  # fmt: skip
"""Examples before each question, as in the paper; 0 where it names none."""

CODE = ("humaneval", "mbpp")
"""Tasks that run what a model writes; lm-eval would do so without a sandbox."""

_WORD_PROBLEM = {
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{final_ans | string}}",
    "generation_kwargs": {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "max_gen_toks": 128},
    "filter_list": [{"name": "flexible-extract", "filter": [
        {"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"},
        {"function": "take_first"}]}],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True,
                     "regexes_to_ignore": [",", "\\$", "\\.0*$"]}],
}  # fmt: skip


@dataclass(frozen=True)
class Local:
    """How a benchmark is read from a folder: ``file``, its fields, and the task it belongs to.

    ``stock`` is lm-eval's definition (below its ``tasks`` folder), or None where it has none and
    ``config`` is the definition; ``split`` is what the file's rows are.
    """

    file: str
    required: tuple[str, ...]
    split: str
    stock: str | None = None


LOCAL = {
    "gsm8k": Local("gsm8k_test.jsonl", ("question", "answer"), "test", "gsm8k/gsm8k.yaml"),
    "commonsense_qa": Local("commonsense_qa_validation.jsonl", ("question", "choices", "answerKey"), "validation",
                            "commonsense_qa/default.yaml"),
    "multiarith": Local("multiarith.jsonl", ("question", "final_ans"), "test"),
    "addsub": Local("addsub.jsonl", ("question", "final_ans"), "test"),
}  # fmt: skip
"""What can be read from a folder of JSON lines."""


@dataclass(frozen=True)
class Evaluated:
    """What lm-eval reports, as two tables.

    ``scores``: ``task, metric, filter, value, lo, hi, n, shots``; the 95 % interval is over items, and
    NaN for a metric that is no mean over items. ``samples``: a row an item and filter, ``task, doc_id,
    filter, prompt, target, response, filtered`` and ``metrics`` as JSON.
    """

    scores: pd.DataFrame
    samples: pd.DataFrame


def evaluate(lm, task: str, limit: int | None = None, shots: int | None = None, batch_size: int = 32,
             folder: str | Path | None = None, chat: bool = False) -> Evaluated:  # fmt: skip
    """Score ``lm``, as it is now, on one benchmark.

    Parameters
    ----------
    task : lm-eval's name, of a task or a group (mmlu), or multiarith, addsub
    limit : items, the first ones; None: all
    shots : examples before each question; None: :data:`SHOTS`, else lm-eval's own
    batch_size : sequences a forward pass
    folder : JSON lines instead of the hub; None: the environment's ``PRUNELIB_DATASETS``, else the hub
    chat : use the chat template

    From a folder, the examples are the first rows of the file, and those rows are not
    scored. Examples are ordered with lm-eval's own seeds. Raises PrunelibError, one line: an
    unknown task, no data set without a network, a
    malformed row (file and line), a task that runs generated code, an item that does not
    fit the model, no chat template.
    """
    if chat and not getattr(lm.require_tokenizer(), "chat_template", None):
        raise PrunelibError(f"{lm.name} has no chat template; use chat=False")
    with definition(task, shots, folder) as asked:
        from lm_eval import simple_evaluate

        model = wrapped(lm, batch_size)
        shots = SHOTS.get(task) if shots is None else shots
        try:
            found = simple_evaluate(
                model, tasks=[asked], num_fewshot=shots, limit=limit, bootstrap_iters=0, log_samples=True,
                apply_chat_template=chat, task_manager=_manager(),
            )  # fmt: skip
        except (OSError, ValueError) as error:
            if isinstance(asked, dict) and not hub.offline():
                raise
            raise PrunelibError(f"{task} cannot be read: {reason(error)}; without a network, set {FOLDER} to a "
                                "folder of JSON lines") from error  # fmt: skip
    return _tidy(found)


@contextlib.contextmanager
def definition(task: str, shots: int | None = None, folder: str | Path | None = None) -> Iterator[str | dict]:
    """What lm-eval is asked for: the name of a task, or its own definition with the rows of a folder.

    Inside, nothing is printed and no network is tried where there is none.
    """
    if task in CODE:
        raise PrunelibError(f"{task} runs generated code: use prunelib.tasks.humaneval, which has a sandbox")
    if find_spec("lm_eval") is None:
        raise PrunelibError("standard benchmarks need lm-eval: pip install 'prunelib[benchmarks]'")
    shots = SHOTS.get(task) if shots is None else shots
    folder = folder or os.environ.get(FOLDER)
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        yield _local(task, Path(folder).expanduser(), shots or 0, Path(scratch)) if folder else _stock(task)


@cache
def _manager():
    """lm-eval's index of its tasks: thousands of files, read once."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _stock(task: str) -> str:
    """The name of a task, once it is known to lm-eval."""
    if task in LOCAL and LOCAL[task].stock is None:
        raise PrunelibError(f"{task} is read from a folder only: set {FOLDER} to one with {LOCAL[task].file}")
    known = _manager().all_tasks
    if task not in known:
        raise PrunelibError(f"unknown task '{task}'{nearest(task, known)}")
    return task


def _local(task: str, folder: Path, shots: int, scratch: Path) -> dict:
    """The definition of a task with its rows from ``folder``."""
    import yaml

    if task not in LOCAL:
        raise PrunelibError(f"'{task}' cannot be read from a folder{nearest(task, LOCAL)}; only {', '.join(LOCAL)}")
    local = LOCAL[task]
    file = folder / local.file
    rows = read_jsonl(file, local.required)
    if shots >= len(rows):
        raise PrunelibError(f"{file} has {len(rows)} rows, and {shots} examples were asked for")
    config = {"task": task, **_WORD_PROBLEM, "test_split": "test"}
    if local.stock:
        import lm_eval

        config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / local.stock).read_text())
    files = {}
    for split, some in (("train", rows[:shots]), (local.split, rows[shots:])):
        if some:
            files[split] = str(scratch / f"{split}.jsonl")
            Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in some))
    config |= {"dataset_path": "json", "dataset_name": None,
               "dataset_kwargs": {"data_files": files, "cache_dir": str(scratch / "cache")}}  # fmt: skip
    for name in ("training_split", "fewshot_split"):
        config.pop(name, None)
        if shots:
            config[name] = "train"
    return config


def wrapped(lm, batch_size: int = 32):
    """``lm`` as lm-eval's own model class, with our scoring and greedy decoding inside.

    Prompts and token ids are lm-eval's. Nothing is cut silently: what does not fit raises
    PrunelibError. What is neither a log-likelihood nor greedy is left to lm-eval.
    """
    from lm_eval.models.huggingface import HFLM

    from prunelib.tasks.generate import greedy
    from prunelib.tasks.score import Request, loglikelihoods

    class Shared(HFLM):
        def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
            wanted = []
            for (context, _), ids, continuation in requests:
                self._check(len(ids) + len(continuation) - 1, context or "")
                wanted.append(Request(ids, continuation, tuple(ids)))
            scored = loglikelihoods(lm, wanted, batch_size)
            return list(zip(scored["logprob"], scored["matched"] == scored["tokens"], strict=True))

        def generate_until(self, requests, disable_tqdm=False):
            kinds: dict[str, list[int]] = {}
            for i, request in enumerate(requests):
                kinds.setdefault(repr(sorted(request.args[1].items())), []).append(i)
            found = [""] * len(requests)
            for rows in kinds.values():
                some = [requests[i] for i in rows]
                for i, text in zip(rows, self._write(some, disable_tqdm), strict=True):
                    found[i] = text
            return found

        def _write(self, requests, disable_tqdm):
            options = requests[0].args[1]
            if options.get("do_sample") or options.get("num_beams", 1) > 1:
                return super().generate_until(requests, disable_tqdm)
            until = options.get("until") or []
            stop = [until] if isinstance(until, str) else list(until)
            new = options.get("max_gen_toks", self.max_gen_toks)
            prompts = [self.tok_encode(request.args[0]) for request in requests]
            for request, ids in zip(requests, prompts, strict=True):
                self._check(len(ids) + new, request.args[0])
            return [made.text for made in greedy(lm, prompts, new, stop, batch_size=batch_size)]

        def _check(self, tokens: int, prompt: str) -> None:
            if tokens > self.max_length:
                start = " ".join(prompt.split())[-60:]
                raise PrunelibError(f"an item needs {tokens} tokens and {lm.name} reads {self.max_length}; use fewer "
                                    f"shots (it ends: '{start}')")  # fmt: skip

    return Shared(pretrained=lm.model, tokenizer=lm.require_tokenizer(), batch_size=batch_size)


def _tidy(found: dict) -> Evaluated:
    samples = []
    for task, rows in found["samples"].items():
        for row in rows:
            numbers = {name: float(row[name]) for name in row["metrics"] if isinstance(row[name], int | float)}
            prompt = row["arguments"]["gen_args_0"]["arg_0"] if isinstance(row["arguments"], dict) else (
                row["arguments"][0][0])  # fmt: skip
            samples.append((task, row["doc_id"], row["filter"], prompt, str(row["target"]),
                            json.dumps(row["resps"], default=str), json.dumps(row["filtered_resps"], default=str),
                            json.dumps(numbers)))  # fmt: skip
    names = ["task", "doc_id", "filter", "prompt", "target", "response", "filtered", "metrics"]
    table, scores = pd.DataFrame(samples, columns=names), []
    for task, metrics in found["results"].items():
        rows = table[table["task"] == task]
        for name, value in metrics.items():
            metric, _, kind = name.partition(",")
            if isinstance(value, int | float) and kind and not metric.endswith("_stderr"):
                own = [json.loads(text) for text in rows.loc[rows["filter"] == kind, "metrics"]]
                interval = (float("nan"),) * 2
                if own and all(metric in one for one in own):
                    mean, *interval = cluster_mean([one[metric] for one in own], range(len(own)))
                    if abs(mean - value) > 1e-9:  # a metric that is no mean over items
                        interval = (float("nan"),) * 2
                scores.append((task, metric, kind, float(value), *interval, len(own), found["n-shot"].get(task)))
    columns = ["task", "metric", "filter", "value", "lo", "hi", "n", "shots"]
    return Evaluated(pd.DataFrame(scores, columns=columns), table)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no chatter of lm-eval and datasets, and no network tried where there is none."""
    import datasets
    from huggingface_hub import constants

    loggers = {name: logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets", "transformers")}
    levels = {name: logger.level for name, logger in loggers.items()}
    before = (datasets.is_progress_bar_enabled(), datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
    for logger in loggers.values():
        logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    if hub.offline():
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
        (datasets.enable_progress_bars if before[0] else datasets.disable_progress_bars)()
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before[1:]
