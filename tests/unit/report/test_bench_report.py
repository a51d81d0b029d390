"""The page of a benchmark shows what there is, says what there is not, and cannot be made to run anything."""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.bench.csv_table import COLUMNS, csv_text
from edgeaudio.bench.markdown import escaped, markdown_text
from edgeaudio.bench.schema import BenchResult, GpuTime
from edgeaudio.bench.stats import summarise
from edgeaudio.bench.verdict import CHECKS
from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.report.bench import render_bench_report, write_bench_files
from edgeaudio.report.bench_plots import _hop_times_s, pareto_front
from edgeaudio.report.bench_view import bench_view
from edgeaudio.report.bench_words import REASON_WORDS
from tests import bench_records as records
from tests.html_page import Page

EVIL = "<script>alert('x')</script> & \"$\\frac`|\u202e\x00\x1b[2J\n; rm -rf"
SECTIONS = 13
RUN = records.result()


def evil() -> BenchResult:
    """A run in which everything that others name is hostile."""
    item = records.artefact(EVIL, form="foreign", engine_info={"library": EVIL, "provider": EVIL, "frontend": EVIL})
    estimate = records.estimated().artefacts[0].estimate
    assert estimate is not None
    named = estimate.model_copy(
        update={"cpu": EVIL, "calibrated_on": EVIL, "instructions_per_stage": {EVIL: 1}, "emulator": EVIL}
    )
    samples = [s.model_copy(update={"governors": (EVIL,), "throttled_now": (EVIL,), "power_w": {EVIL: 1.0}})
               for s in records.board().samples]  # fmt: skip
    energy = item.energy
    assert energy is not None
    return records.result(
        item.model_copy(update={"estimate": named, "energy": energy.model_copy(update={"rail": EVIL})}),
        bundle_name=EVIL,
        run_id=EVIL,
        edgeaudio_version=EVIL,
        gc_note=EVIL,
        incomplete=EVIL,
        environment=records.environment(EVIL, packages={EVIL: EVIL}, python=EVIL),
        board=records.board(*samples, model=EVIL, soc=EVIL, os=EVIL, kernel=EVIL, libc=EVIL, power_mode=EVIL),
        not_run=(records.NotRun(artefact=EVIL, reason=EVIL),),
        ratios=(records.Ratio(artefact=EVIL, baseline=EVIL, stage="total", value=1.0),),
    )


@pytest.fixture(scope="module")
def full() -> str:
    pi5 = {"environment": records.environment("pi5"), "board": records.board(model="Raspberry Pi 5")}
    return render_bench_report([records.result(), records.result(**pi5), records.estimated()])


@pytest.fixture(scope="module")
def hostile() -> str:
    return render_bench_report([evil(), records.estimated(environment=records.environment(EVIL))])


def headings(*results: BenchResult) -> list[str]:
    return Page(render_bench_report(results)).headings


def test_a_hostile_name_stays_text_everywhere(hostile: str) -> None:
    page = Page(hostile)
    assert "script" not in page.tags
    assert "<script" not in hostile
    assert hostile.count("&lt;script&gt;") > 20
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    # What cannot be seen does not act either: no terminal codes, nothing that turns the text around.
    assert not set(hostile) & {"\x00", "\x1b", "\u202e"}


def test_the_page_asks_for_nothing(full: str, hostile: str) -> None:
    for html in (full, hostile):
        page = Page(html)
        targets = page.values("src", "href", "xlink:href", "action", "srcset")
        assert targets
        assert all(target.startswith("#") for target in targets)
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
        assert not {"link", "iframe", "object", "embed", "base", "form", "img"} & set(page.tags)
        assert "default-src 'none'" in html


def test_ids_are_unique_and_links_lead_somewhere(full: str, hostile: str) -> None:
    for html in (full, hostile):
        page = Page(html)
        ids = page.values("id")
        assert len(set(ids)) == len(ids)
        assert {target[1:] for target in page.values("href", "xlink:href")} <= set(ids)


def test_equal_results_give_equal_pages() -> None:
    assert render_bench_report([records.result()]) == render_bench_report([records.result()])


