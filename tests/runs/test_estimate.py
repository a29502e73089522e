"""Shapes of models from their configurations, counted work, and what it costs at given rates."""

import os
import subprocess
import sys
from dataclasses import replace

import loopback_hub
import pytest
import tiny_files
import torch
from torch.utils.flop_counter import FlopCounterMode

from prunelib.chapters import names
from prunelib.chapters.estimate import work_of
from prunelib.errors import PrunelibError
from prunelib.runs import profiles, runner, sources
from prunelib.runs.estimate import asked, calibration, made, price, work
from prunelib.runs.estimate.shape import build, shape
from prunelib.runs.estimate.source import Source, source
from prunelib.runs.options import DEFAULT_MODEL, RunOptions

ROWS, TOKENS = 2, 6


def counted(model) -> int:
    """Operations of a forward pass by torch's own counter, which sees no fused attention and no grouped products."""
    model.set_attn_implementation("eager")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    ids = torch.full((ROWS, TOKENS), 5)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False)
    return counter.get_total_flops()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2", "opt", "falcon", "mixtral", "deepseek_v3"])
def test_operations_are_those_that_torch_counts(make_model, family):
    model = make_model(family)
    found = shape(model.config).forward(ROWS, TOKENS, head_rows=ROWS * TOKENS)
    # Left out are a few small products: frequencies of positions, gates of experts that weigh their outputs.
    assert found == pytest.approx(counted(model), rel=0.02)


def test_parameters_are_those_of_the_real_model(family, lm):
    found = shape(lm.model.config)
    assert found.parameters == sum(p.numel() for p in lm.model.parameters())
    assert found.body == sum(p.numel() for layer in lm.layers for p in layer.parameters())
    assert (found.layers, found.width, found.vocab) == (lm.n_layers, lm.d_model, lm.vocab_size)


def test_a_shorter_model_has_the_same_blocks(make_model):
    config = make_model("gemma2").config  # its layers are of two types
    short = build(config, layers=1)
    assert short.n_layers == 1 and short.W.device.type == "meta"
    assert len(build(config).layers) == config.num_hidden_layers > 1


def rates(**more) -> calibration.Rates:
    """Of a machine on which everything takes a second, or as many operations or bytes as there are in one."""
    specs = [f"{m}:{s}" for m, s in (("wanda", "0.5"), ("sparsegpt", "0.5"))]
    given = {
        "blocks": ((1, 1.0), (4, 2.0)), "heads": ((1, 1.0),), "gemm": 1e9, "gemm_double": 1e9, "bandwidth": 1e9,
        "loading": 1e9, "backward": 3.0, "methods": dict.fromkeys(specs, (1e-9, 0.0, 0.0)), "load": 1.0,
        "compared": dict.fromkeys(("trace", "pair", "one step", "step", "removal", "kl", "nll"), (1.0, 0.5)),
        "timed": dict.fromkeys(("kernel", "imports", "model imports", "figure", "interval", "T1", "T2", "T3"), 1.0),
        "seconds": 1.0, "threads": 1,
    }  # fmt: skip
    return calibration.Rates(**given | more)


def planned(profile: str = "smoke", *chapters: str) -> work.Plan:
    options = RunOptions(profile=profile)
    books = [sources.of_chapter(chapter) for chapter in chapters] or sources.select([])
    given = runner.parameters_of(books, options, [])
    plan = work.Plan(options, shape(source(options.model).config))
    for book in books:
        with plan.notebook(book.id, given[book.id]):
            work_of(book.chapter)(plan)
    return plan


def test_every_chapter_says_what_it_takes_and_more_in_a_larger_profile():
    flops = []
    for profile in profiles.PROFILES:
        plan = planned(profile)
        every_chapter(plan)
        flops.append(sum(n * p.flops(plan.shape) for pieces in plan.pieces.values() for p, n in pieces.items()))
    assert list(profiles.PROFILES) == ["smoke", "quick", "full"] and flops == sorted(set(flops))


def every_chapter(plan: work.Plan) -> None:
    assert {name.partition("-")[2].replace("-", "_") for name in plan.pieces} == set(names())
    for name, pieces in plan.pieces.items():
        # Each takes more than the start of its kernel, draws its figures, and nothing takes less than no time.
        assert len(pieces) > 3 and pieces[work.Timed("figure")] > 0, name
        assert all(times > 0 for times in pieces.values()), name


def test_a_chapter_draws_as_many_figures_as_it_has():
    from prunelib.chapters import load_figures

    figures = load_figures().values()
    for book in sources.select([]):
        own = sum(one.chapter == book.chapter.replace("-", "_") for one in figures)
        pieces = planned("smoke", book.chapter).pieces[book.id]
        assert pieces[work.Timed("figure")] == own, book.id


def test_a_chapter_without_a_count_is_named():
    with pytest.raises(PrunelibError, match="no-such-chapter .* work.py"):
        work_of("no-such-chapter")


def test_what_chapters_share_counts_once_by_the_first():
    both, alone = planned("smoke", "cosine-theorem", "softmax-theorem"), planned("smoke", "softmax-theorem")
    (own,), (first, second) = alone.pieces.values(), both.pieces.values()
    traced = {piece for piece in own if isinstance(piece, work.Compared)}
    assert traced and not traced & set(second) and traced <= set(first)


def test_a_compressed_model_is_made_once_and_then_put_in_place():
    plan = planned("smoke", "case-study")
    with plan.notebook("x", {}):
        made.compressed(plan, "sparsegpt:0.5")
        once = dict(plan.pieces["x"])
        made.compressed(plan, "sparsegpt:0.5")
    solved, moved = work.Solved("sparsegpt:0.5"), work.Moved(made.PLACED)
    assert once[solved] == plan.pieces["x"][solved] == 1
    assert (once[moved], plan.pieces["x"][moved]) == (1, 2)
    assert plan.written["x"] >= plan.shape.body_bytes * made.PACKED


