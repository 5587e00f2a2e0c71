"""`stretto doctor` in environments in which something is wrong: it is found, with what to do."""

import json
import resource
import socket
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from stretto.compiler.commands import examination
from stretto.compiler.commands.examination import Sighting, examine
from tests.support.command_line import Run


@pytest.fixture(autouse=True)
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds to load, and its rows have a test of their own."""
    checks = tuple(c for c in examination.CHECKS if c is not examination._torch)
    monkeypatch.setattr(examination, "CHECKS", checks)


def found(check: str, **environment: str) -> Sighting:
    """The worst finding of this name."""
    of_it = [finding for finding in examine(environment) if finding.check == check]
    assert of_it, check
    return max(of_it, key=lambda finding: ("ok", "warning", "problem").index(finding.state))


def test_every_finding_that_is_not_good_says_what_to_do() -> None:
    for environment in ({}, {"RANK": "1"}, {"GLOO_SOCKET_IFNAME": "none0"}):
        for finding in examine(environment):
            assert finding.found and (finding.state == "ok") == (not finding.advice), finding


def test_codes_and_forms(stretto: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = Sighting("a", "warning", "x", "do"), Sighting("b", "problem", "\x1b[31m", "do that")
    for findings, code in (([good], 0), ([good, bad], 1)):
        monkeypatch.setattr(
            "stretto.compiler.commands.doctor.examine", lambda _, rows=findings: rows
        )
        told, out, _ = stretto("doctor", "--json")
        assert told == code
        assert json.loads(out) == [finding._asdict() for finding in findings]
        told, out, _ = stretto("doctor")
        assert told == code and "! a  x\n" in out and "-> do\n" in out and "\x1b" not in out
    assert "1 problem, 1 warning\n" in out


@pytest.mark.parametrize(
    ("environment", "check", "words"),
    [
        ({"RANK": "0"}, "ranks", "RANK set, WORLD_SIZE and MASTER_ADDR and MASTER_PORT not"),
        ({"WORLD_SIZE": "2", "MASTER_PORT": "1"}, "ranks", "RANK and MASTER_ADDR not"),
        ({"OMP_NUM_THREADS": "many"}, "ranks", "OMP_NUM_THREADS is `many`"),
        ({"GLOO_SOCKET_IFNAME": "none0"}, "GLOO_SOCKET_IFNAME", "there is no none0"),
        ({"NCCL_SOCKET_IFNAME": "none,nor"}, "NCCL_SOCKET_IFNAME", "no none and no nor"),
    ],
)
def test_variables(environment: dict[str, str], check: str, words: str) -> None:
    finding = found(check, **environment)
    assert finding.state == "problem" and words in finding.found


def test_variables_that_are_right() -> None:
    whole = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}
    assert found("ranks", **whole).state == "ok"
    for value in ("lo", "^docker0"):
        assert found("NCCL_SOCKET_IFNAME", NCCL_SOCKET_IFNAME=value).state == "ok"
    assert found("NCCL_SOCKET_IFNAME", NCCL_SOCKET_IFNAME="l").state == "ok"  # a beginning
    assert found("GLOO_SOCKET_IFNAME", GLOO_SOCKET_IFNAME="l" * 3).state == "problem"


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert found("ports", MASTER_PORT=port).state == "problem"
        assert found("ports", MASTER_PORT=port, RANK="1").state == "ok"  # rank 0 keeps the store
    assert found("ports", MASTER_PORT=port).state == "ok"


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["lark>=99", "rich<1,>=0.5", "nowhere>=1", 'torch>=99; extra == "run"', "msgspec>=0.1"]
    monkeypatch.setattr(metadata, "requires", lambda _: lines)
    states = {f.check: (f.state, f.advice) for f in examine({})}
    assert states["lark"] == ("problem", "pip install 'lark>=99'")
    assert states["rich"][0] == states["torch"][0] == "problem"
    assert states["nowhere"] == ("problem", "pip install 'nowhere>=1'")
    assert states["msgspec"][0] == "ok"


def test_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody(*_: Any) -> Any:
        raise OSError("Name or service not known")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", nobody)
        finding = found("host name")
        assert finding.state == "problem" and "GLOO_SOCKET_IFNAME" in finding.advice
    for most, state in ((100, "problem"), (1000, "warning"), (resource.RLIM_INFINITY, "ok")):
        with monkeypatch.context() as patched:
            patched.setattr(resource, "getrlimit", lambda _, most=most: (most, most))
            assert found("open files").state == state
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: 1e9)
        assert found("clock").state == "problem"
    file = tmp_path / "file"
    file.touch()
    assert found("cache of orders", XDG_CACHE_HOME=str(file)).state == "warning"
    assert found("threads", OMP_NUM_THREADS="9999").state == "warning"
    with monkeypatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        assert found("temporary files").state == "problem"


@pytest.mark.parametrize("words", [["doctor"], ["run", "zb_h1", "--model", "a:b"]])
def test_a_folder_that_was_removed(
    stretto: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    """torch would end the process without a word of ours."""
    if words[0] == "run":
        pytest.importorskip("torch")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, _, err = stretto(*words)
    assert code == 2 and err == "stretto: the current folder was removed; change into another one\n"


def test_where_compiled_loops_are_kept(tmp_path: Path) -> None:
    """They are run as they are read: from no folder into which others may write."""
    pytest.importorskip("numba")
    file = tmp_path / "file"
    file.touch()
    what, own = "compiled loops", tmp_path / "own"
    assert found(what, XDG_CACHE_HOME=str(file)).state == "warning"
    own.mkdir(mode=0o700)
    finding = found(what, XDG_CACHE_HOME=str(own))
    assert (finding.state, finding.found) == ("ok", str(own / "stretto" / "loops"))
    own.chmod(0o777)
    finding = found(what, XDG_CACHE_HOME=str(own))
    assert finding.state == "warning" and str(own) in finding.advice


def test_what_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from stretto.runtime import surroundings

    rows = {row[0]: row for row in surroundings.examine({})}
    assert rows["torch's build"][1] == "ok"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = {row[0]: row for row in surroundings.examine({"CUDA_VISIBLE_DEVICES": ""})}
    assert rows["GPUs"][1] == "warning" and "CUDA_VISIBLE_DEVICES is ``" in rows["GPUs"][2]


def test_a_torch_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> Any:
        raise OSError("libtorch.so: no such file")

    monkeypatch.setattr(examination, "import_module", broken)
    (finding,) = examination._torch({})
    assert finding.state == "problem" and "libtorch.so" in finding.found