def test_everything_that_was_measured_is_on_the_page(full: str) -> None:
    page = Page(full)
    assert len(page.headings) == SECTIONS
    assert not [text for text in page.headings if ": not" in text]
    for words in (
        "0.954 ms", "0.953 – 0.955", "Raspberry Pi 5", "0 of 300 after 40 ms", "19 of 20", "812 ms", "73 of 80",
        "91.2 %", "83.0 – 95.7 %", "0.480 – 0.520", "exit 0 62 %", "1.75 mJ", "9,297,871", "4.1 – 6.2 ms",
        "engine &#39;tensorrt&#39; needs an NVIDIA GPU", "52 – 62 °C", "EXT5V 3.9 W", "0.42 µs per hop",
    ):  # fmt: skip
        assert words in full, words
    # A histogram for each artefact of two runs, a timeline for each run, one Pareto.
    assert page.tags.count("figure") == 2 * (4 + 1) + 1


def test_what_was_not_measured_is_said() -> None:
    absent = dict.fromkeys(("paced", "cold_start", "load_ms", "sound_to_event", "energy", "accuracy"))
    bare = records.artefact(**absent, turns=())
    result = records.result(bare, board=None, ratios=(), not_run=())
    html = render_bench_report([result])
    assert len([text for text in Page(html).headings if ": not" in text]) == 8
    for words in ("--pace", "--cold-starts", "--sounds", "--clips", "--idle", "nobody watched it"):
        assert words in html
    assert "The board was not watched, so hops are shown in their order" in html


def test_a_board_that_does_not_tell_is_no_calm_board() -> None:
    silent = [
        sample.model_copy(update={"throttled_now": None, "frequencies_mhz": (), "temperatures_c": {}})
        for sample in records.board().samples
    ]
    html = render_bench_report([records.result(board=records.board(*silent))])
    for words in ("Whether the board throttled", "The clock: ", "The temperature: ", "not told"):
        assert words in html
    assert "temperature and clock are not known" in html


def test_an_estimate_is_never_among_the_measurements() -> None:
    estimated = records.estimated()
    html = render_bench_report([estimated])
    view = bench_view([estimated])
    assert (view.measured, view.matrix, len(view.estimated[0].estimates)) == ((), (), 1)
    assert "Latency: not run" in Page(html).headings
    assert "Estimated, no device" in Page(html).headings
    assert "figure" not in Page(html).tags
    assert "no device was used" in html
    only_measured = render_bench_report([records.result()])
    assert "Estimated, no device: not run" in Page(only_measured).headings


def test_there_are_plain_words_for_every_reason() -> None:
    assert set(REASON_WORDS) == {*CHECKS, "not-judged"}


@pytest.mark.parametrize("code", CHECKS)
def test_a_reason_is_given_with_what_it_means(code: str) -> None:
    (run,) = bench_view([records.planted()[code]]).runs
    (reason,) = run.reasons
    assert reason.meaning == REASON_WORDS[code]
    assert reason.level == run.verdict


def test_the_same_finding_on_several_artefacts_is_said_once() -> None:
    hot = records.board(records.sample(3, temperatures_c={"cpu-thermal": 85.0}))
    (run,) = bench_view([records.result(board=hot)]).runs
    (reason,) = run.reasons
    assert reason.artefacts == "onnx-fp32, onnx-int8, onnx-int8-exits, tflite-int8"


def test_invalid_runs_are_announced_and_are_no_headline(full: str) -> None:
    spoilt = records.planted()["throttled"]
    assert headings(spoilt, records.result())[0] == "These figures must not be used"
    assert "These figures must not be used" not in full
    tiles = {tile.label: tile.value for tile in bench_view([spoilt]).tiles}
    assert tiles == {"measured artefacts valid": "0 of 1"}


def test_a_run_of_nothing_is_still_a_page() -> None:
    nothing = records.result().model_copy(update={"artefacts": (), "ratios": (), "incomplete": "the board went away"})
    html = render_bench_report([nothing])
    assert "the board went away" in html
    assert "These figures must not be used" in html


