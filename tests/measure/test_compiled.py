"""Compiled code against the same functions as they stand: one small shape, and the rule that chooses."""

import os
import warnings

import pytest
import torch
from measure.test_trace import CHAIN, TEMPERATURES, check, random_chains, random_head, reference

from prunelib.measure import compiled, softmax_stats, tiles
from prunelib.measure.softmax_stats import PAIR_COLUMNS, pair_statistics

CPU = torch.device("cpu")


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 16 × 64 logits, compiled whatever the size of a call; counts the calls of compiled code."""
    if compiled._compiler("cpu") is None:
        pytest.skip("no C++ compiler")
    monkeypatch.delenv("PRUNELIB_COMPILE", raising=False)
    monkeypatch.setattr(compiled, "PAYS", 0)
    monkeypatch.setattr(tiles, "_ROWS", 16)
    monkeypatch.setattr(tiles, "_COLUMNS", 64)
    calls, real = [], compiled._compile
    monkeypatch.setattr(compiled, "_compile", lambda function: calls.append(function) or real(function))
    return calls


def test_compiled_equals_plain_float64_and_the_code_as_it_stands(small_tiles, monkeypatch):
    # 11 chunks of which the last is not whole; 3 chains of 5 points a tile of 16 rows, the last tile not full.
    head, x = random_head(v=700), random_chains(n=7)
    x[:, 2] = x[:, 1]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile failed")
        fast, _ = pair_statistics(x, head, **CHAIN, temperatures=TEMPERATURES)
        again, _ = pair_statistics(x, head, **CHAIN, temperatures=TEMPERATURES)
    assert len(small_tiles) == 2 * 10 * 3 * 3  # calls, whole chunks, tiles, temperatures
    monkeypatch.setenv("PRUNELIB_COMPILE", "0")
    plain, _ = pair_statistics(x, head, **CHAIN, temperatures=TEMPERATURES)
    assert len(small_tiles) == 2 * 10 * 3 * 3
    z = x.double() @ head.weight.double().T
    for t in TEMPERATURES:
        _, expected = reference(z[:, 1:].flatten(0, 1), z[:, :-1].flatten(0, 1), t)
        check(fast[t], expected)
        check(fast[t], plain[t], rtol=1e-5, atol=1e-6)
        for name in PAIR_COLUMNS:
            assert torch.equal(fast[t][name], again[t][name]), name
            # Each deviation to what is told from rounding, by either way.
            if name in PAIR_COLUMNS[:3]:
                off = (fast[t][name] - plain[t][name]).abs()
                assert (off <= fast[t]["resolution"] + 1e-3 * plain[t][name]).all()
        assert all((fast[t][name][:, 1] == 0).all() for name in PAIR_COLUMNS[:7])
        assert torch.equal(fast[t]["top1_same"], plain[t]["top1_same"])


def test_compiled_code_takes_any_layout_and_number_of_chains(small_tiles):
    head, x = random_head(v=128), random_chains(n=9, points=3)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for chain in (CHAIN, {"dense": slice(1, 2), "pruned": slice(0, None, 2)}):
        for n in (1, 9):
            found, _ = pair_statistics(x[:n], head, **chain, temperatures=(1.0,))
            z = x[:n].double() @ head.weight.double().T
            z_dense, z_pruned = z[:, chain["dense"]], z[:, chain["pruned"]]
            z_dense = z_dense.expand_as(z_pruned)
            check(found[1.0], reference(z_dense.flatten(0, 1), z_pruned.flatten(0, 1), 1.0)[1])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs <= 1
    assert len(small_tiles) == 2 * (1 + 2) * 2  # layouts, tiles, chunks


def test_the_rule_depends_on_sizes_and_the_environment_only(monkeypatch):
    monkeypatch.delenv("PRUNELIB_COMPILE", raising=False)
    monkeypatch.setattr(compiled, "_compiler", lambda kind: "g++")
    assert compiled.compiles(compiled.PAYS, CPU)
    assert not compiled.compiles(compiled.PAYS - 1, CPU)
    monkeypatch.setenv("PRUNELIB_COMPILE", "0")
    assert not compiled.compiles(compiled.PAYS, CPU)
    monkeypatch.delenv("PRUNELIB_COMPILE")
    monkeypatch.setattr(compiled, "_compiler", lambda kind: None)
    assert not compiled.compiles(compiled.PAYS, CPU)


def test_without_a_compiler_there_is_none(monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    compiled._compiler.cache_clear()
    try:
        assert compiled._compiler("cpu") is None
    finally:
        compiled._compiler.cache_clear()
    assert compiled._compiler("mps") is None


def test_a_failure_is_one_warning_and_the_result_all_the_same(monkeypatch):
    def broken(function):
        raise RuntimeError("disk is full\nand more")

    monkeypatch.setattr(compiled, "_compile", broken)
    monkeypatch.setattr(compiled, "_FAILED", set())
    run = compiled.compiled(torch.square)
    with pytest.warns(UserWarning, match="torch.compile failed.*disk is full$") as caught:
        found = [run(torch.tensor(3.0)) for _ in "12"]
    assert len(caught) == 1 and found == [9, 9]


def test_code_is_kept_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("PRUNELIB_CACHE", str(tmp_path))
    try:
        compiled._compile.__wrapped__(torch.square)
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")
    finally:
        os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)


def test_a_softcap_is_compiled_too(small_tiles):
    head, x = random_head(v=128, cap=4.0), random_chains(n=4)
    found, moments = pair_statistics(x, head, **CHAIN, temperatures=(1.0,))
    z = 4 * torch.tanh(x.double() @ head.weight.double().T / 4)
    check(found[1.0], reference(z[:, 1:].flatten(0, 1), z[:, :-1].flatten(0, 1), 1.0)[1])
    torch.testing.assert_close(moments["zz"], z[:, 1:].square().sum(-1), rtol=1e-5, atol=1e-5)
    assert set(small_tiles) == {softmax_stats.summary, softmax_stats.cap_summary}
