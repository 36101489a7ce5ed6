"""The pictures of `make bench`: what a bar's length says, and that they are sound XML."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks import report, stages
from benchmarks.chart import LEFT, RIGHT, WIDTH, Group, bar_chart
from benchmarks.load import Case
from benchmarks.relay import Result, Run

NAMES = {"svg": "http://www.w3.org/2000/svg"}


def bars(picture: str) -> list[float]:
    """Their lengths, from the top; not the background."""
    root = ElementTree.fromstring(picture)
    return [float(each.attrib["width"]) for each in root.findall("svg:rect", NAMES)[1:]]


def texts(picture: str) -> list[str]:
    root = ElementTree.fromstring(picture)
    return [str(each.text) for each in root.findall("svg:text", NAMES)]


def test_bars_are_as_long_as_their_values() -> None:
    groups = [Group("one", [100.0, 400.0]), Group("two", [200.0, None])]
    picture = bar_chart("Title", "note", "/s", ["Postfix", "resel-mta"], groups)
    assert bars(picture) == [WIDTH / 4, WIDTH, WIDTH / 2]
    assert "resel-mta: not measured" in texts(picture)


def test_names_with_marks_of_xml_are_shown_as_they_are() -> None:
    picture = bar_chart("a < b & c", "<note>", "/s", ["<x>"], [Group("FETCH 1:* <&>", [1.0])])
    assert {"a < b & c", "<note>", "FETCH 1:* <&>", "<x> 1.0 /s"} <= set(texts(picture))


def test_nothing_lies_outside_of_the_picture() -> None:
    groups = [Group(str(n), [n * 1.0, 3.0, 2.0]) for n in range(9)]
    root = ElementTree.fromstring(bar_chart("T", "n", "/s", ["a", "b", "c"], groups))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert width == LEFT + WIDTH + RIGHT
    for each in root.iter():
        if "y" in each.attrib:
            assert 0 <= float(each.attrib["y"]) + float(each.attrib.get("height", 0)) <= height
            assert 0 <= float(each.attrib["x"]) < width


def test_a_bar_that_is_cut_says_so_and_keeps_its_figure() -> None:
    groups = [Group("fast", [31.0]), Group("slow", [0.38])]
    picture = bar_chart("T", "n", "×", [""], groups, mark=1.0, limit=10.0)
    assert bars(picture) == [WIDTH, pytest.approx(0.038 * WIDTH, abs=0.5)]
    assert {"31 ×", "0.38 ×"} <= set(texts(picture))
    paths = ElementTree.fromstring(picture).findall("svg:path", NAMES)
    assert len(paths) == 2  # the mark, and the gap in the long bar


def result_of(**drained: float) -> Result:
    runs = {
        name.replace("_", " ").replace("resel mta", "resel-mta"): [Run(1.0, value, 0.5, 40.0, 9.0)]
        for name, value in drained.items()
    }
    return Result(Case("5 KB"), runs)


def test_the_table_sets_ours_against_each_of_the_others() -> None:
    table = report.table([result_of(Postfix=500.0, resel_mta=2000.0, bare_loop=4000.0)])
    (postfix,) = [line for line in table.splitlines() if "resel-mta / Postfix" in line]
    (bare,) = [line for line in table.splitlines() if "resel-mta / bare loop" in line]
    assert postfix.endswith("4.00×")
    assert bare.endswith("0.50×")
    assert " / " not in report.table([result_of(Postfix=500.0)])


def test_one_worker_process_and_two_are_set_against_the_others() -> None:
    runs = {
        "Postfix": [Run(1.0, 500.0, 0.5, 40.0, 9.0)],
        "resel-mta, 1 proc.": [Run(1.0, 1000.0, 0.5, 40.0, 9.0)],
        "resel-mta, 2 proc.": [Run(1.0, 1500.0, 0.5, 40.0, 9.0)],
    }
    table = report.table([Result(Case("5 KB"), runs)])
    (one,) = [line for line in table.splitlines() if "resel-mta, 1 proc. / Postfix" in line]
    (two,) = [line for line in table.splitlines() if "resel-mta, 2 proc. / Postfix" in line]
    assert (one.split()[-1], two.split()[-1]) == ("2.00×", "3.00×")


def test_each_series_has_its_bar_however_many_there_are() -> None:
    names = ["a", "b", "c", "d", "e"]
    picture = bar_chart("T", "n", "/s", names, [Group("one", [1.0, 2.0, 3.0, 4.0, 5.0])])
    assert bars(picture) == [WIDTH / 5 * n for n in range(1, 6)]


def test_the_stages_of_a_message_add_up() -> None:
    found = {"parse": 0.3, "store": 0.1}
    assert "400 in all" in " ".join(texts(stages.picture_of(found)))
    assert [line.split()[-1] for line in stages.table(found).splitlines()[1:3]] == ["75%", "25%"]
