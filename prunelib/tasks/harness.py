"""Standard benchmarks through lm-evaluation-harness, on the model in memory.

Tasks, prompts, filters and metrics are lm-eval's own. Here is only what it lacks: a
model that may be pruned at the moment, shared beginnings read once, and rows from a
folder of JSON lines where there is no network.
"""

import contextlib
import copy
import functools
import itertools
import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from prunelib.errors import PrunelibError, nearest
from prunelib.files import Row, read_jsonl
from prunelib.measure import stats
from prunelib.models import hub
from prunelib.models.checkpoint import quiet, reason

FOLDER = "PRUNELIB_DATASETS"

SHOTS = {
    "boolq": 0, "rte": 0, "openbookqa": 0, "piqa": 0, "mmlu": 5, "winogrande": 5, "hellaswag": 10,
    "arc_challenge": 25, "gsm8k": 5, "commonsense_qa": 0, "multiarith": 0, "addsub": 0,
}  # fmt: skip
"""Examples before each question, as in the paper; 0 where it names none."""

CODE = ("humaneval", "mbpp")
"""Beginnings of the names of tasks that run what a model writes; lm-eval would do so without a sandbox."""


_UNSAFE = "runs generated code, and lm-eval has no sandbox; HumanEval runs in one with prunelib.tasks.humaneval"


class Local(NamedTuple):
    """A benchmark in a folder; ``stock`` is lm-eval's definition of it, None for a word problem it does not have."""

    file: str
    fields: tuple[str, ...]
    split: str
    stock: str | None


LOCAL = {
    "gsm8k": Local("gsm8k_test.jsonl", ("question", "answer"), "test", "gsm8k/gsm8k.yaml"),
    "commonsense_qa": Local("commonsense_qa_validation.jsonl", ("question", "choices", "answerKey"), "validation",
                            "commonsense_qa/default.yaml"),
    "multiarith": Local("multiarith.jsonl", ("question", "final_ans"), "test", None),
    "addsub": Local("addsub.jsonl", ("question", "final_ans"), "test", None),
}  # fmt: skip
"""What can be read from a folder of JSON lines."""

_WORD_PROBLEM = {
    "test_split": "test", "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_target": "{{final_ans}}",
    "generation_kwargs": {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "max_gen_toks": 128},
    "filter_list": [{"name": "flexible-extract", "filter": [
        {"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"},
        {"function": "take_first"}]}],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True,
                     "regexes_to_ignore": [",", "\\$", "\\.0*$"]}],
}  # fmt: skip

# Settings of a checkpoint that make even greedy text other than the most likely next token each time.
_SHAPING = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "min_length",
    "min_new_tokens",
    "num_beams",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "guidance_scale",
    "penalty_alpha",
    "stop_strings",
)


class Evaluated(NamedTuple):
    """What lm-eval reports. ``scores``: ``task, metric, filter, value, stderr, lo, hi, n, shots``; standard error
    and 95 % interval are over items, NaN for what is no mean over items. ``samples``: a row an item
    and filter, ``task, doc_id, filter, prompt, target, response, filtered, metrics``, the last three as JSON: the
    text and what the filter made of it, or a list of options with ``[log-probability in nats, is greedy]``."""

    scores: pd.DataFrame
    samples: pd.DataFrame


