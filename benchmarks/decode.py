"""What three trajectories cost, against plain generation: time and memory, dense and pruned model, same prompts.

  python benchmarks/decode.py [--model M] [--spec drop:attn:8] [--prompts 16] [--tokens 32] [--repeats 3]

The peer is ``model.generate`` of transformers, greedy, batched, of the dense model and then of the pruned one. Ours
writes the same texts, reads both with both models, and compares all pairs at every step. Reported: medians over the
repeats, which alternate; the ratio; and the peak of the process at a number of steps and at twice as many.
"""

import argparse
import resource
import statistics
import time

import torch

from prunelib.engine.decode import most_likely
from prunelib.engine.text import load_prompts
from prunelib.measure import decode
from prunelib.methods.apply import compress
from prunelib.models.lm import pad
from prunelib.models.load import load


def plain(lm, made, prompts, tokens: int) -> list[list[list[int]]]:
    """Texts of the dense and of the pruned model by transformers alone."""
    batch = pad(prompts, lm.pad_id, device=lm.device)
    about = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": lm.pad_id}

    def write():
        made_ids = lm.model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **about)
        return made_ids[:, batch["input_ids"].shape[1] :].tolist()

    dense = write()
    with made.applied(lm):
        return [dense, write()]


def ours(lm, made, prompts, tokens: int):
    """The same texts, and all three trajectories."""
    options = {"suppress": sorted(lm.eos_ids), "batch_size": len(prompts)}
    dense_read, pruned_read = {}, {}
    dense = decode.write(lm, prompts, tokens, most_likely, memo=dense_read, **options)
    with made.applied(lm):
        own = decode.write(lm, prompts, tokens, most_likely, memo=pruned_read, **options)
        pruned = decode.read(lm, prompts, dense, own, memo=pruned_read)
    held = decode.read(lm, prompts, dense, own, memo=dense_read)
    a, b = (decode.Texts(*one) for one in zip((dense, own), held, pruned, strict=True))
    return decode.trajectories(lm, a, b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--spec", default="drop:attn:8")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    lm = load(given.model)
    prompts = [lm.encode_one(prompt.text) for prompt in load_prompts(limit=given.prompts)]
    calibration = torch.randint(0, lm.vocab_size, (4, 64), generator=torch.Generator().manual_seed(0))
    made = compress(lm, [given.spec], calibration)[given.spec]
    sizes = f"{len(prompts)} prompts, {given.tokens} tokens each, {torch.get_num_threads()} threads"
    print(f"{lm.name}, {given.spec}: {sizes}")
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(given.repeats):
        for name, run in (("plain", plain), ("ours", ours)):
            started = time.perf_counter()
            run(lm, made, prompts, given.tokens)
            times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(some) for name, some in times.items()}
    print(f"plain generation {medians['plain']:.2f} s, three trajectories {medians['ours']:.2f} s, "
          f"ratio {medians['ours'] / medians['plain']:.2f}")  # fmt: skip
    peaks = []
    for tokens in (given.tokens, 2 * given.tokens):
        ours(lm, made, prompts, tokens)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    logits = 4 * len(prompts) * given.tokens * lm.vocab_size * 4 / 2**20
    print(f"peak of the process {peaks[0]:.0f} MiB, with twice the tokens {peaks[1]:.0f} MiB")
    print(f"(the logits of the added steps alone would be {logits:.0f} MiB)")


if __name__ == "__main__":
    main()
