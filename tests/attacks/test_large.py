"""Files of 10 MB, or that unpack to more: each is refused with a sentence, in little memory and a
few seconds of the processor, and what is said of it is short however much is wrong."""

import json
import resource
import struct
import subprocess
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.conftest import Tally
from tests.support.command_line import STRETTO, Run

MEMORY = 1 << 30  # bytes of address space
SECONDS = 30  # of the processor: a few on an idle machine
MOST_SAID = 100_000  # bytes

TEXT = """\
schedule large ranks 2 microbatches 2
pipeline main { stages 2 place s -> s }
order rank r { repeat microbatches { F }  repeat microbatches { B } }
"""
Json = Any


def line(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def packed(data: bytes) -> bytes:
    """A member as plans have them, RFC 1952 with the length in an extra field."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    head = struct.pack("<4sIBBH2sHI", b"\x1f\x8b\x08\x04", 0, 0, 255, 8, b"St", 4, len(body) + 28)
    return head + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def plan(many: int, change: Callable[[Json, list[Json], int], None]) -> Callable[[Path], bytes]:
    """The plan of `TEXT` after a change, its digests made anew."""

    def made(good: Path) -> bytes:
        header, *ranks = (json.loads(text) for text in good.read_bytes().splitlines())
        change(header, ranks, many)
        lines = [line(rank) for rank in ranks]
        header["ranks"] = [{"bytes": len(x), "sha256": sha256(x).hexdigest()} for x in lines]
        return line(header) + b"".join(lines)

    return made


def doubled(header: Json, ranks: list[Json], many: int) -> None:
    header["channels"] *= many


def summed(header: Json, ranks: list[Json], many: int) -> None:
    header["reductions"] = [{"copies": [[0, 0, 0], [0, 1, 1]]}] * many


def again(header: Json, ranks: list[Json], many: int) -> None:
    for column in ranks[0]["programs"]["train"].values():
        column *= many


def staged(header: Json, ranks: list[Json], many: int) -> None:
    header["sources"] = []
    header["spec"]["pipelines"][0]["stages"] *= many


def counted(header: Json, ranks: list[Json], many: int) -> None:
    header["spec"]["pipelines"][0]["microbatches"] = many


def named(header: Json, ranks: list[Json], many: int) -> None:
    header["sources"] = []
    header["spec"]["pipelines"][0]["name"] = "x" * many
    for column in ranks[0]["programs"]["train"].values():
        column += column[:1] * 9


def numbered(header: Json, ranks: list[Json], many: int) -> None:
    header["sources"] = []
    header["spec"]["pipelines"][0]["microbatches"] = many
    ranks[0]["programs"]["train"]["list"] += [0] * many


def computed(header: Json, ranks: list[Json], many: int) -> None:
    numbered(header, ranks, many)
    header["spec"]["microbatches"] = many
    for key in ("microbatches", "at"):
        ranks[0]["programs"]["train"][key] += [0] * many


PLANS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "channels": ("and 399997 more like it", plan(200_000, doubled)),
    "sums": ("199900 more findings", plan(200_000, summed)),
    "instructions": ("is not between", plan(10_000, again)),
    "numbers": ("there is use for 5000004, and there are 4", lambda good: b"".join(
        map(packed, plan(5 * 10**6, numbered)(good).splitlines(keepends=True)))),
    "computations": ("never runs F main[0, 2]", plan(200_000, computed)),
    "stages": ("more findings of this kind", plan(50_000, staged)),
    "a count": ("operations are more than", plan(10**9, counted)),
    "a name": ("xx…xx", plan(10**7, named)),
    "nested": ("is no JSON object", lambda _: b'{"a":' + b"[" * 10**7 + b"\n"),
    "nothing": ("more than the", lambda _: packed(bytes(1 << 28))),
    "lists": ("is no JSON object", lambda _:
        packed(b'{"sources":[' + b"[]," * (20 << 20) + b"]}\n")),
    "inner channels": ("and 599997 more", lambda good: b"".join(
        map(packed, plan(300_000, doubled)(good).splitlines(keepends=True)))),
}  # fmt: skip
WORD = "x" * 900_000
TEXTS = {
    "a word": (TEXT + f"let a = {WORD}\n", "xx…xx"),
    "a statement": (TEXT + f"{WORD}\n", "xx…xx"),
    "what is not seen": (TEXT + "#" + "\x01" * 10**6 + "\n", "U+0001"),
    "a line": ("# " + "\x01" * 10**7 + "\n" + TEXT, "10,000,1"),
    "one unknown name": (
        TEXT + "".join(f"let a{i} = nowhere\n" for i in range(20_000)),
        "`nowhere` is not defined",
    ),
    "copies": (
        TEXT + "".join(f"pipeline a{i} {{ replicates main }}\n" for i in range(15_000)),
        "the copies of `main` have",
    ),
    "close names": (
        "".join(
            [
                *TEXT.partition("\n")[:2],
                *(f"let warmupsteps{i:04} = 1\n" for i in range(1000)),
                *(f"let a{i} = warmupstepz{i:05}\n" for i in range(10_000)),
                TEXT.partition("\n")[2],
            ]
        ),
        "did you mean",
    ),
}
SAMPLE = {"channels", "nothing", "lists", "a name", "a word", "what is not seen", "a line"}


@pytest.mark.parametrize("what", [*PLANS, *TEXTS])
def test_large_files_are_refused_soon(
    stretto: Run, folder: Path, what: str, attacks: Callable[[int, int], int], tally: Tally
) -> None:
    if what not in SAMPLE and not attacks(0, 1):
        pytest.skip("a sample is tried here, all by `make test-attacks`")
    (folder / "good.pipe").write_text(TEXT)
    stretto("compile", str(folder / "good.pipe"), "-o", str(folder / "good.plan"))
    if what in PLANS:
        said, make = PLANS[what]
        data = make(folder / "good.plan")
    else:
        text, said = TEXTS[what]
        data = text.encode()
    name = folder / ("large.gz" if data[:2] == b"\x1f\x8b" else "large")
    name.write_bytes(data)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))

    command = [*STRETTO, "check", str(name)]
    done = subprocess.run(command, capture_output=True, timeout=300, preexec_fn=limited)
    assert done.returncode == 1, done.stderr[-2000:]
    assert said in done.stderr.decode()
    assert len(done.stderr) < MOST_SAID
    tally(bytes=len(data), said=len(done.stderr))