def evaluate(
    lm,
    task: str,
    limit: int | None = None,
    shots: int | None = None,
    batch_size: int = 32,
    folder: str | Path | None = None,
    chat: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluated:
    """Score ``lm``, as it is now, on one benchmark.

    Parameters
    ----------
    task : lm-eval's name of a task or group (mmlu), or multiarith, addsub
    limit : items of each task, the first ones; None: all
    shots : examples before each question; None: :data:`SHOTS`, else lm-eval's own
    batch_size : sequences a forward pass
    folder : JSON lines (:data:`LOCAL`); None: the environment's ``PRUNELIB_DATASETS``, and the hub for what is
        not in LOCAL. The examples are the first rows of the file, in their order, and are not scored
    chat : use the chat template
    progress : called with (requests done, requests)

    Raises PrunelibError, one line: an unknown task, no data set without a network, a malformed row (file and
    line), a task that runs generated code, an item that does not fit the model, no tokenizer or chat template.
    """
    for name, number, least in (("limit", limit, 1), ("shots", shots, 0), ("batch_size", batch_size, 1)):
        if number is not None and (number < least or number != int(number)):
            raise PrunelibError(f"{name} must be a whole number, at least {least}, got {number}")
    if not getattr(lm.require_tokenizer(), "chat_template", None) and chat:
        raise PrunelibError(f"{lm.name} has no chat template; use chat=False")
    with definition(task, shots, folder) as asked:
        from lm_eval import evaluator

        loaded = _load(task, asked, shots)
        return _tidy(
            evaluator.evaluate(
                wrapped(lm, batch_size, progress),
                loaded,
                limit=limit,
                bootstrap_iters=0,
                apply_chat_template=chat,
                fewshot_as_multiturn=True,
            )
        )


@contextlib.contextmanager
def definition(task: str, shots: int | None = None, folder: str | Path | None = None) -> Iterator[str | dict]:
    """What lm-eval is asked for: the name of a task, or its definition with the rows of a folder.

    Inside, nothing is printed, and no network is tried where there is none or none is needed.
    """
    if task.partition("_")[0] in CODE:
        raise PrunelibError(f"{task} {_UNSAFE}")
    if find_spec("lm_eval") is None:
        raise PrunelibError("standard benchmarks need lm-eval: pip install 'prunelib[benchmarks]'")
    given, folder = folder, folder or os.environ.get(FOLDER)
    local = bool(given or (folder and task in LOCAL))
    if not local and task in LOCAL and LOCAL[task].stock is None:
        raise PrunelibError(f"{task} is read from a folder only: set {FOLDER} to one with {LOCAL[task].file}")
    with _undisturbed(offline=local or hub.offline()):
        if local:
            task = _local(task, Path(folder).expanduser(), SHOTS.get(task, 0) if shots is None else shots)
        elif task not in (known := _manager().all_tasks):
            raise PrunelibError(f"unknown task '{task}'{nearest(task, [*SHOTS, *CODE, *known])}")
        yield task


@functools.cache
def _manager(index: bool = True):
    """lm-eval's tasks; its index is thousands of files, read once and only for a task asked by its name."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=index)


def _local(task: str, folder: Path, shots: int) -> dict:
    """The definition of a task with its rows from ``folder``."""
    if task not in LOCAL:
        raise PrunelibError(f"'{task}' cannot be read from a folder{nearest(task, LOCAL)}; only {', '.join(LOCAL)}")
    import datasets
    import lm_eval
    import yaml

    local, config = LOCAL[task], copy.deepcopy(_WORD_PROBLEM)
    file = folder / local.file
    rows = [{name: _field(name, row) for name in local.fields} for row in read_jsonl(file)]
    if shots >= len(rows):
        raise PrunelibError(f"{file} has {len(rows)} rows, and {shots} examples were asked for")
    if local.stock:
        config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / local.stock).read_text())
    for name in ("dataset_path", "dataset_name", "training_split", "fewshot_split", "tag"):
        config.pop(name, None)
    splits = {local.split: datasets.Dataset.from_list(rows[shots:])}
    if shots:  # always the same examples in the same order: they are read once
        splits["train"] = datasets.Dataset.from_list(rows[:shots])
        config |= {"fewshot_split": "train", "fewshot_config": {"sampler": "first_n"}}
    return config | {"task": task, "custom_dataset": lambda **_: splits}


def _field(name: str, row: Row):
    """One field of a row, as the definitions need it."""
    if name not in row:
        raise PrunelibError(f'{row.where}: no field "{name}"')
    value, where = row[name], row.where
    if name == "choices":
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, list) or len(text) != 5 or value.get("label") != list("ABCDE"):
            raise PrunelibError(f'{where}: "choices" needs the labels A to E and five texts')
        if not all(isinstance(one, str | int | float) and str(one).strip() for one in text):
            raise PrunelibError(f'{where}: "choices" needs five texts, and one is none')
        return {"label": value["label"], "text": [str(one) for one in text]}
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise PrunelibError(f'{where}: "{name}" needs a text, got {type(value).__name__}')
    if name == "answerKey" and value not in list("ABCDE"):
        raise PrunelibError(f'{where}: "answerKey" needs one of A to E, got {value!r}')
    if not str(value).strip():
        raise PrunelibError(f'{where}: "{name}" is empty')
    return str(value)


def _load(task: str, asked: str | dict, shots: int | None) -> dict:
    """lm-eval's task objects, with the shots that :func:`evaluate` promises."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    try:
        loaded = _manager(index=isinstance(asked, str)).load([asked])
    except Exception as error:
        hint = f"set {FOLDER} to a folder of JSON lines" if task in LOCAL else "fetch it once where there is a network"
        hint = f"; {hint}" if hub.offline() else ""
        raise PrunelibError(f"{task} cannot be loaded: {reason(error)}{hint}") from error
    wanted = SHOTS.get(task) if shots is None else shots
    for name, one in loaded["tasks"].items():
        if getattr(one, "UNSAFE_CODE", False):
            raise PrunelibError(f"{name} {_UNSAFE}")
        own = one.get_config("num_fewshot")
        if own == 0 and shots:
            raise PrunelibError(f"{name} is defined without examples: use shots=0")
        if own != 0:
            one.set_config(key="num_fewshot", value=(own or 0) if wanted is None else wanted)
        one.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    return loaded


def wrapped(lm, batch_size: int = 32, progress: Callable[[int, int], None] | None = None):
    """``lm`` as lm-eval's own model class, with our scoring and greedy decoding inside.

    Prompts, token ids and stop strings are lm-eval's, but for what a tokenizer puts after every text: a text that
    has ended is not continued. Nothing is cut silently: what does not fit raises
    PrunelibError, before anything is computed. Sampling, beams, a checkpoint with penalties of its own and
    the windows of whole texts are left to lm-eval.
    """
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

    from prunelib.engine.decode import generate
    from prunelib.tasks.score import Request, loglikelihoods

    class Shared(HFLM):
        def tok_encode(self, *args, **kwargs):
            return lm.unended(super().tok_encode(*args, **kwargs))

        def loglikelihood(self, requests, disable_tqdm=False):
            self._items = requests
            for item in requests:
                if not item.args[0]:  # lm-eval puts a token before it, and stumbles where nothing follows
                    self._check(item, option=self.tok_encode(item.args[1], add_special_tokens=False))
            return super().loglikelihood(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
            if any(text is None for text, _, _ in requests):  # windows of a whole text
                return super()._loglikelihood_tokens(requests, True, override_bs)
            wanted = []
            for item, (_, context, continuation) in zip(self._items, requests, strict=True):
                self._check(item, context=context, option=continuation)
                wanted.append(Request(context, continuation, (item.task_name, item.doc_id)))
            scored = loglikelihoods(lm, wanted, batch_size, progress=progress)
            return list(zip(scored["logprob"], scored["matched"] == scored["tokens"], strict=True))

        def generate_until(self, requests, disable_tqdm=False):
            prompts = [lm.unended(self.tok_batch_encode([item.args[0]])[0][0].tolist()) for item in requests]
            options = [normalize_gen_kwargs(item.args[1], self.max_gen_toks) for item in requests]
            for item, prompt, asked in zip(requests, prompts, options, strict=True):
                self._check(item, new=asked["max_gen_toks"], prompt=prompt)
            texts = []
            for _, rows in itertools.groupby(range(len(requests)), key=lambda i: repr(options[i])):
                start, *more = rows
                end = start + len(more) + 1
                if self._is_greedy(asked := options[start]):
                    texts += self._greedy(prompts[start:end], asked["until"], asked["max_gen_toks"])
                else:
                    texts += super().generate_until(requests[start:end], disable_tqdm=True)
            return texts

        def _is_greedy(self, options: dict) -> bool:
            config = lm.model.generation_config
            ends = {self.eot_token_id, *np.atleast_1d(config.eos_token_id or [])} - {None}
            plain = all(getattr(config, name, None) in (None, 0, 1, [], {}) for name in _SHAPING)
            known = options.keys() <= {"until", "max_gen_toks", "do_sample", "temperature"}
            return plain and known and not options["do_sample"] and lm.eos_ids == ends and ends <= self._special.keys()

        @property
        def _special(self) -> dict[int, str]:
            """Tokens that are left out of a text, as they are written."""
            return {i: token.content for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}

        def _greedy(self, prompts: list[list[int]], until: list[str], new: int) -> list[str]:
            until = handle_stop_sequences(until, self._special.get(self.eot_token_id))
            stops, texts = {i for i, token in self._special.items() if token in until}, []
            options = {"stop": until, "groups": [0] * len(prompts), "batch_size": batch_size, "progress": progress}
            for made in generate(lm, prompts, new, **options):
                cut = next((n for n, i in enumerate(made.ids) if i in stops), None)
                texts.append(postprocess_generated_text(self.tok_decode(made.ids[:cut]), until, None))
            return texts

        def _check(self, item, new: int = 0, **parts: list[int]) -> None:
            where, tokens = f"{item.task_name}, document {item.doc_id}", sum(map(len, parts.values())) + new
            for name, ids in parts.items():
                lm.known(ids)
                if not ids:
                    raise PrunelibError(f"{where}: the {name} gives no tokens, there is nothing to score")
            if tokens > self.max_length:
                raise PrunelibError(
                    f"{where} needs {tokens} tokens and {lm.name} reads {self.max_length}: use fewer "
                    "shots, or a limit before it"
                )

    # A copy: lm-eval gives a tokenizer without a pad token one. The options of an item repeat its context.
    tokenizer = copy.deepcopy(lm.require_tokenizer())
    if lm.chat_template:
        tokenizer.chat_template = lm.chat_template
    model = Shared(pretrained=lm.model, tokenizer=tokenizer, batch_size=batch_size)
    model.tok_encode = functools.lru_cache(maxsize=64)(model.tok_encode)
    return model


def _tidy(found: dict) -> Evaluated:
    """The two tables of :class:`Evaluated` from lm-eval's nested results."""
    samples, values, scores, inside = [], {}, [], found["group_subtasks"]
    for task, row in ((task, row) for task, rows in found["samples"].items() for row in rows):
        asked, told, filtered = row["arguments"], [one[0] if len(one) == 1 else one for one in row["resps"]], None
        if isinstance(row["resps"][0][0], str):
            response, filtered = told[0], row["filtered_resps"][0]
        else:
            response = [[*args[1:], one] for args, one in zip(asked, told, strict=True)]
        metrics = {n: row[n].item() if isinstance(row[n], np.generic) else row[n] for n in row["metrics"]}
        for name, value in metrics.items():
            values.setdefault((task, name, row["filter"]), []).append(value)
        written = (json.dumps(one, default=str) for one in (response, filtered, metrics))
        samples.append((task, row["doc_id"], row["filter"], asked[0][0], str(row["target"]), *written))

    def leaves(task: str) -> list[str]:
        return [leaf for one in inside[task] for leaf in leaves(one)] if task in inside else [task]

    for task, metrics in found["results"].items():
        for name, value in metrics.items():
            metric, _, kind = name.partition(",")
            if kind and isinstance(value, Real) and not metric.endswith("_stderr"):
                own = [one for leaf in leaves(task) for one in values.get((leaf, metric, kind), [])]
                shots = found["n-shot"].get(task)
                scores.append((task, metric, kind, float(value), *_spread(own, value), len(own), shots))
    columns = ["task", "metric", "filter", "value", "stderr", "lo", "hi", "n", "shots"]
    names = ["task", "doc_id", "filter", "prompt", "target", "response", "filtered", "metrics"]
    return Evaluated(pd.DataFrame(scores, columns=columns), pd.DataFrame(samples, columns=names))


def _spread(values: list, value: float) -> tuple[float, float, float]:
    """Standard error and 95 % interval of a mean over items; NaN where ``value`` is none."""
    if len(values) > 1 and all(isinstance(one, Real) for one in values):
        of = stats.share if min(values) >= 0 and max(values) <= 1 else stats.cluster_mean
        mean, lo, hi = of(values, range(len(values)))
        if abs(mean - value) < 1e-9:
            return float(np.std(values, ddof=1) / len(values) ** 0.5), lo, hi
    return (float("nan"),) * 3


@contextlib.contextmanager
def _undisturbed(offline: bool) -> Iterator[None]:
    """lm-eval's seeds, no bars, no chatter and, when ``offline``, no network tried; afterwards all is as before."""
    import datasets
    import torch
    from huggingface_hub import constants, utils
    from lm_eval import defaults
    from lm_eval.api import task

    bars = {datasets: datasets.is_progress_bar_enabled(), utils: not utils.are_progress_bars_disabled()}
    changed = [(task, "tqdm", functools.partial(task.tqdm, disable=True))]
    changed += [(module, "HF_HUB_OFFLINE", True) for module in (datasets.config, constants) if offline]
    with quiet(), torch.random.fork_rng(), contextlib.ExitStack() as after:
        after.callback(random.setstate, random.getstate())
        after.callback(np.random.set_state, np.random.get_state())
        after.callback(logging.disable, logging.root.manager.disable)
        for module in (module for module, shown in bars.items() if shown):
            after.callback(module.enable_progress_bars)
            module.disable_progress_bars()
        for module, name, value in changed:
            after.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        logging.disable(max(logging.WARNING, logging.root.manager.disable))
        random.seed(defaults.DEFAULT_RANDOM_SEED)
        np.random.seed(defaults.DEFAULT_OTHER_SEED)
        torch.manual_seed(defaults.DEFAULT_OTHER_SEED)
        yield
