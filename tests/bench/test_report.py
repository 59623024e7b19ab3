import json

import pytest

from tests.bench.report import Figure, Report, files_hash


@pytest.mark.parametrize(
    ("bar", "more_is_better", "expected"),
    [(None, False, None), (3.0, False, True), (2.0, False, False), (2.0, True, True), (4.0, True, False)],
)
def test_figure_line_holds_the_median_against_the_bar(bar, more_is_better, expected):
    figure = Figure(
        case="c", metric="wall_s", unit="s", values=(1.0, 9.0, 3.0), bar=bar, more_is_better=more_is_better
    )
    assert json.loads(figure.line("b")) == {
        "bench": "b", "case": "c", "metric": "wall_s", "unit": "s", "value": 3.0, "bar": bar, "passes": expected,
    }  # fmt: skip


def test_report_save_keeps_every_repetition_under_a_name_that_says_what_and_where(tmp_path, capsys):
    source = tmp_path / "in"
    source.write_bytes(b"x")
    report = Report("b", settings={"k": 1}, inputs=[source], num_warm_ups=1, ceiling="tar")
    report.add(Figure(case="c", metric="wall_s", unit="s", values=(1.0, 2.0, 3.0)))
    path = report.save(tmp_path)
    subject, metric, hardware, date, commit = path.stem.split("__")
    assert (subject, metric, len(date), len(commit)) == ("b", "wall_s", 8, 7)
    assert hardware.endswith("vcpu")
    result = json.loads(path.read_text())
    assert (result["ceiling"], result["num_warm_ups"]) == ("tar", 1)
    assert result["figures"][0] | {"p95": 0} == {
        "case": "c", "metric": "wall_s", "unit": "s", "values": [1.0, 2.0, 3.0], "bar": None,
        "more_is_better": False, "n": 3, "median": 2.0, "p95": 0, "passes": None,
    }  # fmt: skip
    assert result["figures"][0]["p95"] == pytest.approx(2.9)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_files_hash_ignores_names_and_order(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path, data in zip(paths, [b"1", b"2", b"1"], strict=True):
        path.write_bytes(data)
    first, second, third = paths
    assert files_hash([first, second]) == files_hash([second, third])
    assert files_hash([first, second]) != files_hash([first, third])
