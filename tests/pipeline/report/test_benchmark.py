"""The benchmark's page and its command."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kantor_kernels.benchmark
from kantor.cli import main
from kantor.errors import InputError
from kantor.report.benchmark import duration, size, write_page
from kantor.report.page import ModelFiles, write_report
from kantor_kernels import Energy
from kantor_kernels.benchmark import Row, cases, write_rows
from kantor_kernels.benchmark.cases import PairwiseCase, PenaltyCase

ROW = Row(
    op="pairwise",
    case="energy distance, D = 8",
    backend="cpu",
    ours=True,
    mode="value + gradient",
    shape="N = M = 1000, D = 8",
    size=1000,
    dtype="float32",
    metric="time",
    unit="s",
    p20=1.0e-3,
    p50=1.2e-3,
    p80=1.5e-3,
    repetitions=9,
    opponent="torch.cdist",
    ratio=12.3,
    roofline=None,
    threads=2,
    device="a <processor>",
    versions="torch=2",
    commit="abc",
    date="2026-01-01T00:00:00Z",
)
OTHER = replace(ROW, backend="torch.cdist", ours=False, p20=0.01, p50=0.02, p80=0.03, opponent="", ratio=None)
ABSENT = replace(OTHER, backend="geomloss", p20=None, p50=None, p80=None, repetitions=0, note="not installed")
LARGE = replace(ROW, shape="N = M = 4000, D = 8", size=4000, p20=0.01, p50=0.012, p80=0.02)
MEMORY = replace(ROW, metric="peak memory", unit="B", p20=2e6, p50=2e6, p80=2e6)


def test_the_page_shows_every_figure_and_stands_alone(tmp_path: Path) -> None:
    write_rows(tmp_path / "pairwise.csv", [ROW, OTHER, ABSENT, LARGE, MEMORY])
    page = write_page(tmp_path).read_text()
    for text in ("1.20 ms", "1.00 ms to 1.50 ms", "12 × torch.cdist", "2.00 MB", "not installed", "20.0 ms", "abc"):
        assert text in page
    assert "a &lt;processor&gt;" in page
    assert 'src="data:image/svg+xml;base64,' in page
    assert "time against size of energy distance" in page.lower()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "roofline" not in page


@pytest.mark.slow
def test_the_report_ends_with_the_benchmark(write: Callable[..., ModelFiles], tmp_path: Path) -> None:
    model, out = write("wgan_gp"), tmp_path / "report"
    write_rows(tmp_path / "pairwise.csv", [ROW, OTHER, ABSENT, LARGE, MEMORY])
    write_report("Both", [model], out, tmp_path)
    page = (out / "index.html").read_text()
    assert page.index("Provenance</h2>") < page.index('<h2 id="benchmark">') < page.index("12 × torch.cdist")
    assert '<a href="#benchmark">' in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    write_report("Both", [model], tmp_path / "again", tmp_path)
    assert (tmp_path / "again" / "index.html").read_text() == page
    write_report("Both", [model], tmp_path / "without")
    assert "benchmark</h2>" not in (tmp_path / "without" / "index.html").read_text()


def test_a_report_needs_a_benchmark_of_this_version(write: Callable[..., ModelFiles], tmp_path: Path) -> None:
    (tmp_path / "pairwise.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="measure again"):
        write_report("Both", [write("wgan_gp")], tmp_path / "report", tmp_path)
    assert not (tmp_path / "report").exists()


def test_one_size_has_no_figure_and_a_roofline_a_column(tmp_path: Path) -> None:
    write_rows(tmp_path / "pairwise.csv", [replace(ROW, roofline=0.42)])
    page = write_page(tmp_path).read_text()
    assert "<img" not in page
    assert "42 %" in page


def test_operations_come_in_their_order(tmp_path: Path) -> None:
    write_rows(tmp_path / "pairwise.csv", [ROW])
    write_rows(tmp_path / "gradient_penalty.csv", [replace(ROW, op="gradient_penalty", case="gradient penalty")])
    page = write_page(tmp_path).read_text()
    assert page.index("<h2>Energy distance") < page.index("<h2>Gradient penalty")


def test_a_page_needs_files_of_this_version(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no CSV file"):
        write_page(tmp_path)
    (tmp_path / "pairwise.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="measure again"):
        write_page(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.123, "7.12 s"), (0.0123, "12.3 ms"), (2.5e-4, "250 µs"), (3e-7, "0.30 µs")]
)
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_have_three_digits() -> None:
    assert [size(number) for number in (1.5e9, 2e6, 300.0)] == ["1.50 GB", "2.00 MB", "0.30 kB"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (PairwiseCase(60, 3, Energy()), PenaltyCase(8))
    monkeypatch.setattr(kantor_kernels.benchmark, "QUICK_CASES", found)


@pytest.mark.usefixtures("tiny")
def test_the_command_measures_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert (
        main(["benchmark", "--quick", "--device", "cpu", "--ops", "pairwise", "gradient_penalty", "--out", str(out)])
        == 0
    )
    assert sorted(file.name for file in out.iterdir()) == ["gradient_penalty.csv", "index.html", "pairwise.csv"]
    captured = capsys.readouterr()
    assert "times as fast as torch.cdist" in captured.err
    assert captured.out.strip() == str(out / "index.html")


@pytest.mark.usefixtures("tiny")
def test_steps_by_themselves(tmp_path: Path) -> None:
    arguments = ["benchmark", "--quick", "--device", "cpu", "--ops", "pairwise", "--out", str(tmp_path)]
    assert main([*arguments, "--step", "measure"]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["pairwise.csv"]
    before = (tmp_path / "pairwise.csv").read_bytes()
    assert main([*arguments, "--step", "draw"]) == 0
    assert (tmp_path / "index.html").exists()
    assert (tmp_path / "pairwise.csv").read_bytes() == before


@pytest.mark.usefixtures("tiny")
def test_a_red_operation_ends_with_1_and_has_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = cases.mmd
    monkeypatch.setattr(cases, "mmd", lambda x, y, kernel, backend: right(x, y, kernel=kernel, backend=backend) * 1.01)
    assert main(["benchmark", "--quick", "--device", "cpu", "--ops", "pairwise", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "wrong results, which were not timed" in error
    assert "run the tests of these operations" in error
    assert "wrong, not timed" in (tmp_path / "index.html").read_text()


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--ops", "pairwize", "--out", str(tmp_path)]) == 2
    assert "choose: pairwise, sliced, gradient_penalty" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["benchmark", "--device", "cuda", "--out", str(tmp_path)]) == 2
        assert "no CUDA device" in capsys.readouterr().err


def test_ranks_have_a_table_of_their_own(tmp_path: Path) -> None:
    one = replace(
        ROW, op="scaling", case="strong scaling, 512 rows in all", backend="kantor", size=1, shape="1 rank on 1 host",
        p50=0.030, opponent="", ratio=None,
    )  # fmt: skip
    two = replace(one, size=2, shape="2 ranks on 1 host", p50=0.020, ratio=0.8, note="no core to spare")
    calls = replace(two, metric="collectives", unit="1", p50=6.0, ratio=None)
    alone = replace(two, backend="no communication", ours=False, p50=0.016, ratio=None)
    reduced = replace(alone, case="all_reduce, 2 ranks", backend="gloo", size=4096, p50=1.5e-4)
    write_rows(tmp_path / "scaling.csv", [one, two, alone, calls, reduced])
    page = write_page(tmp_path).read_text()
    # 2 x 20 ms for what takes one rank 30 ms; a fifth of the step is not the work itself.
    for text in (
        "75 %",
        "20 %",
        "50.0 / s",
        ">6<",
        "no core to spare",
        "4,096 B",
        "150 µs",
        "Efficiency against ranks",
    ):
        assert text in page
    assert "peak memory" not in page
    write_rows(tmp_path / "pairwise.csv", [ROW])
    both = write_page(tmp_path).read_text()
    assert both.index("Energy distance") < both.index("Training on several ranks")
