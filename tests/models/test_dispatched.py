"""Models that accelerate spreads over devices give, to the bit, what they give on one.

A machine without a GPU has one device, and two places where parameters wait: main memory (``cpu_offload``) and a disk
(``disk_offload``, ``dispatch_model``). A module then holds tensors without storage unless it runs, so that whoever
reads or writes a weight past accelerate fails. Several devices are logical ones (``two_devices.py``).
"""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import spread
import tiny_files
import torch
from accelerate import cpu_offload, disk_offload
from refusals import refused

from prunelib.methods.apply import compress
from prunelib.models.lm import LM

TESTS = Path(__file__).resolve().parents[1]


def to_memory(model, folder):
    return cpu_offload(model)


def to_disk(model, folder):
    return disk_offload(model, str(folder))


def some_blocks_to_disk(model, folder):
    return spread.dispatched(model, "cpu", ["cpu", "disk", "cpu", "disk"], offload_dir=str(folder))


@pytest.fixture(scope="module", params=spread.FAMILIES)
def plain(request, make_model) -> LM:
    model = make_model(request.param, **spread.FAMILIES[request.param])
    return LM.from_model(model, tiny_files.tokenizer(), request.param)


@pytest.fixture(scope="module", params=[to_memory, to_disk, some_blocks_to_disk])
def other(request, plain, tmp_path_factory) -> LM:
    """The same model, spread."""
    model = request.param(copy.deepcopy(plain.model), tmp_path_factory.mktemp("offload"))
    assert any(p.device.type == "meta" for p in model.parameters())
    return LM.from_model(model, plain.tokenizer, plain.name)


@pytest.mark.parametrize("check", [*spread.CHECKS, spread.what_is_saved])
def test_offloaded_is_the_same(plain, other, check, tmp_path):
    check(plain, other, tmp_path)


def test_trained_through_the_hooks(plain):
    hooked = spread.dispatched(copy.deepcopy(plain.model), "cpu", ["cpu"] * 4)
    assert all(hasattr(module, "_hf_hook") for module in LM.from_model(hooked).layers)
    spread.what_is_trained(plain, LM.from_model(hooked), ["norm", "head:2", "lora:2", "full:1"])


@pytest.mark.parametrize("spec", ["drop:mlp:1+lora:2", "drop:mlp:1+full:1"])
def test_gradients_need_weights_that_stay(other, spec):
    with refused("training weights of the blocks needs its weights on a device, and some are offloaded"):
        compress(other, [spec], spread.ids())


def test_a_fitted_norm_needs_its_weights(plain, other):
    if all(p.device.type == "cpu" for p in other.ln_final.parameters()):  # some blocks are on the disk, it is not
        made = [compress(lm, ["drop:mlp:1+norm"], spread.ids())["drop:mlp:1+norm"] for lm in (plain, other)]
        assert all(torch.equal(value, made[1].weights[name]) for name, value in made[0].weights.items())
    else:
        with refused("fitting the final norm needs its weights on a device"):
            compress(other, ["drop:mlp:1+norm"], spread.ids())


def test_where_the_blocks_are(tiny, tmp_path):
    model = some_blocks_to_disk(copy.deepcopy(tiny("llama").model), tmp_path)
    assert LM.from_model(model).describe()["layers_on"] == "cpu 0-0, disk 1-1, cpu 2-2, disk 3-3"
    assert LM.from_model(cpu_offload(copy.deepcopy(tiny("llama").model))).describe()["layers_on"] == "cpu 0-3"
    assert "layers_on" not in tiny("llama").describe()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2_moe"])
def test_two_logical_devices_are_the_same(family, tmp_path):
    """In a process of its own: what is registered with PyTorch stays as long as that runs."""
    command = [sys.executable, str(TESTS / "two_devices.py"), family, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
