"""What a greedy choice at the output costs: time and memory, against whole forward passes for every candidate.

  python benchmarks/removals.py [--model M] [--kinds attn+mlp] [--budget 8] [--rows 8] [--tokens 48] [--peers 6]

Ours is ``drop:kl:KINDS:BUDGET`` as a whole: the dense pass, and every candidate after every drop, none left out. The
peer drops the same site and runs the whole model on the same tokens, logits at all positions, and takes the KL at the
positions that we compare. It is timed at some candidates of the first step, evenly spaced, and its time for all
removals is that of their mean: an extrapolation, said as such. The largest difference of the two KLs is printed beside.

Processor seconds are those of all threads together: they say what the work is where others use the machine too. The
target, three minutes for 60 sublayers and budget 8 of the default model, is for two idle cores.
"""

import argparse
import threading
import time
from pathlib import Path

import torch

from prunelib.measure.distances import kl
from prunelib.measure.removal import Removals
from prunelib.methods import parse
from prunelib.methods.criterion import kinds_of
from prunelib.models import hooks
from prunelib.models.load import load
from prunelib.models.sublayers import Site


class Watched:
    """Wall and processor seconds of a block, and how far resident memory rose in it, in MiB (Linux)."""

    def __enter__(self):
        self.rest, self.mib, self.done = resident(), 0.0, threading.Event()
        self.watcher = threading.Thread(target=self._watch)
        self.watcher.start()
        self.started = time.perf_counter(), time.process_time()
        return self

    def _watch(self):
        while not self.done.wait(0.01):
            self.mib = max(self.mib, resident() - self.rest)

    def __exit__(self, *_):
        self.wall, self.cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        self.done.set()
        self.watcher.join()


def resident() -> float:
    import os

    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--kinds", default="attn+mlp", help="attn, mlp, attn+mlp or block")
    parser.add_argument("--budget", type=int, default=8)
    parser.add_argument("--rows", type=int, default=8, choices=range(1, 9), metavar="1..8")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--peers", type=int, default=6, help="candidates at which the peer is timed")
    given = parser.parse_args()
    lm = load(given.model)
    method = parse(f"drop:kl:{given.kinds}:{given.budget}")
    method.check(lm.n_layers)
    ids = torch.randint(3, lm.vocab_size, (given.rows, given.tokens), generator=torch.Generator().manual_seed(0))
    sites = [Site(kind, layer) for layer in range(lm.n_layers) for kind in kinds_of(method.ranking)]
    removals = sum(len(sites) - step for step in range(given.budget))
    print(f"{lm.name}, {method.spec}: {len(sites)} sites, {removals} removals, {given.rows} × {given.tokens} tokens, "
          f"{torch.get_num_threads()} threads")  # fmt: skip

    alone = Removals(lm, ids)
    alone.without(sites[0])  # libraries are loaded
    some = [sites[i * len(sites) // given.peers] for i in range(given.peers)]
    with Watched() as peer:
        theirs = [plainly(lm, ids, site, alone) for site in some]
    ours = [float(alone.without(site)[:, 0].mean()) for site in some]
    apart = max(abs(a - b) / max(a, b) for a, b in zip(ours, theirs, strict=True))
    del alone
    with Watched() as greedy:
        plan = method.plan(lm, ids)
    scale = removals / given.peers
    for name, one, count, factor in (("greedy", greedy, removals, 1), ("whole passes", peer, given.peers, scale)):
        print(f"{name:<14}{one.wall * factor:8.1f} s {one.cpu * factor:8.1f} processor s {one.wall / count:7.3f} s a "
              f"removal {one.mib:6.0f} MiB above the model")  # fmt: skip
    print(f"(whole passes: from {given.peers} of the {removals} removals)")
    print(f"ratio {peer.wall * scale / greedy.wall:.2f} of wall, {peer.cpu * scale / greedy.cpu:.2f} of processor time")
    print(f"the KLs differ by at most {apart:.1e} of themselves")
    print("+".join(map(str, plan.sites)))


def plainly(lm, ids, site: Site, alone: Removals) -> float:
    """KL without a site by one whole forward pass; the dense logits are kept, as a careful user would keep them."""
    where, dense = alone._batches[0].places, alone._batches[0].dense
    with torch.inference_mode(), hooks.dropped(lm, [site]):
        return float(kl(dense, lm.model(input_ids=ids, use_cache=False).logits[where]).mean())


if __name__ == "__main__":
    main()
