"""What `prunelib run --dry-run` expects beside what the same notebooks then take: time, processor time and memory.

The estimate is made once, right before the run, with the same number of threads; then the notebooks run one after the
other in a new folder, each in a process of its own, so that its processor time is known.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

EPILOG = """examples:
  OMP_NUM_THREADS=1 python benchmarks/estimate.py --profile smoke
  OMP_NUM_THREADS=1 python benchmarks/estimate.py 05 06 13 --profile quick --model DIR

how to read it: "ratio" is predicted over measured. Where other work shares the machine the wall-clock ratio changes
with it; "ratio, busy" leaves that out: the predicted time over the load that the calibration saw, by the processor time
that a notebook took (of all threads, so it means something with one thread).
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", help="numbers or names (default: all)")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="alias, folder or hub id")
    parser.add_argument("--profile", default="smoke", help="smoke, quick or full (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="run folder (default: a temporary one)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder) / "run"
        common = ["--model", options.model, "--profile", options.profile, "--out", str(out)]
        found = json.loads(prunelib(*options.notebooks, *common, "--dry-run", "--json"))
        load, threads = found["calibration"]["load"], found["calibration"]["threads"]
        print(f"calibrated in {found['calibration']['seconds']:.0f} s, {threads} thread(s), load {load:.1f}")
        heads = ("predicted", "measured", "ratio", "busy", "ratio, busy", "GB", "GB", "ratio")
        print(f"{'':<32}" + "".join(f"{head:>12}" for head in heads), flush=True)
        total = [0.0, 0.0, 0.0]
        for row in found["notebooks"]:
            before = busy()
            prunelib(row["notebook"], *common)
            used = (busy() - before) / threads
            manifest = json.loads((out / "parts" / f"{row['notebook']}.json").read_text())
            seconds, memory = manifest["executed"]["wall_seconds"], manifest["cost"]["memory_gib"] * 2**30 / 1e9
            show(row["notebook"], row["seconds"], seconds, used, load, row["memory_bytes"] / 1e9, memory)
            total = [a + b for a, b in zip(total, (row["seconds"], seconds, used), strict=True)]
        show("total", *total, load)
        kept = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        expected = sum(row["disk_bytes"] for row in found["notebooks"])
        print(f"run folder: {expected / 1e6:.0f} MB predicted, {kept / 1e6:.0f} MB there, {expected / kept:.2f}")
    return 0


def show(name: str, predicted: float, seconds: float, used: float, load: float, *memory: float) -> None:
    cells = [f"{predicted:.1f} s", f"{seconds:.1f} s", f"{predicted / seconds:.2f}", f"{used:.1f} s"]
    cells += [f"{predicted / load / used:.2f}"]
    cells += [f"{memory[0]:.2f}", f"{memory[1]:.2f}", f"{memory[0] / memory[1]:.2f}"] if memory else []
    print(f"{name:<32}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def prunelib(*words: str) -> str:
    command = [sys.executable, "-m", "prunelib.cli", "run", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout


def busy() -> float:
    """Processor seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