def test_several_runs_on_one_device_are_told_apart() -> None:
    view = bench_view([records.result(), records.result(run_id="another")])
    assert [run.name for run in view.runs] == ["pi4, 20261121T120000Z-0123abcd", "pi4, another"]


def test_an_artefact_that_answers_more_often_says_so_and_is_no_headline() -> None:
    often = records.artefact("onnx-int8-stateful", scale=0.1, hop_ms=20.0)
    run = records.result(records.artefact("onnx-int8"), often, records.artefact("x.tflite", scale=0.1, form="foreign"))
    view = bench_view([run])
    assert [row.engine for row in view.runs[0].latency] == [
        "onnxruntime 1.31.1", "onnxruntime 1.31.1, every 20 ms", "onnxruntime 1.31.1",
    ]  # fmt: skip
    assert [cells[0].every for _, cells in view.matrix] == ["", "every 20 ms", "", ""]
    assert {tile.detail for tile in view.tiles} == {"", "onnx-int8 on pi4", "onnx-int8"}
    assert "- onnx-int8-stateful answers every 20 ms." in markdown_text([run])
    assert [row["hop_ms"] for row in rows_of(csv_text([run]))] == ["40", "20", "40"]
    assert "some answer more often than others" in render_bench_report([run])


def test_times_on_the_gpu_are_shown_beside_the_hosts() -> None:
    gpu = GpuTime(kernels=summarise([150.0] * 600), copies=summarise([12.0] * 600), kernels_us=(), copies_us=())
    html = render_bench_report([records.result(records.artefact(gpu=gpu))])
    assert "On the GPU" in html
    assert "0.150 ms" in html


def test_hops_stand_where_their_turns_were() -> None:
    item = records.artefact()
    times_s = _hop_times_s(item, records.result(item), 600)
    assert len(times_s) == 600
    assert np.all(np.diff(times_s) > 0)
    for number, turn in enumerate(item.turns):
        own = times_s[number * 120 : (number + 1) * 120]
        assert own[0] == turn.start_s
        assert own[-1] < turn.end_s
    spread = item.model_copy(update={"turns": ()})
    assert _hop_times_s(spread, records.result(spread), 600)[[0, -1]].tolist() == [2.0, 7.0]
    assert _hop_times_s(spread, records.result(spread, board=None), 600)[[0, -1]].tolist() == [0.0, 600.0]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=7))
def test_the_front_holds_just_what_nothing_beats(points: list[tuple[int, int, int]]) -> None:
    base, check = records.artefact(n=30), records.artefact(n=30).accuracy
    assert check is not None
    items = [
        base.model_copy(
            update={
                "rtf_p50": latency / 200,
                "accuracy": check.model_copy(update={"n_correct": right}),
                "size_bytes": size,
            }
        )
        for latency, right, size in points
    ]
    front = [items.index(item) for item in pareto_front(items, records.result(*items))]
    for index, (latency, right, size) in enumerate(points):
        beaten = any(o[0] <= latency and o[1] >= right and o[2] <= size and o != (latency, right, size) for o in points)
        assert (items.index(items[index]) in front) != beaten


def test_what_answers_more_often_is_held_by_its_time_per_second_of_sound() -> None:
    items = [
        records.artefact("onnx-int8", rtf_p50=0.002),
        # A tenth of the time each time, and ten times as often.
        records.artefact("onnx-int8-stateful", scale=0.1, hop_ms=20.0, rtf_p50=0.002, size_bytes=10**9),
        records.artefact("tflite-int8-stateful", scale=0.1, hop_ms=20.0, rtf_p50=0.001, size_bytes=10**9),
    ]
    assert [item.artefact for item in pareto_front(items, records.result(*items))] == [
        "onnx-int8", "tflite-int8-stateful",
    ]  # fmt: skip


