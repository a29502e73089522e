"""Speed and memory of compressing a whole model, method by method.

Each method runs in a process of its own: the model is loaded, calibration tokens
(random ids: what they are does not matter here) wait in memory, and then
``prunelib.methods.apply.compress`` is timed once. Peak memory is what the process
held beyond its state just before. Beside it, in the same process, stands the time
of the forward passes that no calibrated method can do without: every block twice
on all tokens, which is the limit of a free method.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

SPECS = "magnitude:0.5,wanda:0.5,wanda:2:4,sparsegpt:0.5,sparsegpt:2:4,rtn:4:g64,gptq:4:g64,gptq:4:g64:act,awq:4:g64"
LIMITS = {"wanda:0.5": 12, "sparsegpt:0.5": 45, "gptq:4:g64": 30}
"""Seconds for the default model with 8 × 128 tokens on 2 cores, loading excluded."""

EPILOG = """examples:
  python benchmarks/compress.py                                the default model, 8 × 128 tokens
  python benchmarks/compress.py --sequences 128 --length 256   the calibration of a long run
  python benchmarks/compress.py --scaling scaling.png          time against layers and against tokens, as a figure

how to read it: "limit" is two forward passes; what a method adds to it is its own work.
Timings need an otherwise idle machine: with a busy core, two threads wait for each other.
"""


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.child:
        print(json.dumps(measure(options)))
        return 0
    if options.scaling:
        scaling(options)
        return 0
    specs = options.specs.split(",")
    print(f"{options.model}, {options.sequences} × {options.length} tokens")
    print(f"{'method':<16} {'seconds':>8} {'limit':>7} {'ratio':>6} {'peak MiB':>9} {'target':>7}")
    rows = []
    for spec in specs:
        row = child(options, spec)
        rows.append(row)
        target = LIMITS.get(spec, "") if (options.sequences, options.length) == (8, 128) else ""
        print(
            f"{spec:<16} {row['seconds']:>8.1f} {row['limit']:>7.1f} {row['seconds'] / row['limit']:>6.1f} "
            f"{row['peak_mib']:>9.0f} {target:>7}",
            flush=True,
        )
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="alias, folder or hub id")
    parser.add_argument("--specs", default=SPECS, help="methods, separated by commas")
    parser.add_argument("--sequences", type=int, default=8, help="calibration sequences (default: %(default)s)")
    parser.add_argument("--length", type=int, default=128, help="tokens of each (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")
    parser.add_argument("--scaling", metavar="FILE", help="draw seconds against layers and tokens (.png, .svg, .pdf)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if min(options.sequences, options.length) < 1:
        parser.error("--sequences and --length must be at least 1")
    return options


def child(options, spec: str) -> dict:
    """The measurement of one method in a fresh process."""
    facts = {
        "model": options.model,
        "sequences": options.sequences,
        "length": options.length,
        "device": options.device,
        "specs": spec,
    }
    words = [f"--{name}={value}" for name, value in facts.items()]
    done = subprocess.run([sys.executable, __file__, *words, "--child"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(options) -> dict:
    import torch

    import prunelib
    from prunelib.methods.apply import compress
    from prunelib.methods.walk import advance, batches

    lm = prunelib.load(options.model, device=options.device)
    ids = random_ids(lm, options.sequences, options.length)
    wait = torch.cuda.synchronize if lm.device.type == "cuda" else (lambda: None)

    advance(lm, 0, batches(lm, ids[:1]))  # libraries are loaded
    rows = batches(lm, ids)
    start = time.perf_counter()
    for layer in range(lm.n_layers):
        advance(lm, layer, rows)
        advance(lm, layer, rows)
    wait()
    limit = time.perf_counter() - start
    del rows

    with Peak(lm.device.type == "cuda") as peak:
        start = time.perf_counter()
        made = compress(lm, [options.specs], ids)
        wait()
        seconds = time.perf_counter() - start
    kept = sum(w.numel() * w.element_size() for w in made[options.specs].weights.values())
    return {
        "spec": options.specs,
        "model": lm.name,
        "layers": lm.n_layers,
        "tokens": ids.numel(),
        "seconds": seconds,
        "limit": limit,
        "peak_mib": peak.bytes / 2**20,
        "result_mib": kept / 2**20,
        "threads": torch.get_num_threads(),
        "device": str(lm.device),
    }


class Peak:
    """Most memory above the state at entry: polled resident memory (Linux), or the GPU's own count."""

    def __init__(self, gpu: bool):
        self.gpu, self.bytes = gpu, 0

    def __enter__(self):
        import torch

        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
            self.rest = torch.cuda.memory_allocated()
            return self
        self.rest, self.done = resident(), threading.Event()
        self.watcher = threading.Thread(target=self._watch)
        self.watcher.start()
        return self

    def _watch(self):
        while not self.done.wait(0.005):
            self.bytes = max(self.bytes, resident() - self.rest)

    def __exit__(self, *_):
        import torch

        if self.gpu:
            self.bytes = torch.cuda.max_memory_allocated() - self.rest
            return
        self.done.set()
        self.watcher.join()


def resident() -> int:
    import os

    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def random_ids(lm, sequences: int, length: int):
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, lm.vocab_size, (sequences, length), generator=generator)


def scaling(options) -> None:
    """Seconds against layers (8 × 128 tokens) and against tokens (all layers), drawn as two panels."""
    from matplotlib.figure import Figure

    import prunelib

    lm = prunelib.load(options.model, device=options.device)
    parent, _, name = lm.arch.layers.rpartition(".")
    parent, blocks = lm.model.get_submodule(parent), lm.model.get_submodule(lm.arch.layers)
    whole = len(blocks)

    def seconds(spec: str, layers: int, sequences: int) -> float:
        from prunelib.methods.apply import compress

        setattr(parent, name, blocks[:layers])
        ids = random_ids(lm, sequences, 128)
        start = time.perf_counter()
        compress(lm, [spec], ids)
        return time.perf_counter() - start

    specs = ["wanda:0.5", "sparsegpt:0.5", "gptq:4:g64", "awq:4:g64"]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    by_layers, by_tokens = figure.subplots(1, 2)
    for spec in specs:
        layers = [max(1, whole * i // 3) for i in (1, 2, 3)]
        times = [seconds(spec, n, 8) for n in layers]
        by_layers.plot(layers, times, marker="o", label=spec)
        rows = [4, 8, 16, 32]
        more = [times[-1] if n == 8 else seconds(spec, whole, n) for n in rows]
        by_tokens.plot([128 * n for n in rows], more, marker="o", label=spec)
        shown = [f"{n} layers {t:.1f} s" for n, t in zip(layers, times, strict=True)]
        shown += [f"{128 * n} tokens {t:.1f} s" for n, t in zip(rows, more, strict=True)]
        print(f"{spec:<16} {', '.join(shown)}", flush=True)
    by_layers.set(xlabel="layers", ylabel="seconds", ylim=(0, None), xlim=(0, None))
    by_tokens.set(xlabel="calibration tokens", ylim=(0, None), xlim=(0, None))
    by_layers.legend()
    setattr(parent, name, blocks)
    figure.savefig(options.scaling, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main())