def test_dropped_sublayers_take_no_time():
    plan = planned("smoke", "case-study")
    layers = plan.shape.layers
    assert made.left(plan, "dense") == made.left(plan, "wanda:0.5") == 1
    assert made.left(plan, f"drop:block:{layers // 2}") == pytest.approx(0.5)
    both = made.left(plan, f"drop:attn:{layers}") + made.left(plan, f"drop:mlp:{layers}")
    assert both == pytest.approx(1)
    assert made.left(plan, "sites:attn:0+mlp:0") == pytest.approx(made.left(plan, "sites:block:0"))
    with plan.notebook("x", {}):
        asked.one_step(plan, [f"drop:block:{layers}"])  # nothing is left of it, the dense model is read
    read = sum(times for piece, times in plan.pieces["x"].items() if isinstance(piece, work.Read) and not piece.past)
    assert read > 0


def test_totals_add_up_and_one_notebook_runs_at_a_time():
    plan = planned("smoke", "cosine-theorem", "layerwise")
    found = price.price(plan, rates(), Source(None, 7, 5), base=1e9)
    a, b = found.rows
    assert [row.notebook for row in found.rows] == list(plan.pieces)
    assert found.total.seconds == pytest.approx(a.seconds + b.seconds)
    assert found.total.flops == pytest.approx(a.flops + b.flops)
    assert found.total.disk == pytest.approx(a.disk + b.disk + 5)
    assert found.total.memory == max(a.memory, b.memory) > 1e9 + plan.shape.bytes


def test_time_follows_the_rates():
    piece, blocks = work.Read(2, 2), planned("smoke", "layerwise").shape
    # Two seconds a block of four tokens; attention takes nothing on a machine without limits.
    assert piece.seconds(blocks, rates(gemm=1e30)) == pytest.approx(2.0 * blocks.layers)
    again = work.Read(2, 2, past=1000)
    assert again.seconds(blocks, rates()) > piece.seconds(blocks, rates())
    assert work.Compared("trace", 2).seconds(blocks, rates()) == 2.0  # 1 and two temperatures more
    assert calibration.between(((1, 1.0), (4, 2.0)), 8) == pytest.approx(4.0)  # in proportion beyond the last
    assert calibration.between(((1, 1.0), (4, 2.0)), 2) == pytest.approx(2**0.5)


def test_too_little_memory_or_disk_is_one_line_each(tmp_path):
    plan = planned("smoke", "layerwise")
    found = price.price(plan, rates(), Source(None, 0, 0), base=1e9)
    assert found.warnings(tmp_path / "not" / "there", None) == []
    assert len(found.warnings(tmp_path, 0.5)) == 1 and "memory" in found.warnings(tmp_path, 0.5)[0]
    huge = replace(found, model_disk=10**18)
    assert len(huge.warnings(tmp_path, 0.5)) == 2 and "disk" in huge.warnings(tmp_path, 0.5)[1]


def test_a_machine_is_measured_on_a_piece_of_the_model(make_model):
    """Positive rates for every piece of work that is asked for; how large they are is the machine's matter."""
    config = make_model("qwen2").config
    found = calibration.calibrate(
        config, shape(config), torch.device("cpu"), torch.float32, ["wanda:0.5", "sparsegpt:0.5"], 2, 1,
        {"figure": lambda: 1.5},
    )  # fmt: skip
    assert found.timed["figure"] == 1.5 and found.load >= 1
    assert all(value > 0 for _, value in (*found.blocks, *found.heads))
    assert all(first > 0 and more >= 0 for first, more in found.compared.values())
    assert all(found.solved(spec, 64, 64) > 0 for spec in ("wanda:0.5", "sparsegpt:0.5"))
    assert min(found.gemm, found.gemm_double, found.bandwidth, found.loading, found.backward) > 0


# ---------------------------------------------------------------- nothing is downloaded


def test_the_default_model_is_known_without_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNELIB_CACHE", str(tmp_path / "empty"))
    found = source(DEFAULT_MODEL)
    assert not (tmp_path / "empty").exists()
    assert found.download > 50e6 and found.kept > found.download
    assert shape(found.config).parameters > 130e6


@pytest.mark.real_model
def test_the_committed_configuration_is_that_of_the_default_model(default_lm):
    known, real = (one.to_dict() for one in (source(DEFAULT_MODEL).config, default_lm.model.config))
    volatile = ("_name_or_path", "transformers_version")
    assert {k: v for k, v in known.items() if k not in volatile} == {k: v for k, v in real.items() if k not in volatile}


def test_of_a_hub_id_only_the_configuration_and_the_listing_are_asked_for(make_model, tmp_path):
    folder = tiny_files.write_folder(make_model("llama"), tmp_path / "tiny")
    code = (
        "import sys; from prunelib.runs.estimate.source import source; found = source(sys.argv[1]);"
        "print(found.config.hidden_size, found.download, found.kept)"
    )
    with loopback_hub.serving() as hub:
        hub.repos["acme/tiny"] = repo = loopback_hub.Repo()
        repo.push(folder)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        env = kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code, "acme/tiny"], capture_output=True, text=True, env=env, timeout=120
        )
        assert done.returncode == 0, done.stderr
        width, download, disk = map(int, done.stdout.split())
        sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
        assert width == 32 and download == disk == sum(sizes.values())
        files = [line for line in hub.asked if "/resolve/" in line]
        assert files and all("config.json" in line for line in files)
        assert not hub.of("safetensors") and hub.of("/tree/")
