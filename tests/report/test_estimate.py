"""How an estimate reads: a table whose columns line up, or JSON."""

import json
from pathlib import Path

import pytest

from prunelib import cli
from prunelib.chapters import estimate as estimates
from prunelib.report import estimate as shown
from prunelib.runs.estimate import calibration
from prunelib.runs.estimate.calibration import Rates


@pytest.fixture
def asked(monkeypatch, capsys, tmp_path):
    """``asked("01", "--dry-run")``: exit code and standard output of a run on a machine of round numbers."""
    measures = ("trace", "pair", "one step", "step", "removal", "kl", "nll")

    def calibrate(config, shape, device, dtype, specs, *_):
        timed = dict.fromkeys(("kernel", "imports", "model imports", "figure", "interval", "T1", "T2", "T3"), 1.0)
        return Rates(
            blocks=((1, 1e-3),), heads=((1, 1e-3),), gemm=5e10, gemm_double=2e10, bandwidth=1e10, loading=1e9,
            backward=3.0, compared=dict.fromkeys(measures, (1e-3, 0.0)), timed=timed, load=1.0, seconds=7.0, threads=2,
            methods=dict.fromkeys(specs, (1e-08, 0.0, 0.0)),
        )  # fmt: skip

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        return cli.main(["run", "--profile", "smoke", *words]), *capsys.readouterr()

    return run


def test_a_line_a_notebook_and_the_total_in_columns(asked):
    code, out, err = asked("01", "07", "--dry-run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.split() == ["time", "memory", "disk", "TFLOP"])
    first, second, rule, total = lines[head + 1 : head + 5]
    assert first.startswith("01-") and second.startswith("07-") and set(rule) == {"-"} and total.startswith("total")
    assert len({len(line) for line in lines[head : head + 5]}) == 1
    assert "Calibrated in 7 s with 2 threads: 50 GFLOP/s, 10.0 GB/s." in out
    assert not list(Path().iterdir())


def test_json_has_the_same_in_seconds_and_bytes(asked):
    code, out, _ = asked("01", "05", "--dry-run", "--json")
    found = json.loads(out)
    first, second = found["notebooks"]
    assert code == 0 and first["parameters"]["profile"] == "smoke"
    assert found["total"]["seconds"] == pytest.approx(first["seconds"] + second["seconds"])
    assert found["model"]["parameters"] > 130e6 and found["warnings"] == []


def test_json_is_of_an_estimate_alone(asked):
    code, out, err = asked("01", "--json")
    assert (code, out) == (2, "") and "--dry-run" in err


def test_too_little_memory_is_said_in_a_line(asked, monkeypatch):
    monkeypatch.setattr(shown, "memory_limit", lambda: 0.25)
    warnings = [line for line in asked("05", "--dry-run")[1].splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and "memory" in warnings[0]


def test_a_model_that_cannot_be_used_is_refused_before_anything_is_measured(asked, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5"]}))
    code, out, err = asked("05", "--dry-run", "--json", "--model", str(tmp_path / "bert"))
    assert (code, out) == (2, "") and "not supported" in err


def test_a_figure_of_the_reference_is_drawn_for_the_measurement():
    assert estimates._drawn() > 0