def test_a_ratio_of_unlike_hops_is_per_second_of_sound_and_never_faster_per_hop() -> None:
    items = records.artefact("onnx-int8"), records.artefact("onnx-int8-stateful", hop_ms=records.HOP_MS / 10)
    ratio = records.Ratio(
        artefact=items[1].artefact, baseline=items[0].artefact, stage="total", value=0.39, interval=(0.38, 0.4)
    )
    run = records.result(*items, ratios=(ratio,))
    ((*_, stage, value, interval, words),) = bench_view([run]).runs[0].ratios
    assert (stage, value, interval) == ("all stages, per second of sound", "3.900", "3.800 – 4.000")
    assert words == "slower"
    assert "per second of sound" in render_bench_report([run])


def test_files_of_all_kinds_are_written(tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("a/x.html", "x.csv", "x.md")]
    assert write_bench_files([records.result()], outs) == outs
    assert [out.read_text()[:9] for out in outs] == ["<!DOCTYPE", "run_id,st", "## kitche"]


def test_another_kind_of_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.pdf: wanted a file that ends in \.html, \.csv, \.md"):
        write_bench_files([records.result()], [tmp_path / "x.csv", tmp_path / "x.pdf"])
    with pytest.raises(ConfigError, match="at least one result"):
        write_bench_files([], [tmp_path / "x.csv"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["jinja2", "markupsafe", "matplotlib"])
def test_a_missing_package_is_named_with_the_mend(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UnsupportedError, match=rf"pages need {missing}: pip install 'edgeaudio\[report\]'"):
        write_bench_files([records.result()], [tmp_path / "x.html"])
    assert write_bench_files([records.result()], [tmp_path / "x.csv"])


def rows_of(text: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_row_per_artefact_and_run() -> None:
    runs = [records.result(), records.estimated(), records.planted()["drift"]]
    rows = rows_of(csv_text(runs))
    assert [row["artefact"] for row in rows] == [item.artefact for run in runs for item in run.artefacts]
    assert list(rows[0]) == list(COLUMNS)
    assert (rows[0]["latency_ms_p50"], rows[0]["latency_ms_p50_low"], rows[0]["accuracy"]) == (
        "0.954",
        "0.953",
        "0.925",
    )
    assert (rows[0]["size_bytes"], rows[0]["provider"], rows[0]["verdict"]) == (
        "329728",
        "CPUExecutionProvider",
        "valid",
    )
    assert (rows[4]["kind"], rows[4]["instructions"], rows[4]["latency_ms_p50"]) == ("estimated", "9297871", "")
    assert (rows[5]["verdict"], rows[5]["reasons"]) == ("invalid", "drift")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", 'a,"b"'])
def test_csv_is_text_to_a_spreadsheet(name: str) -> None:
    (row,) = rows_of(csv_text([records.result(records.artefact(name), ratios=())]))
    assert not row["artefact"].startswith(("=", "+", "-", "@"))
    assert row["artefact"].removeprefix("'") == name


@given(st.text(max_size=40))
def test_csv_has_one_line_per_row_whatever_the_names(name: str) -> None:
    text = csv_text([RUN.model_copy(update={"bundle_name": name})])
    assert len(text.splitlines()) == 1 + len(RUN.artefacts)
    assert len(rows_of(text)) == len(RUN.artefacts)


def test_markdown_says_what_ran_and_what_speaks_against_it() -> None:
    text = markdown_text([records.result(), records.estimated(), records.planted()["incomplete"]])
    for words in (
        "## kitchen on pi4 (Raspberry Pi 4 Model B Rev 1.4)", "| onnx-int8 | 0.635 | 0.634–0.636 |", "**valid**",
        "## kitchen on a72: estimated, no device", "| 4.1–6.2 | 73 of 80 | valid |", "must not be used", "**invalid**",
        "- tensorrt-int8 was not run: engine 'tensorrt' needs an NVIDIA GPU.",
    ):  # fmt: skip
        assert words in text, words


def test_markdown_shows_a_hostile_name_and_does_nothing_else() -> None:
    text = markdown_text([evil()])
    assert "<script" not in text
    assert not set(text) & {"\x00", "\x1b", "\u202e"}
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {10}


@given(st.text(max_size=40))
def test_escaped_text_is_one_line_without_markup(text: str) -> None:
    found = escaped(text)
    assert "\n" not in found
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*\[\]|]", found)
    assert not set(found) & {"<", ">"}
