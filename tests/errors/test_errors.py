"""Every case in this folder gives exactly the text beside it, and leaves no file behind.

    NAME.specc   a wrong spec. It is checked; `# load` in its second line says that it is loaded (`# load variant=m1_2`)
    NAME.cmd     command lines that fail, one a line
    NAME.py      a script that fails, for what no command line shows
    NAME.txt     what a user is told; `pytest --update-golden` writes it, to be read before it is committed

Commands and scripts run in an empty folder. What they name, of `made.FILES` and of the specs here, is put there.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import made
import pytest

from specc import grammar, terminal
from specc.cli import execute
from specc.codes import CODES
from specc.diagnostics import SpeccError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMANDS = sorted(path.stem for path in HERE.glob("*.cmd"))
SCRIPTS = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("made", "test_errors"))
SPECS = sorted(path.stem for path in HERE.glob("*.specc") if path.stem not in {*COMMANDS, *SCRIPTS})

MACHINE = (
    (r"differs by [\d.]+(e-?\d+)?", "differs by ..."),
    (r"\(\d+\.\d+ s\)", "(... s)"),
    (r"it has \d+ bytes, and its header says \d+", "it has ... bytes, and its header says ..."),
    (r"(it was compiled for |no C compiler for )\S+", r"\1..."),
    (r"cache=\d+", "cache=..."),
    (r"there can be 1 to \d+ here", "there can be 1 to ... here"),
    (r"(does not load: ).*", r"\1..."),
)
"""What is another number or text on another machine, and how it is written in the expected texts."""


def message(path: str) -> str:
    """All that a user is told of the spec."""
    load = re.search(r"^# load(?: (\w+)=(\w+))?$", Path(path).read_text(), re.MULTILINE)
    try:
        if load:
            grammar.load(path, **({load[1]: load[2]} if load[1] else {}))
            return ""
        reports = grammar.check(path)
    except SpeccError as problem:
        return problem.render()
    failures = [SpeccError(*report.failures, sources=report.sources).render() for report in reports if report.failures]
    return "\n\n".join(failures)


def compare(name: str, text: str, request: pytest.FixtureRequest) -> None:
    expected = HERE / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        expected.write_text(text + "\n")
    assert text + "\n" == expected.read_text()


@pytest.mark.parametrize("name", SPECS)
def test_a_spec(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    text = message(f"{name}.specc")
    assert text, "this spec is not wrong"
    compare(name, text, request)


class Shell:
    """A folder in which commands and scripts run."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def supply(self, names: set[str]) -> None:
        """Puts the files of these names into the folder."""
        for name in sorted(names - set(os.listdir(self.folder))):
            if name in made.FILES:
                made.write(self.folder / name)
            elif name.endswith(".specc") and (HERE / name).exists():
                (self.folder / name).write_bytes((HERE / name).read_bytes())

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def run(self, action: Callable[[], int]) -> str:
        """What is said on stderr, and the exit code; fails where a file is left behind, or none was wrong."""
        before = self.files()
        self.capsys.readouterr()
        code = action()
        told = self.capsys.readouterr().err.strip()
        assert self.files() == before, "something is left behind"
        assert code not in (terminal.FINE, terminal.USAGE), "nothing is wrong here" if code == 0 else told
        assert "Traceback" not in told
        told = told.replace(str(self.folder), "FOLDER")
        for pattern, neutral in MACHINE:
            told = re.sub(pattern, neutral, told)
        return f"{told}\nexit {code}"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, capsys)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_lines(name: str, shell: Shell, request: pytest.FixtureRequest) -> None:
    told = []
    for line in (HERE / f"{name}.cmd").read_text().splitlines():
        specc, *words = shlex.split(line)
        assert specc == "specc"
        shell.supply({part for word in words for part in (word, word.split(":")[0], f"{word.split(':')[0]}.py")})
        told.append(f"$ {line}\n{shell.run(lambda words=words: execute(words))}")
    sys.modules.pop("nets_of_a_test", None)
    compare(name, "\n\n".join(told), request)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script(name: str, shell: Shell, request: pytest.FixtureRequest) -> None:
    script = HERE / f"{name}.py"
    shell.supply(set(re.findall(r"[\w.]+", script.read_text())))

    def run() -> int:
        try:
            runpy.run_path(str(script))
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    compare(name, shell.run(lambda: terminal.guarded(run)), request)


def test_every_code_has_a_case() -> None:
    shown = "".join(path.read_text() for path in HERE.glob("*.txt"))
    assert sorted(CODES.keys() - set(re.findall(r"error\[(S\d+)\]", shown))) == []


def test_every_code_is_raised_somewhere() -> None:
    sources = [path for part in ("specc", "grammar", "passes", "backends") for path in (ROOT / part).rglob("*.py")]
    said = "".join(path.read_text() for path in sources if path.name != "codes.py")
    assert sorted(code for code in CODES if f'"{code}"' not in said and f"[{code}]" not in said) == []


def test_every_text_has_its_case() -> None:
    assert sorted(path.stem for path in HERE.glob("*.txt")) == sorted([*SPECS, *COMMANDS, *SCRIPTS])


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "repvit.specc").write_text("specc 1\n")
    with pytest.raises(SpeccError) as caught:
        grammar.load(tmp_path / "repvitt.specc")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "S0001"
    assert diagnostic.notes == ("did you mean `repvit.specc`?",)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.specc").write_bytes(os.urandom(64) + b"\xff\xfe")
    with pytest.raises(SpeccError, match="UTF-8"):
        grammar.load(tmp_path / "weights.specc")
    with pytest.raises(SpeccError, match="directory"):
        grammar.load(tmp_path)


@pytest.mark.parametrize(
    "body",
    ["(" * 3000 + "x" + ")" * 3000, "-" * 5000 + "1", " + ".join(["1"] * 5000), "[" * 2000, "x" * 1_000_001],
    ids=["brackets", "signs", "terms", "open", "long"],
)
def test_a_monstrous_expression_is_refused_or_read(body: str) -> None:
    with pytest.raises(SpeccError) as caught:
        grammar.loads(f"specc 1\n\nnetwork N(x: [n, 3]) -> [n, 3]:\n    k = {body}\n    return relu(y)\n")
    assert {d.code for d in caught.value.diagnostics} <= {"S0101", "S0106", "S0201", "S0406"}
    assert all(d.labels for d in caught.value.diagnostics)
