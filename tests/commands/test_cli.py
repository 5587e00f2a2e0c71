"""The command line: what goes where, exit codes, the JSON that is a contract, files whole or not
at all."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stretto.compiler import cli, library
from tests.support.paths import ROOT

STRETTO = [sys.executable, "-m", "stretto.compiler.cli"]

GOOD = """\
schedule good
ranks 2
microbatches 2
param memory = 2
pipeline main {}
limit activations <= memory
order rank r { repeat microbatches { F }  repeat microbatches { B } }
"""
WRONG = GOOD.replace("repeat microbatches { F }", "repeat microbatchs { F }")
DEADLOCK = GOOD.replace("repeat microbatches { F }  repeat", "B; F; F; repeat")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some files, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "good.pipe").write_text(GOOD)
    (tmp_path / "wrong.pipe").write_text(WRONG)
    (tmp_path / "latin.pipe").write_bytes(b"schedule caf\xe9")
    (tmp_path / "plan").write_text("an older plan")
    (tmp_path / "broken.json").write_text("{}")
    return tmp_path


Run = Callable[..., tuple[int, str, str]]  # words to exit code, stdout, stderr


@pytest.fixture
def stretto(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = cli.main(words)
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


# ------------------------------------------------------------------------- exit codes

CODES = [
    ("check good.pipe", 0),
    ("check dualpipe", 0),
    ("check wrong.pipe", 1),
    ("check good.pipe wrong.pipe", 1),
    ("check good.pipe --set memory=1", 1),
    ("check dualpipe --set ranks=3", 1),
    ("check dualpipe --set rank=4", 1),
    ("check broken.json", 1),
    ("compile wrong.pipe -o plan", 1),
    ("show wrong.pipe", 1),
    ("check missing.pipe", 2),
    ("check latin.pipe", 2),
    ("check .", 2),
    ("check wrong.pipe missing.pipe", 2),
    ("check good.pipe --set memory", 2),
    ("check good.pipe --set memory=a", 2),
    ("check good.pipe --set memory=1/0", 2),
    ("check good.pipe --costs missing.pipe", 2),
    ("compile good.pipe -o no/where", 2),
    ("compile good.pipe -o .", 2),
    ("show good.pipe -o no/where.svg", 2),
    ("show good.pipe --format bmp", 2),
    ("show good.pipe --width -3", 2),
    ("show good.pipe --width 39", 2),
    ("show good.pipe --width 40", 0),
    ("show good.pipe -o x.png", 2),
    ("list --set foo=1", 1),
    ("compile v_half --engine magic", 2),
    ("certify good.pipe", 2),
    ("new good", 2),
    ("new ../a-b", 2),
    ("new mine --from dualpip", 2),
    ("explain no-such-thing", 2),
    ("explain unknown-name", 0),
    ("frobnicate", 2),
    ("", 2),
]


@pytest.mark.parametrize(("words", "code"), CODES)
def test_exit_codes(stretto: Run, words: str, code: int) -> None:
    found, out, err = stretto(*words.split())
    assert found == code, out + err
    assert "Traceback" not in out + err
    if code:
        assert err.strip()
    else:
        assert out.strip()


def test_near_misses_are_named(stretto: Run) -> None:
    assert "did you mean `dualpipe`?" in stretto("check", "dualpip")[2]
    assert "did you mean `good.pipe`?" in stretto("check", "goood.pipe")[2]
    assert "did you mean `dualpipe`?" in stretto("new", "x", "--from", "daulpipe")[2]
    assert "did you mean `unknown-name`?" in stretto("explain", "unknow-name")[2]
    for words in ("check good", "show goood", "explain good", "check ./god.pipe"):
        assert "did you mean `good.pipe`?" in stretto(*words.split())[2], words
    assert "did you mean `dualpipe`?" in stretto("check", "dualpipe.pipe")[2]


@pytest.mark.parametrize(
    "words", ["a=6 b=16", "a=6,b=16", "a=6;b=16", "a=6 b=16 good.pipe", "a=6 --width 60 b=16"]
)
def test_values_are_set_one_by_one(stretto: Run, words: str) -> None:
    behind = "good.pipe" not in words
    code, _, err = stretto("show", *(["good.pipe"] * behind), "--set", *words.split())
    assert code == 2
    assert "one --set for each value" in err
    assert "--set b=16" in err


def test_flags_that_could_not_change_a_plan_are_refused(stretto: Run) -> None:
    stretto("compile", "good.pipe", "-o", "a.plan")
    for flags in ("--set ranks=4", "--costs good.pipe --gap 0.1", "--seed 3", "--no-cache"):
        for command in ("check", "show", "explain"):
            code, out, err = stretto(command, "a.plan", *flags.split())
            assert (code, out) == (2, "")
            assert flags.split()[0] in err
            assert "is a plan" in err
    assert stretto("check", "good.pipe", "--gap", "0.1", "--seed", "3")[0] == 0


def test_a_bug_of_ours_is_called_one(stretto: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("stretto.compiler.driver.compile_text", broken)
    code, out, err = stretto("check", "dualpipe")
    assert (code, out) == (70, "")
    assert "a bug in stretto: ZeroDivisionError: of ours" in err
    assert "Traceback" not in err
    code, _, err = stretto("-v", "check", "dualpipe")
    assert code == 70
    assert "Traceback" in err


def test_interruption_is_no_bug(stretto: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stretto.compiler.driver.compile_text", interrupted)
    assert stretto("check", "dualpipe") == (130, "", "stretto: interrupted\n")


def interrupting(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Ctrl-C when these of the search's steps begin."""
    from stretto.compiler.order import search

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for name in names:
        monkeypatch.setattr(search, name, interrupted)


