"""The command line's exit codes, and what it says of words that it does not know."""

import pytest

from tests.support.command_line import Run

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
            if command == "explain" and "--seed" in flags:
                continue  # it searches in plans too, for what would help
            code, out, err = stretto(command, "a.plan", *flags.split())
            assert (code, out) == (2, "")
            assert flags.split()[0] in err
            assert "is a plan" in err
    assert stretto("check", "good.pipe", "--gap", "0.1", "--seed", "3")[0] == 0
    assert stretto("explain", "a.plan", "--effort", "0", "--seed", "3")[0] == 0


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
