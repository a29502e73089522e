"""Items a second of each read-out, beside lm-eval's HFLM and HF ``generate`` on the same items.

All run in one process on one resident model, in turns, and must give the same scores:
the largest difference of a log-likelihood and the share of equal texts are printed too.
"""

import argparse
import statistics
import time

EPILOG = """examples:
  python benchmarks/tasks.py                      the default model, 48 items, 16 longer texts
  python benchmarks/tasks.py --items 24 --rounds 1

how to read it: "ratio" is our items a second divided by the peer's, the median over rounds.
Timings need an otherwise idle machine: with a busy core, two threads wait for each other.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="alias, folder or hub id")
    parser.add_argument("--items", type=int, default=48, help="questions asked (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=16, help="longer texts written (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, in turns (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="for all of them (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    options = parser.parse_args(argv)
    if min(options.items, options.texts, options.tokens, options.rounds, options.batch_size) < 1:
        parser.error("all counts must be at least 1")

    import prunelib

    lm = prunelib.load(options.model, device=options.device)
    print(f"{lm.name} on {lm.device}, {options.items} items, {options.texts} texts of {options.tokens} tokens")
    print(f"{'read-out':<18} {'peer':<10} {'ours/s':>8} {'peer/s':>8} {'ratio':>6}  agreement")
    for name, count, ours, peers in readouts(lm, options):
        times = {peer: [] for peer in ("ours", *peers)}
        results = {}
        for _ in range(options.rounds):
            for peer, run in {"ours": ours, **peers}.items():
                start = time.perf_counter()
                results[peer] = run()
                times[peer].append(time.perf_counter() - start)
        for peer in peers:
            ratio = statistics.median(b / a for a, b in zip(times["ours"], times[peer], strict=True))
            rates = [count / statistics.median(times[who]) for who in ("ours", peer)]
            print(
                f"{name:<18} {peer:<10} {rates[0]:>8.2f} {rates[1]:>8.2f} {ratio:>6.2f}  "
                f"{agreement(results['ours'], results[peer])}",
                flush=True,
            )
    return 0


def agreement(ours: list, peer: list) -> str:
    if isinstance(ours[0], float):
        return f"largest difference {max(abs(a - b) for a, b in zip(ours, peer, strict=True)):.1e} nats"
    return f"{sum(a == b for a, b in zip(ours, peer, strict=True)) / len(ours):.1%} equal texts"


def readouts(lm, options):
    """(name, items, our run, {peer: its run}) of each read-out."""
    from lm_eval.models.huggingface import HFLM

    from prunelib.engine.decode import generate
    from prunelib.engine.text import load_prompts
    from prunelib.tasks import readouts as asked
    from prunelib.tasks.items import LETTERS, load_items
    from prunelib.tasks.score import Request, loglikelihoods

    harness = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=options.batch_size)
    items, shown = load_items()[: options.items], asked.demonstration()
    size = options.batch_size

    def requests(prompts, answers):
        contexts = [lm.encode_one(text, chat=False) for text in prompts]
        return [
            Request(contexts[i], asked.continuation_ids(lm, prompts[i], " " + answer, contexts[i]), items[i].passage_id)
            for i, answer in answers
        ]

    def scored(wanted):
        return lambda: loglikelihoods(lm, wanted, 4 * size)["logprob"].tolist()

    def by_harness(wanted):
        words = [(("", ""), list(r.context), list(r.continuation)) for r in wanted]
        return lambda: [score for score, _ in harness._loglikelihood_tokens(words, disable_tqdm=True)]

    plain, lettered = ([asked.prompt(item, shown, letters=flag) for item in items] for flag in (False, True))
    sets = {
        "choice by text": (plain, [(i, option) for i, item in enumerate(items) for option in item.options]),
        "choice by letter": (lettered, [(i, LETTERS[n]) for i, item in enumerate(items) for n in range(4)]),
        "forced answer": (plain, [(i, item.answer) for i, item in enumerate(items)]),
    }
    for name, (prompts, answers) in sets.items():
        wanted = requests(prompts, answers)
        yield name, len(items), scored(wanted), {"HFLM": by_harness(wanted)}

    encoded = [lm.encode_one(text, chat=False) for text in plain]
    groups = [item.passage_id for item in items]

    def short():
        return [
            g.text for g in generate(lm, encoded, asked.NEW_TOKENS, stop=asked.STOP, groups=groups, batch_size=size)
        ]

    def short_generate():
        return generate(lm, encoded, asked.NEW_TOKENS, size, asked.STOP)

    yield "generation", len(items), short, {"generate": short_generate}
    long = [lm.encode_one(p.text) for p in load_prompts("data/tasks/prompts_long.jsonl", options.texts)]

    def ours():
        return [g.text for g in generate(lm, long, options.tokens, batch_size=size)]

    yield "longer texts", len(long), ours, {"generate": lambda: generate(lm, long, options.tokens, size)}


def generate(lm, prompts, new_tokens: int, size: int, stop=()) -> list[str]:
    """HF ``generate``, greedy, in length-sorted left-padded batches: what a careful user would write."""
    import torch

    from prunelib.models.lm import pad

    found = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    words = {"stop_strings": list(stop), "tokenizer": lm.tokenizer} if stop else {}
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        batch = pad([prompts[i] for i in rows], lm.pad_id, "left", lm.device)
        with torch.inference_mode():
            out = lm.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=lm.pad_id,
                eos_token_id=sorted(lm.eos_ids),
                **words,
            )
        for i, ids in zip(rows, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            end = next((n for n, token in enumerate(ids) if token in lm.eos_ids), len(ids))
            text = lm.decode(ids[:end])
            found[i] = text[: min((text.find(w) for w in stop if w in text), default=len(text))]
    return [found[i] for i in range(len(prompts))]


if __name__ == "__main__":
    raise SystemExit(main())
