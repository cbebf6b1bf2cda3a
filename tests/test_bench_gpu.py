"""The benchmark of a GPU runs where there is none, small; what is measured is not judged here."""

import importlib
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

import setr_lib
from setr_lib.data.load import Shapes
from setr_lib.training.record import ROOT
from tools import readme
from tools.bench import __main__ as bench
from tools.bench import before
from tools.bench_gpu import __main__ as bench_gpu
from tools.bench_gpu import step


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    monkeypatch.setattr(Shapes, "lengths", {"train": 4, "val": 2, "test": 2})


def run(folder, *options):
    bench_gpu.main(["--out", str(folder), "--device", "cpu", "--tiny", *options])
    return json.loads((folder / "record.json").read_text())


def test_every_part_leaves_rows_and_the_surroundings(tmp_path):
    record = run(tmp_path / "new folder")
    assert record["errors"] == []
    missing = {text.split(":")[0] for text in record["left_out"]}
    assert {row["part"] for row in record["bench"]} | missing == set(bench_gpu.PARTS)
    assert missing <= {"mmsegmentation", "metric"}
    assert {"commit", "hardware", "versions", "clocks", "day"} <= record.keys()
    for row in record["bench"]:
        if row["part"] == "correctness":
            assert row["same_bits"] and row["loss_error"] < 1e-6


def test_a_record_of_it_appears_on_the_page_of_speed(tmp_path, monkeypatch):
    record = run(tmp_path, "--only", "loss")
    record["hardware"]["gpu"] = "NVIDIA Test"
    record["commit"] = "0123456" + 33 * "0"
    load = readme.load_record
    monkeypatch.setattr(readme, "load_record", lambda n: record if n == "gpu_new" else load(n))
    monkeypatch.setattr(readme, "list_records", lambda: ["bench_step", "gpu_new"])
    found = readme.gpu()
    assert "`gpu_new`: commit 0123456, NVIDIA Test, python 3." in found
    row = record["bench"][0]
    assert f"| loss | x16, ours | ms {row['ms']:.4g}, forward_ms " in found
    assert "gpu_new" not in readme.speed() and "`bench_step`" in readme.speed()


def test_a_run_that_is_stopped_keeps_what_it_has(tmp_path, monkeypatch):
    """After each row the record is whole, also when the next one never ends."""

    def endless(bench):
        yield {"case": "first"}
        assert len(json.loads((tmp_path / "record.json").read_text())["bench"]) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_gpu, "PARTS", {"endless": endless})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["bench"][0]["case"] == "first"


def test_time_is_kept_and_says_what_was_left_out(tmp_path, monkeypatch):
    clock = [0.0]

    def slow(bench):
        for case in range(100):
            clock[0] += 50
            yield {"case": case}

    monkeypatch.setattr(bench_gpu.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(bench_gpu, "PARTS", {"slow": slow, "later": slow})
    record = run(tmp_path, "--seconds", "120")
    assert len(record["bench"]) == 3 and record["left_out"] == ["slow", "later"]


def test_an_error_ends_its_part_only(tmp_path, monkeypatch):
    def broken(bench):
        raise ValueError("no such kernel")
        yield

    monkeypatch.setattr(
        bench_gpu, "PARTS", {"broken": broken, "good": lambda b: iter([{"case": 1}])}
    )
    record = run(tmp_path)
    assert record["errors"][0]["error"] == "ValueError: no such kernel"
    assert [row["part"] for row in record["bench"]] == ["good"]


@pytest.mark.parametrize(
    "kernel, kind",
    [
        ("near_backward_kernel", "loss"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32", "matrix products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma", "attention"),
        ("sm90_xmma_wgrad_implicit_gemm", "convolutions"),
        ("void at::native::upsample_bilinear2d_nhwc_out_frame", "resizes"),
        ("triton_poi_fused_add_3", "element-wise, compiled"),
        ("void at::native::vectorized_layer_norm_kernel", "layer norm"),
        ("something new", "other"),
    ],
)
def test_kernels_are_counted_by_kind(kernel, kind):
    assert step.group(kernel) == kind


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an earlier commit is in the checkout")
def test_todays_step_beside_that_of_a_commit(tmp_path):
    library = before.library_of(this_commit(), tmp_path)
    assert library.__file__.startswith(str(tmp_path)) and library.SETR is not setr_lib.SETR
    row = before.beside(library, "naive", 32, rounds=2)
    assert row["ratio"] > 0 and row["case"] == "naive tiny, 32 px, training step"
    library.create_model = lambda *_: setr_lib.create_model("setr_naive_tiny", 150, 48)
    with pytest.raises(ValueError, match="the losses differ"):
        before.beside(library, "naive", 32, rounds=2)


def this_commit():
    """The commit of the checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def test_the_bench_of_a_cpu_shows_the_record_of_before(monkeypatch, capsys):
    """Of the newest record that has the case, and how many times its ratio today's is."""
    row = {"subject": "loss", "case": "here", "peer": "torch", "quartiles": [1, 1]}
    records = {
        "new": {"day": "2026-11-03", "bench": [{**row, "ratio": 0.4}]},
        "old": {"day": "2026-11-02", "bench": [{**row, "ratio": 0.1}]},
        "gpu": {"day": "2026-11-04", "bench": [{"part": "loss", "case": "here"}]},
        "run": {"recipe": {}},
    }
    monkeypatch.setattr(bench, "list_records", lambda: list(records))
    monkeypatch.setattr(bench, "load_record", records.get)
    today = [{"case": name, "ratio": 0.5, "quartiles": [0.4, 0.6]} for name in ("here", "there")]
    subject = SimpleNamespace(PEER="torch", rows=lambda rounds, only: today)
    monkeypatch.setattr(importlib, "import_module", lambda *_: subject)
    monkeypatch.setattr(sys, "argv", ["bench", "loss"])
    bench.main()
    _, known, unknown = capsys.readouterr().out.splitlines()
    assert known.split("(0.400 to 0.600)")[1].split()[:2] == ["0.400", "1.25"]
    assert unknown.split("(0.400 to 0.600)")[1].split()[0] == "torch"
