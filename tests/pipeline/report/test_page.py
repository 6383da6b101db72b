"""The report: one page that stands alone, with the same numbers beside it."""

import base64
import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from kantor.errors import InputError
from kantor.report.page import ModelFiles, write_report
from kantor.report.summary import summary_lines
from kantor.results import Report
from kantor.validation.histograms import Scatter

Write = Callable[..., ModelFiles]
VOID = {"meta", "img", "br"}


class Checked(HTMLParser):
    """Collects what the tests look at, and insists that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [named["id"] or ""] if "id" in named else []
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag == "img":
            self.images.append(named)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: Path) -> Checked:
    reader = Checked()
    reader.feed(page.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def models(write: Write) -> list[ModelFiles]:
    return [write("wgan_gp"), write("cramer", quality=0.0)]


@pytest.fixture(scope="module")
def report(models: list[ModelFiles], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report"
    write_report("Trial & error", models, out)
    return out


def test_the_page_stands_alone(report: Path) -> None:
    page = parsed(report / "index.html")
    assert len(set(page.ids)) == len(page.ids)
    for link in page.links:
        assert link.startswith("data:image/svg+xml;base64,") or link.removeprefix("#") in page.ids
    source = (report / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|@import|url\(|https?://", source)
    assert len(source) < 5_000_000
    assert {path.name for path in report.iterdir()} == {"index.html", "report.json", "summary.csv"}


def test_pictures_are_drawings_that_need_nothing_else(report: Path) -> None:
    images = parsed(report / "index.html").images
    # One for each observable, the plane, the correlations, the learning curves, what they say about quality, and areas.
    assert len(images) == 8
    for image in images:
        assert image["alt"]
        drawing = base64.b64decode((image["src"] or "").partition(",")[2])
        tree = ElementTree.fromstring(drawing)
        assert tree.tag.endswith("svg")
        for element in tree.iter():
            for name, value in element.attrib.items():
                if name.endswith("href"):
                    assert value.startswith(("#", "data:"))


def test_the_page_says_what_matters(report: Path) -> None:
    text = " ".join(parsed(report / "index.html").text)
    assert "Trial & error" in text
    for word in ("truth vs truth", "Clopper–Pearson", "as truth", "0123456789abcdef", "ab" * 32, "p-value"):
        assert word in text
    # What a configuration holds is shown, not run.
    assert "<script>alert(1)</script>" in text


def test_csv_and_json_agree(report: Path) -> None:
    content = json.loads((report / "report.json").read_text())
    with (report / "summary.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(content["rows"]) == 2 * 11
    for line, row in zip(lines, content["rows"], strict=True):
        assert set(line) == set(row)
        for name, value in row.items():
            expected = "" if value is None else " ".join(map(str, value)) if name == "seeds" else str(value)
            assert line[name] == expected


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(report: Path, models: list[ModelFiles], tmp_path: Path) -> None:
    write_report("Trial & error", models, tmp_path)
    for path in report.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_seeds_become_mean_and_standard_error(write: Write, tmp_path: Path) -> None:
    write_report("Seeds", [write("wgan_gp", seed) for seed in (1, 2, 3)], tmp_path / "report")
    rows = Report.read(tmp_path / "report" / "report.json").rows
    area = next(row for row in rows if row.statistic == "c2st_auc")
    # 0.61, 0.62 and 0.63.
    assert (area.value, area.high - area.value) == pytest.approx((0.62, 0.01 / 3**0.5))
    assert area.interval == "standard error over 3 seeds"
    assert area.p_value == pytest.approx(0.03)
    assert area.seeds == [1, 2, 3]
    assert len(rows) == 11
    assert "3 seeds" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_each_dataset_has_its_own_section(write: Write, tmp_path: Path) -> None:
    files = [write("a"), write("b", dataset="other", truth_seed=8)]
    write_report("Two", files, tmp_path / "report")
    page = parsed(tmp_path / "report" / "index.html")
    assert {"d1-summary", "d2-summary"} <= set(page.ids)


@pytest.mark.slow
@pytest.mark.parametrize("modes", [0, 2])
def test_two_features_are_shown_as_points(modes: int, write: Write, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    centres = np.array([[0.0, 0.0], [1.0, 0.0]])[:modes]
    scatter = Scatter("x", "y", rng.normal(size=(50, 2)), rng.normal(size=(50, 2)), centres, 0.1 if modes else np.nan)
    pictures = tmp_path / "pictures"
    write_report("Points", [write("a", scatter=scatter), write("b", scatter=scatter)], tmp_path, pictures=pictures)
    page = parsed(tmp_path / "index.html")
    assert sorted(file.name for file in pictures.iterdir()) == [
        f"dis-{n}.svg" for n in ("learning", "quality", "scatter")
    ]
    for file in pictures.iterdir():
        assert ElementTree.parse(file).getroot().tag.endswith("svg")
        assert base64.b64encode(file.read_bytes()).decode() in (tmp_path / "index.html").read_text()
    assert "d1-scatter" in page.ids
    assert ("one of the 2 modes" in " ".join(page.text)) == (modes == 2)
    assert any(image["alt"] == "Rows generated by a, b over true ones." for image in page.images)


def test_summary_is_a_short_table(report: Path) -> None:
    lines = summary_lines(report)
    assert lines[0] == "Trial & error"
    assert lines[-1] == f"report: {report / 'index.html'}"
    assert len(lines) < 20
    table = "\n".join(lines)
    assert re.search(r"truth vs truth\s+wgan_gp\s+cramer", table)
    assert re.search(
        r"classifier AUC\s+0\.5000 ± 0\.0060\s+0\.6100 ± 0\.0060  told apart\s+0\.5000 ± 0\.0060  as truth", table
    )
    assert re.search(r"observables as truth \(KS\)\s+0 of 3, worst p_x\s+3 of 3", table)


@pytest.mark.slow
def test_a_page_of_many_observables_draws_the_worst(
    models: list[ModelFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kantor.report.page.MOST_DISTRIBUTIONS", 2)
    write_report("Many", models[:1], tmp_path / "report")
    page = parsed(tmp_path / "report" / "index.html")
    assert len(page.images) == 7
    assert "1 more are in validation.h5" in " ".join(page.text)


def test_models_and_validations_in_another_order_are_noticed(write: Write, tmp_path: Path) -> None:
    first, second = write("a"), write("b")
    mixed = ModelFiles(first.metrics, first.figures, second.curves, second.run)
    with pytest.raises(InputError, match="is a comparison of a, seed 1, not of b, seed 1"):
        write_report("Mixed", [mixed], tmp_path / "report")


def test_other_truth_is_noticed(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compared with other true events"):
        write_report("Mixed", [write("a"), write("b", truth_seed=8)], tmp_path / "report")


@pytest.mark.parametrize("which", ["metrics", "figures", "curves", "run"])
def test_a_missing_or_damaged_file_is_named_and_nothing_is_written(which: str, write: Write, tmp_path: Path) -> None:
    files = write("a")
    path: Path = getattr(files, which)
    path.write_bytes(b"{damaged")
    with pytest.raises(InputError, match=path.name):
        write_report("Damaged", [files], tmp_path / "report")
    path.unlink()
    with pytest.raises(InputError, match=path.name):
        write_report("Missing", [files], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_place_that_cannot_be_written_is_named(write: Write, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        write_report("Nowhere", [write("a")], tmp_path / "file" / "report")