def test_an_interrupted_search_keeps_the_best_so_far(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    interrupting(monkeypatch, "offsets")
    code, out, err = stretto("compile", "v_half", "-o", "mine.plan", "--time-limit", "600")
    assert code == 0, err
    assert "interrupted: the best order so far is kept\n" in err
    assert "makespan" in out
    assert stretto("check", "mine.plan")[0] == 0
    (kept,) = (folder / "stretto/orders").iterdir()
    assert 0 < json.loads(kept.read_text())["seconds"] < 100  # not as if all had been spent


def test_an_interrupted_effort_is_not_remembered(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    interrupting(monkeypatch, "offsets")
    assert stretto("compile", "v_half", "--effort", "50")[0] == 0
    assert not (folder / "stretto/orders").exists()


@pytest.mark.parametrize("names", [("library",), ("offsets", "check")])
def test_interrupted_too_early_or_twice_it_writes_nothing(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    interrupting(monkeypatch, *names)
    before = set(folder.iterdir())
    code, out, err = stretto("compile", "v_half", "-o", "mine.plan", "--no-cache")
    assert (code, out) == (130, "")
    assert err.endswith("stretto: interrupted\n")
    assert set(folder.iterdir()) == before


def test_an_interrupted_run_trains_nothing(
    stretto: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupting(monkeypatch, "offsets")
    words = ("run", "v_half", "--model", "a:b", "--no-cache")
    assert stretto(*words) == (130, "", "stretto: interrupted\n")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    words = [*STRETTO, "show", "dualpipe", "--format", "json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) in (0, 141)


# ------------------------------------------------------------------------- check


def test_check_says_what_was_proved(stretto: Run) -> None:
    _, out, err = stretto("check", "dualpipe", "--assumptions")
    assert err == ""
    for words in ("proved", "makespan 66", "exactly once", "no deadlock", "peak 9 activations"):
        assert words in out
    assert "arrive in the order in which they were sent" in out


def test_check_finds_the_same_in_every_format(stretto: Run) -> None:
    _, out, full = stretto("check", "wrong.pipe")
    assert out == ""
    assert "--> wrong.pipe:7:" in full
    assert "did you mean `microbatches`?" in full
    _, out, err = stretto("check", "wrong.pipe", "--format", "json")
    assert err == ""
    (one,) = json.loads(out)
    assert set(one) == documented("check")
    line = WRONG.splitlines()[one["line"] - 1]
    assert line[one["column"] - 1 : one["end_column"] - 1] == "microbatchs"
    _, out, _ = stretto("check", "wrong.pipe", "--format", "concise")
    assert out.startswith(f"wrong.pipe:{one['line']}:{one['column']}: ")
    assert one["message"] in out
    _, out, _ = stretto("check", "wrong.pipe", "--format", "github")
    assert re.match(r"::error .*file=wrong\.pipe,line=7,", out)
    assert stretto("check", "good.pipe", "--format", "json")[:2] == (0, "[]\n")


def test_diagnostics_name_the_path_and_plans_the_last_name(stretto: Run, folder: Path) -> None:
    (folder / "deep").mkdir()
    for name in ("wrong.pipe", "good.pipe"):
        (folder / "deep" / name).write_text((folder / name).read_text())
    assert "--> deep/wrong.pipe:7:" in stretto("check", "deep/wrong.pipe")[2]
    stretto("compile", "good.pipe", "-o", "a")
    stretto("compile", str(folder / "deep/good.pipe"), "-o", "b")
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


def test_check_loads_only_what_it_needs() -> None:
    code = (
        "import sys; from stretto.compiler.cli import main; code = main(['check', 'dualpipe']);"
        "print(code, [m for m in ('torch', 'numpy', 'networkx', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_schedule_may_come_from_standard_input() -> None:
    done = subprocess.run(
        [*STRETTO, "check", "-"], input=GOOD, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "makespan" in done.stdout


@pytest.mark.parametrize("name", ["a.plan", "a.plan.gz"])
def test_plans_come_through_pipes_too(stretto: Run, folder: Path, name: str) -> None:
    stretto("compile", "good.pipe", "-o", name)
    tool = f"{sys.executable} -m stretto.compiler.cli"
    for words in (
        f"cat {name} | {tool} check -",
        f"{tool} check <(cat {name})",
        f"cat {name} | {tool} show -",
        f"cat good.pipe | {tool} check -",
        f"{tool} check <(cat good.pipe)",
        f"cat {name} | {tool} explain - --time-limit 1",
    ):
        done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, words + done.stderr
        assert done.stdout
    words = f"head -c 300 {name} | {tool} check -"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "-, header: " in done.stderr
    assert "stretto-" not in done.stderr


def test_a_packed_plan_is_known_by_its_content(stretto: Run, folder: Path) -> None:
    stretto("compile", "good.pipe", "-o", "a.plan.gz")
    (folder / "a.plan.gz").rename(folder / "b.plan")
    assert stretto("check", "b.plan")[1].startswith("b.plan: proved")


# ------------------------------------------------------------------------- compile


def documented(section: str) -> set[str]:
    """The keys that `docs/json.md` gives for the output of a command."""
    text = (ROOT / "docs/json.md").read_text()
    part = re.search(rf"## `stretto {section}.*?\n(.*?)(?=\n## |\Z)", text, re.DOTALL)
    assert part
    rows = re.findall(r"^\| (`.*?`) \|", part[1], re.MULTILINE)
    keys = re.findall(r"`(\w+)`", " ".join(rows) or part[1])
    return set(keys) - {"error", "warning", "B", "F", "I", "W"}


def test_the_summary_is_what_the_document_says(stretto: Run) -> None:
    _, out, _ = stretto("compile", "dualpipe", "--json")
    summary = json.loads(out)
    assert set(summary) == documented("compile --json")
    expected = {
        "schedule": "dualpipe",
        "ranks": 8,
        "microbatches": 20,
        "operations": 364,
        "makespan": 66,
        "span": 66,
        "optimal": False,
        "peak_activations": [9] * 8,
        "weight_copies": 2,
        "engine": "written",
    }
    assert {key: summary[key] for key in expected} == expected
    assert summary["bubble"] == pytest.approx(6 / 66)
    assert summary["gap"] == pytest.approx(66 / summary["lower_bound"] - 1)


def test_values_are_exact(stretto: Run, folder: Path) -> None:
    (folder / "thirds.pipe").write_text(GOOD + "param c = 1\ncost F = c\ncost B = 1/3\n")
    _, out, err = stretto("compile", "thirds.pipe", "--json", "--set", "c=0.1")
    # two ranks, two micro-batches: F F on both, one after the other, then B B
    assert json.loads(out)["makespan"] == "13/10", err
    _, out, _ = stretto("compile", "thirds.pipe", "--json", "--set", "c=1/7", "--set", "c=2/3")
    assert json.loads(out)["makespan"] == 3


def test_a_plan_is_written_whole_or_not_at_all(stretto: Run, folder: Path) -> None:
    before = set(folder.iterdir())
    assert stretto("compile", "wrong.pipe", "-o", "plan")[0] == 1
    assert (folder / "plan").read_text() == "an older plan"
    assert set(folder.iterdir()) == before
    _, out, err = stretto("compile", "good.pipe", "-o", "plan")
    assert "makespan" in out
    assert err == "wrote plan\n"
    assert set(folder.iterdir()) == before
    assert json.loads((folder / "plan").read_text().splitlines()[0])["format"] == "stretto-plan"


@pytest.mark.parametrize("name", ["dualpipe.json", "dualpipe.json.gz"])
def test_plans_are_read_like_schedules(stretto: Run, name: str) -> None:
    _, summary, _ = stretto("compile", "dualpipe", "-o", name, "--json", "--set", "ranks=4")
    assert json.loads(summary)["hash"]
    code, out, _ = stretto("check", name)
    assert code == 0
    assert out.startswith(f"{name}: proved")
    for format in ("text", "json", "svg", "html", "trace", "dot"):
        shown = stretto("show", name, "--format", format)[1]
        assert shown
        assert shown == stretto("show", "dualpipe", "--format", format, "--set", "ranks=4")[1]


def test_forwards_alone(stretto: Run) -> None:
    _, out, _ = stretto("compile", "gpipe", "--forward-only", "--json", "-o", "f")
    summary = json.loads(out)
    assert summary["operations"] == 4 * 8
    assert summary["makespan"] == 4 + 8 - 1
    assert summary["optimal"]
    assert "B main" not in stretto("show", "f", "--format", "json")[1]


def test_a_picture_of_unknown_suffix_is_refused(stretto: Run, folder: Path) -> None:
    _, _, err = stretto("show", "good.pipe", "-o", "x.png")
    for words in ("x.png", "--format", ".svg (svg)", ".trace.json (trace)", ".csv (torch-csv)"):
        assert words in err
    assert not (folder / "x.png").exists()
    for words in ("x.png --format svg", "x", ".x"):
        assert stretto("show", "good.pipe", "-o", *words.split())[0] == 0
    assert (folder / "x.png").read_text().startswith("<svg")


def test_closed_streams_are_no_error(folder: Path) -> None:
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        words = f"{sys.executable} -m stretto.compiler.cli check good.pipe {closed}"
        done = subprocess.run(words, shell=True, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------------------- list, new, explain


def test_list_has_the_whole_library_with_the_figures_of_compile(stretto: Run) -> None:
    size = ("--set", "ranks=4", "--set", "microbatches=8")
    rows = json.loads(stretto("list", "--json", *size)[1])
    assert sorted(row["schedule"] for row in rows) == library.names()
    assert all(row["gap"] >= 0 for row in rows if "gap" in row)
    row = next(row for row in rows if row["schedule"] == "zb_h1")
    alone = json.loads(stretto("compile", "zb_h1", "--json", *size)[1])
    assert {key: row[key] for key in alone} == alone


def test_list_says_why_a_size_does_not_fit(stretto: Run) -> None:
    out = stretto("list", "--set", "ranks=3", "--set", "microbatches=8")[1]
    table, *reasons = re.split(r"\n\n(?=\w+: )", out)
    assert "one_f_one_b" in table
    assert "dualpipe " not in table
    assert any(r.startswith("dualpipe: ") and "meet between two ranks" in r for r in reasons)


def test_list_says_once_what_fits_no_schedule(stretto: Run) -> None:
    for flags in ((), ("--json",)):
        code, out, err = stretto("list", "--set", "foo=1", *flags)
        assert (code, out) == (1, "")
        assert err.count("foo") == 1
        assert "no schedule of the library fits" in err


@pytest.mark.parametrize("origin", [None, *library.names()])
def test_a_new_file_can_be_compiled(stretto: Run, folder: Path, origin: str | None) -> None:
    words = ("--from", origin) if origin else ()
    code, _, err = stretto("new", "mine", *words)
    assert code == 0
    assert "mine.pipe" in err
    text = (folder / "mine.pipe").read_text()
    assert re.search(r"(?m)^schedule mine\b", text)
    assert stretto("check", "mine.pipe")[0] == 0
    assert stretto("new", "mine")[0] == 2
    assert (folder / "mine.pipe").read_text() == text


def test_every_code_is_explained(stretto: Run) -> None:
    from stretto.compiler.diagnostics.codes import CODES

    for code in CODES:
        found, out, _ = stretto("explain", code)
        assert found == 0
        assert code in out
    assert stretto("explain", "error[unknown-name]:")[0] == 0


# ------------------------------------------------------------------------- run


def test_run_starts_torchrun_and_prints_how(stretto: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from stretto.compiler.commands import run

    started: list[list[str]] = []
    monkeypatch.setattr(run, "find_spec", lambda _: object())
    monkeypatch.setattr(run.Training, "run", lambda _, words: started.append(words) or 3)
    words = "run good.pipe --model a:b --data c:d --steps 5 --timeout 9 --verify --trust"
    assert stretto(*words.split())[0] == 3
    (command,) = started
    text = " ".join(command[1:])
    assert text.startswith("-m torch.distributed.run --standalone --nproc-per-node 2 -m stretto.")
    assert text.endswith("--model a:b --data c:d --steps 5 --timeout 9 --verify --trust")


RUNNER = """\
import sys
from stretto.compiler import cli
from stretto.compiler.commands import run
run.find_spec = lambda _: object()
run.command = lambda plan, *_: [sys.executable, "-c", {child!r}, plan]
sys.exit(cli.main(["run", "good.pipe", "--model", "a:b"]))
"""
CHILD = """\
import os, sys, time, traceback
print(os.getpid(), sys.argv[1], flush=True)
try:
    time.sleep(100)
except BaseException:  # a Ctrl-C that it was not to get
    traceback.print_exc()
"""


@pytest.mark.parametrize("whole_group", [False, True])  # True: as Ctrl-C in a terminal
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_training_and_leaves_nothing(
    folder: Path, number: signal.Signals, whole_group: bool
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(child=CHILD)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        assert process.stdout and process.stderr
        child, plan = process.stdout.readline().split()
        assert Path(plan).is_file()
        if whole_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        err = process.stderr.read()
        assert process.wait(30) == 128 + number
    assert "Traceback" not in err
    assert err.endswith("stretto: interrupted\n")
    assert not Path(plan).parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)


def test_the_code_of_a_training_that_was_killed(folder: Path) -> None:
    for child, code in (("import os; os.kill(os.getpid(), 9)", 137), ("raise SystemExit(7)", 7)):
        words = [sys.executable, "-c", RUNNER.format(child=child)]
        assert subprocess.run(words, capture_output=True, timeout=60).returncode == code


def test_run_without_torch_says_how_to_get_it(
    stretto: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stretto.compiler.commands.run.find_spec", lambda _: None)
    code, _, err = stretto("run", "good.pipe", "--model", "a:b")
    assert code == 2
    assert "pip install" in err


# ------------------------------------------------------------------------- colour


def test_colour_goes_to_terminals_only_unless_forced() -> None:
    for variables, coloured in (({}, False), ({"FORCE_COLOR": "1"}, True)):
        base = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
        done = subprocess.run(
            [*STRETTO, "show", "dualpipe"],
            env=base | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert ("\x1b[" in done.stdout) == coloured
