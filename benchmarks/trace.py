"""Speed and memory of the layerwise trace, beside a naive order and the machine's GEMM rate.

Four things are timed in turn, round after round, and medians compared, so that
a busy machine slows all of them:

ours   prunelib's trace_layers from tokens to tables: forward pass, h, z and p
       statistics of every attention and MLP sublayer, one temperature, one lens
six    the same at six temperatures
naive  the paper's order on a few sites and positions: for each layer and token,
       one row at a time, the head before and after attention and before and
       after the MLP (4 calls), two softmaxes and the metrics. Its forward pass is
       not counted
GEMM   only the head projections that the trace cannot do without: (2L + 1) rows a
       position times the [d, V] head, float32, in pieces as large as the machine
       likes

A site is one sublayer of one layer; a position is one token.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median

EPILOG = """examples:
  python benchmarks/trace.py                             the default model
  python benchmarks/trace.py --shape 896,151936,24       random weights, Qwen2.5-0.5B's shape
  python benchmarks/trace.py --shape 576,49152,30 --positions 64 --json result.json
  PRUNELIB_COMPILE=0 python benchmarks/trace.py          without torch.compile

how to read it: "ours / naive" should be 35 or more; "share of GEMM rate" is how
close the trace is to doing nothing but the projections (1 is the limit, 0.75 the
target, and 0.5 with six temperatures). Timings need an otherwise idle machine: at
least the ratios survive a busy one. The first round, in which code is compiled or
loaded, is not counted.
"""

SIX = (0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
TARGETS = {"naive": 35, "gemm": 0.75, "gemm_six": 0.5}


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.peak:  # a child that only measures its own memory
        print(peak_memory(options))
        return 0
    import torch

    lm = build(options)
    batch = tokens(lm, options)
    rounds = [one_round(lm, batch, options) for _ in range(options.rounds + 1)][1:]
    rate = {name: median(r[name] for r in rounds) for name in rounds[0]}
    bytes_used = (
        int(
            subprocess.run(
                [sys.executable, __file__, *(argv or sys.argv[1:]), "--peak"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()[-1]
        )
        if lm.device.type == "cpu"
        else peak_on_gpu(lm, batch, options)
    )
    result = {
        "model": lm.name,
        "d_model": lm.d_model,
        "vocab_size": lm.vocab_size,
        "n_layers": lm.n_layers,
        "positions": options.positions,
        "rounds": options.rounds,
        "sites_positions_per_s": {k: round(v, 1) for k, v in rate.items()},
        "ours_over_naive": round(median(r["ours"] / r["naive"] for r in rounds), 1),
        "share_of_gemm_rate": round(median(r["ours"] / r["gemm"] for r in rounds), 3),
        "share_of_gemm_rate_six_temperatures": round(median(r["six"] / r["gemm"] for r in rounds), 3),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "peak_extra_mib": round(bytes_used / 2**20),
        "max_bytes_mib": options.max_bytes >> 20,
        "threads": torch.get_num_threads(),
        "device": str(lm.device),
        "processor": processor(),
        "torch": torch.__version__,
    }
    report(result)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--model", default="smollm2-135m-instruct", help="alias, local folder or hub id (default: %(default)s)"
    )
    which.add_argument(
        "--shape", metavar="d,V,L", help="a random Llama of this width, vocabulary and depth instead of a model"
    )
    parser.add_argument(
        "--positions", type=int, default=64, help="positions traced in each round (default: %(default)s)"
    )
    parser.add_argument(
        "--naive-layers",
        type=int,
        default=3,
        help="layers of the naive order's subset, 4 positions each (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="rounds after one to warm up; medians are reported (default: %(default)s)"
    )
    parser.add_argument("--lens", choices=("raw", "normed"), default="normed")
    parser.add_argument("--max-bytes", type=int, default=2**28, help="the tracer's memory bound (default: 256 MiB)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if min(options.positions, options.rounds, options.naive_layers) < 1:
        parser.error("--positions, --rounds and --naive-layers must be at least 1")
    if options.shape:
        try:
            options.shape = tuple(int(x) for x in options.shape.split(","))
            d, vocabulary, layers = options.shape
        except ValueError:
            parser.error("--shape takes three integers: width, vocabulary, layers (576,49152,30)")
        if d % 64 or min(d, vocabulary, layers) < 1:
            parser.error("--shape: the width must be a multiple of 64, all three above 0")
    return options


def build(options):
    """The model to trace: a real one, or a random Llama of the asked shape."""
    import torch

    import prunelib

    if not options.shape:
        return prunelib.load(options.model, device=options.device)
    from transformers import AutoConfig, AutoModelForCausalLM

    d, vocabulary, layers = options.shape
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        hidden_size=d,
        intermediate_size=8 * d // 3,
        num_hidden_layers=layers,
        num_attention_heads=d // 64,
        num_key_value_heads=d // 64,
        vocab_size=vocabulary,
        initializer_range=d**-0.5,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(options.device)
    return prunelib.LM.from_model(model, name=f"random {d},{vocabulary},{layers}")


def tokens(lm, options):
    """Random token ids in rows of up to 64, all positions measured."""
    import torch

    length = min(64, options.positions)
    rows = -(-options.positions // length)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, lm.vocab_size, (rows, length), generator=generator)
    chosen = torch.arange(rows * length).view(rows, length) < options.positions
    return ids.to(lm.device), torch.ones_like(ids).to(lm.device), chosen.to(lm.device)


def one_round(lm, batch, options) -> dict[str, float]:
    """Sites × positions per second of the four, in turn."""
    sites = 2 * lm.n_layers
    return {
        "gemm": sites * options.positions / seconds(lm, gemm, lm, options.positions),
        "ours": sites * options.positions / seconds(lm, ours, lm, batch, options),
        "six": sites * options.positions / seconds(lm, ours, lm, batch, options, SIX),
        "naive": naive(lm, batch, options),
    }


def seconds(lm, function, *arguments) -> float:
    import torch

    wait = torch.cuda.synchronize if lm.device.type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    function(*arguments)
    wait()
    return time.perf_counter() - start


def ours(lm, batch, options, temperatures=(1.0,)):
    from prunelib.measure.trace import trace_layers

    return trace_layers(lm, *batch, lenses=(options.lens,), temperatures=temperatures, max_bytes=options.max_bytes)


def gemm(lm, positions: int):
    """(2L + 1) · positions rows on the head, in blocks of 4096 rows × 1024 tokens."""
    import torch

    rows = (2 * lm.n_layers + 1) * positions
    weight = lm.W.float()
    x = torch.randn(rows, lm.d_model, device=lm.device)
    out = torch.empty(min(rows, 4096), 1024, device=lm.device)
    for block in x.split(4096):
        for chunk in weight.split(1024):
            torch.mm(block, chunk.T, out=out[: len(block), : len(chunk)])


def naive(lm, batch, options) -> float:
    """The paper's order on a few layers and positions; sites × positions per second.

    Reading the states out of the forward pass is not counted.
    """
    import torch

    from prunelib.measure.trace import sublayer_states

    layers = sorted({i * (lm.n_layers - 1) // max(1, options.naive_layers - 1) for i in range(options.naive_layers)})
    few = torch.zeros_like(batch[2])
    few.view(-1)[: min(4, options.positions)] = True
    states = list(sublayer_states(lm, *batch[:2], few, layers=layers))
    count = len(states[0][2])

    def run():
        table = []
        with torch.no_grad():
            for _, _, after, before in states:
                for token in range(count):
                    table.append(naive_row(lm, after[token], before[token], options.lens))
        return table

    return len(states) * count / seconds(lm, run)


def naive_row(lm, after, before, lens: str) -> list[float]:
    """One site and token: head before and after, softmax of both, every metric by itself."""
    import torch

    z, z_new = lm.unembed(after[None], lens)[0], lm.unembed(before[None], lens)[0]
    p, q = torch.softmax(z, -1), torch.softmax(z_new, -1)
    log_p, log_q = torch.log_softmax(z, -1), torch.log_softmax(z_new, -1)
    dz, dh = z_new - z, before - after
    r = p.square() / p.square().sum()

    def cosine(a, b):
        return 1 - torch.nn.functional.cosine_similarity(a, b, dim=-1).item()

    def parts(x, dx):
        alpha = torch.dot(dx, x) / torch.dot(x, x)
        return [alpha.item(), ((dx - alpha * x).norm() / x.norm()).item(), x.norm().item()]

    def variance(weight):
        mean = (weight * dz).sum()
        return (weight * (dz - mean).square()).sum().item()

    return [
        cosine(after, before),
        *parts(after, dh),
        cosine(z, z_new),
        cosine(z - z.mean(), z_new - z_new.mean()),
        *parts(z, dz),
        dz.square().mean().sqrt().item(),
        dz.mean().item(),
        z.mean().item(),
        cosine(p, q),
        (p * (log_p - log_q)).sum().item(),
        (q * (log_q - log_p)).sum().item(),
        variance(r),
        variance(p),
        variance(q),
        (dz.max() - dz.min()).item(),
        -(p * log_p).sum().item(),
        p.max().item(),
        float(z.argmax() == z_new.argmax()),
    ]


def peak_memory(options) -> int:
    """Bytes above the resting process while tracing: polled resident memory (Linux)."""
    from prunelib.measure import compiled

    lm = build(options)
    batch = tokens(lm, options)
    small = batch[2].clone()
    small.view(-1)[1:] = False
    pays, compiled.PAYS = compiled.PAYS, 0
    ours(lm, (*batch[:2], small), options)  # libraries, compiled code and the Gram matrix are loaded
    compiled.PAYS = pays
    peak, done = [resident()], threading.Event()
    rest = peak[0]

    def watch():
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    ours(lm, batch, options)
    done.set()
    watcher.join()
    return peak[0] - rest


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_on_gpu(lm, batch, options) -> int:
    import torch

    torch.cuda.reset_peak_memory_stats()
    rest = torch.cuda.memory_allocated()
    ours(lm, batch, options)
    return torch.cuda.max_memory_allocated() - rest


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def report(result: dict) -> None:
    rate = result["sites_positions_per_s"]
    print(
        f"{result['model']}: d={result['d_model']}, V={result['vocab_size']}, "
        f"L={result['n_layers']}, {result['positions']} positions, median of "
        f"{result['rounds']} rounds, {result['threads']} threads, {result['processor']}"
    )
    print(f"  ours    {rate['ours']:>10,.0f} sites × positions / s   (everything)")
    print(f"  six     {rate['six']:>10,.0f} sites × positions / s   (everything, {len(SIX)} temperatures)")
    print(f"  naive   {rate['naive']:>10,.0f} sites × positions / s   (without its forward pass)")
    print(f"  GEMM    {rate['gemm']:>10,.0f} sites × positions / s   (head projections only)")
    print(f"  ours / naive        {result['ours_over_naive']:>8.1f}   target {TARGETS['naive']}")
    print(f"  share of GEMM rate  {result['share_of_gemm_rate']:>8.2f}   target {TARGETS['gemm']}")
    six = result["share_of_gemm_rate_six_temperatures"]
    print(f"    six temperatures  {six:>8.2f}   target {TARGETS['gemm_six']}")
    print(f"  peak extra memory   {result['peak_extra_mib']:>5} MiB   bound {result['max_bytes_mib']} MiB")


if __name__ == "__main__":
    raise SystemExit(main())
