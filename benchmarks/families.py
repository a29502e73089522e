"""The default model rewritten as every family that can hold its weights: how far the logits are, and what it takes.

    python benchmarks/families.py [--model NAME] [--json]

A row a family: the largest difference of a logit from the Llama original over some texts, whether the greedy
continuations are the same, and seconds of a forward pass over those of the original, measured in turns.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from rewritten import CLOSE, EXACT, rewritten

import prunelib

TEXTS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "def fibonacci(n):",
    "Once upon a time there was a dog who",
]
TOKENS, TURNS = 24, 5


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    lm = prunelib.load(given.model, device="cpu", dtype="float32")
    batch = lm.encode(TEXTS)
    rows = [row(lm.model, batch, kind) for kind in EXACT + CLOSE]
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'family':<12}{'largest logit difference':>26}{'same texts':>12}{'time':>8}")
    for one in rows:
        print(f"{one['family']:<12}{one['difference']:>26.1e}{one['same_texts']:>12}{one['time']:>7.2f}x")


@torch.no_grad()
def row(model, batch, kind: str) -> dict:
    other = rewritten(model, kind)
    real = batch["attention_mask"].bool()
    difference = (other(**batch).logits - model(**batch).logits)[real].abs().max().item()
    ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
    texts = [one.generate(**ids, max_new_tokens=TOKENS, do_sample=False) for one in (model, other)]
    ratios = []
    for _ in range(TURNS):
        seconds = []
        for one in (model, other):
            started = time.perf_counter()
            one(**batch)
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[1] / seconds[0])
    same = "yes" if torch.equal(*texts) else "no"
    return {"family": kind, "difference": difference, "same_texts": same, "time": statistics.median(ratios)}


if __name__ == "__main__":
    main()
