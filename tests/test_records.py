"""Files of tuning records: what counts, what is refused, and that nothing is lost or half-written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from specc import records
from specc.diagnostics import SpeccError
from specc.records import Log, Record, Records

RECORD = Record("x86-64-v4", "relu_1", {"tile": "9x3", "strips": 4, "ahead": True}, True, 0.9, 12.5, 2, "a machine")


def write(path: Path, *found: Record) -> Path:
    log = Log(path)
    for record in found:
        log.add(record)
    log.close()
    return path


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    failed = replace(RECORD, better=False, ratio=None, microseconds=None)
    path = write(tmp_path / "new" / "records", RECORD, failed)
    assert records.read(path).records == (RECORD, failed)
    (first, _) = records.read(path).records
    assert type(first.configuration["ahead"]) is bool and type(first.configuration["strips"]) is int


def test_the_last_better_record_counts() -> None:
    second, other = replace(RECORD, configuration={"strips": 8}), replace(RECORD, target="aarch64")
    worse = replace(RECORD, configuration={"strips": 2}, better=False)
    assert Records((RECORD, second, worse, other)).best("x86-64-v4") == {"relu_1": {"strips": 8}}
    assert Records((second, RECORD)).best("x86-64-v4") == {"relu_1": RECORD.configuration}
    assert Records((RECORD,)).best("x86-64-v3") == {}


def test_a_record_can_be_taken_back() -> None:
    taken_back = replace(RECORD, better=False, ratio=1.1)
    assert Records((RECORD, taken_back)).best("x86-64-v4") == {}
    assert Records((taken_back, RECORD)).best("x86-64-v4") == {"relu_1": RECORD.configuration}


def test_files_are_merged_by_writing_one_behind_the_other(tmp_path: Path) -> None:
    other = replace(RECORD, kernel="relu_2")
    one, two = write(tmp_path / "one", RECORD), write(tmp_path / "two", other)
    both = tmp_path / "both"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    assert records.read(both).records == (RECORD, other)


def changed(**fields: object) -> str:
    return json.dumps({**json.loads(RECORD.line()), **fields})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "it is no line of JSON"),
        ("[" * 10000, "it is no line of JSON"),
        ("\xff\xfe", "it is no line of JSON"),
        ("[1]", "it is no tuning record"),
        ('{"a": 1}', "it is no tuning record"),
        (changed(specc_tuning=2), "it has the version 2, and this specc reads 1"),
        (changed(ratio=-1.0), "`ratio` is -1.0"),
        (changed(ratio=True), "`ratio` is true"),
        (changed(configuration={"tile": [1, 2]}), '`configuration` is {"tile": [1, 2]}'),
        (changed(better="yes"), '`better` is "yes"'),
        ('{"specc_tuning": 1}', "it lacks `target`"),
        (changed(ratio=float("nan")), "`ratio` is NaN"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "records"
    path.write_text(RECORD.line() + "\n" + line + "\n" + RECORD.line(), encoding="latin-1")
    with pytest.raises(SpeccError) as caught:
        records.read(path)
    (found,) = caught.value.diagnostics
    assert found.code == "S1202"
    assert found.notes[0] == f"line 3: {words}"


def test_many_bad_lines_are_not_all_told(tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_text("x\n" * 30)
    with pytest.raises(SpeccError) as caught:
        records.read(path)
    assert "and 25 lines more" in caught.value.diagnostics[0].notes


def test_what_a_stopped_writer_left_is_no_record(tmp_path: Path) -> None:
    path = write(tmp_path / "records", RECORD)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert records.read(path).records == (RECORD,)
    write(path, RECORD)
    assert path.read_bytes() == whole * 2


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_bytes(bytes(range(1, 10)))
    with pytest.raises(SpeccError, match="S1202"):
        records.read(path)


def test_which_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECC_TUNING", raising=False)
    monkeypatch.setenv("SPECC_CACHE_DIR", str(tmp_path))
    assert records.place(None) == tmp_path / "tuning.jsonl"
    assert records.find(None) == Records(), "there is none yet"
    write(tmp_path / "tuning.jsonl", RECORD)
    assert records.find(None).records == (RECORD,)
    assert records.find("none") == Records()
    monkeypatch.setenv("SPECC_TUNING", "none")
    assert records.find(None) == Records()
    assert records.find(tmp_path / "tuning.jsonl").records == (RECORD,)
    with pytest.raises(SpeccError, match="S1201"):
        records.find(tmp_path / "absent")
