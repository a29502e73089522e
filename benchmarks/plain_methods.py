"""Wanda, SparseGPT and GPTQ beside the plain order of their authors' published algorithms.

Both compress the same first blocks of one resident model on the same tokens, in
turns, in one process; what they make must agree. The plain order, written here
from the papers: calibration runs one sequence at a time through each block, every
matrix collects its own statistics (attention's three projections the same Gram
matrix three times), weights lie as [d_out, d_in] and are gone through column by
column in blocks of 128 (Frantar & Alistarh 2023, Algorithm 1; Frantar et al. 2023,
Algorithm 1; Sun et al. 2024, eq. 1), then the block runs again.
"""

import argparse
import time
from itertools import islice
from statistics import median

EPILOG = """examples:
  python benchmarks/plain_methods.py                       the default model, 3 blocks, 8 × 128 tokens
  python benchmarks/plain_methods.py --blocks 1 --rounds 1

how to read it: "ratio" is the plain order's seconds divided by ours, the median over rounds. "same" is the share
of weights that are zero, or lie on the same point of the grid, in both; "apart" is ‖W₁ − W₂‖ / ‖W₂‖ of all new
weights of the first block, whose inputs are the same. Sums are made in another order, and a column that is rounded
the other way moves all after it: SparseGPT and GPTQ agree closely, not to the bit.
"""
COLUMNS = 128
"""A block of columns, as in both papers."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="alias, folder or hub id, of Llama's layout")
    parser.add_argument("--blocks", type=int, default=3, help="blocks compressed (default: %(default)s)")
    parser.add_argument("--sequences", type=int, default=8, help="calibration sequences (default: %(default)s)")
    parser.add_argument("--length", type=int, default=128, help="tokens of each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, in turns (default: %(default)s)")
    options = parser.parse_args(argv)
    if min(options.blocks, options.sequences, options.length, options.rounds) < 1:
        parser.error("all counts must be at least 1")

    import torch

    import prunelib
    from prunelib.methods import parse
    from prunelib.methods.walk import walk

    lm = prunelib.load(options.model, device="cpu")
    ids = torch.randint(
        3, lm.vocab_size, (options.sequences, options.length), generator=torch.Generator().manual_seed(0)
    )
    print(f"{lm.name}, {options.blocks} blocks, {options.sequences} × {options.length} tokens")
    print(f"{'method':<16} {'ours s':>8} {'plain s':>8} {'ratio':>6} {'same':>8} {'apart':>8}")
    for spec, plain in (("wanda:0.5", wanda), ("sparsegpt:0.5", sparsegpt), ("gptq:4:g64", gptq)):
        ours_s, plain_s = [], []
        for _ in range(options.rounds):
            start = time.perf_counter()
            ours = [step.new[spec] for step in islice(walk(lm, {spec: parse(spec)}, ids), options.blocks)]
            ours_s.append(time.perf_counter() - start)
            start = time.perf_counter()
            theirs = in_plain_order(lm, ids, plain, options.blocks)
            plain_s.append(time.perf_counter() - start)
        ratio = median(b / a for a, b in zip(ours_s, plain_s, strict=True))
        same, apart = agreement(ours[0], theirs[0], exact_points=spec.startswith("gptq"))
        print(
            f"{spec:<16} {median(ours_s):>8.2f} {median(plain_s):>8.2f} {ratio:>6.1f} {same:>8.2%} {apart:>8.1e}",
            flush=True,
        )
    return 0


def agreement(ours: dict, theirs: dict, exact_points: bool) -> tuple[float, float]:
    """Share of places where both removed (or both rounded alike), and the relative distance of all weights."""
    import torch

    names = list(theirs)
    a, b = (torch.cat([one[name].flatten() for name in names]) for one in (ours, theirs))
    # Steps of a grid of 16 points are some hundredth of a weight: far more than rounding.
    same = torch.isclose(a, b, rtol=1e-3, atol=1e-6) if exact_points else (a == 0) == (b == 0)
    return same.double().mean().item(), ((a - b).norm() / b.norm()).item()


def in_plain_order(lm, ids, method, blocks: int) -> list[dict]:
    """New weights of the first blocks by name; the model is left as it was."""
    import torch
    from torch import nn

    from prunelib.methods.walk import batches, run_block

    rows, made, kept = [batches(lm, one[None])[0] for one in ids], [], []
    for layer in range(blocks):
        block = lm.layers[layer]
        linear = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        seen = {name: torch.zeros(module.in_features, module.in_features) for name, module in linear.items()}
        norms = {name: torch.zeros(module.in_features) for name, module in linear.items()}

        def read(name, needs_gram=method is not wanda, seen=seen, norms=norms):
            def hook(module, inputs, output):
                x = inputs[0].reshape(-1, inputs[0].shape[-1]).float().T
                norms[name] += x.norm(dim=1).square()
                if needs_gram:
                    seen[name] += x @ x.T

            return hook

        handles = [module.register_forward_hook(read(name)) for name, module in linear.items()]
        for row in rows:
            run_block(lm, layer, row)
        for handle in handles:
            handle.remove()
        new = {}
        for name, module in linear.items():
            kept.append((module, module.weight.data))
            new[f"{layer}.{name}"] = method(module.weight.data.float(), seen[name], norms[name])
            module.weight.data = new[f"{layer}.{name}"].to(module.weight.dtype)
        made.append(new)
        for row in rows:
            row.states = run_block(lm, layer, row)
    for module, weight in kept:
        module.weight.data = weight
    return made


def wanda(weight, gram, norms):
    """Half of each row, by |W|·‖X‖ (Sun et al. 2024, eq. 1)."""
    import torch

    order = torch.sort(weight.abs() * norms.sqrt()[None], dim=-1, stable=True)[1]
    mask = torch.zeros_like(weight, dtype=torch.bool).scatter_(1, order[:, : weight.shape[1] // 2], True)
    return weight.masked_fill(mask, 0)


def upper_inverse(gram):
    """U with (G + 0.01·mean diag)⁻¹ = UᵀU."""
    import torch

    h = gram.clone()
    h.diagonal().add_(0.01 * h.diagonal().mean())
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)


def sparsegpt(weight, gram, norms):
    """Half of each block of columns, with later columns making up for it (Frantar & Alistarh 2023, Algorithm 1)."""
    import torch

    w, u = weight.clone(), upper_inverse(gram)
    for start in range(0, w.shape[1], COLUMNS):
        end = min(start + COLUMNS, w.shape[1])
        block, inverse = w[:, start:end].clone(), u[start:end, start:end]
        scores = (block / inverse.diagonal()).square()
        mask = scores <= scores.flatten().sort()[0][scores.numel() // 2 - 1]
        errors = torch.zeros_like(block)
        for i in range(end - start):
            column = block[:, i]
            errors[:, i] = (column - column.masked_fill(mask[:, i], 0)) / inverse[i, i]
            block[:, i:] -= errors[:, i, None] @ inverse[i, None, i:]
        w[:, start:end] = block.masked_fill(mask, 0)
        w[:, end:] -= errors @ u[start:end, end:]
    return w


def gptq(weight, gram, norms, bits: int = 4, group: int = 64):
    """Round column by column, with later columns making up for it (Frantar et al. 2023, Algorithm 1)."""
    import torch

    w, u, top = weight.clone(), upper_inverse(gram), 2**bits - 1
    done = torch.zeros_like(w)
    for start in range(0, w.shape[1], COLUMNS):
        end = min(start + COLUMNS, w.shape[1])
        block, inverse = w[:, start:end].clone(), u[start:end, start:end]
        errors = torch.zeros_like(block)
        for i in range(end - start):
            if (start + i) % group == 0:
                ahead = block[:, i : i + group]  # 64 divides 128: a group never leaves its block of columns
                low, high = ahead.amin(1).clamp(max=0), ahead.amax(1).clamp(min=0)
                step = (high - low) / top
                zero = torch.round(-low / step)
            column = block[:, i]
            done[:, start + i] = step * (torch.clamp(torch.round(column / step) + zero, 0, top) - zero)
            errors[:, i] = (column - done[:, start + i]) / inverse[i, i]
            block[:, i:] -= errors[:, i, None] @ inverse[i, None, i:]
        w[:, end:] -= errors @ u[start:end, end:]
    return done


if __name__ == "__main__":
    raise SystemExit(main())
