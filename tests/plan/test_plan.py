"""Plan files: what was written is read again, byte for byte the same everywhere; and what is not
exactly a plan is refused with what and where, in bounded time and memory."""

import gzip
import hashlib
import json
import os
import pickle
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.driver import compile_file
from stretto.compiler.plan.plan import MAX_HEADER, Plan, assemble, read_plan, read_rank, write_plan
from tests.support.plan_files import at, edited

NAMES = ("plan.json", "plan.json.gz")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compile_file("dualpipe", ranks=4, microbatches=8)


@pytest.fixture
def path(plan: Plan, tmp_path: Path) -> Path:
    write_plan(plan, tmp_path / "plan.json")
    return tmp_path / "plan.json"


def refused(path: Path) -> tuple[Diagnostic, ...]:
    with pytest.raises(Rejected) as rejected:
        read_plan(path)
    return rejected.value.diagnostics


# ---------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("name", NAMES)
def test_what_was_written_is_read(plan: Plan, tmp_path: Path, name: str) -> None:
    write_plan(plan, tmp_path / name)
    found = read_plan(tmp_path / name)
    for key, program in plan.programs.items():
        bare = replace(program.spec, written=())
        assert found.programs[key] == replace(program, spec=bare)
    assert (found.claims, found.bound, found.engine) == (plan.claims, plan.bound, plan.engine)
    assert (found.sources, found.hash) == (plan.sources, plan.hash)


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_reads_its_own_part(plan: Plan, tmp_path: Path, name: str) -> None:
    write_plan(plan, tmp_path / name)
    for rank in range(4):
        header, lists = read_rank(tmp_path / name, rank)
        assert lists == {key: (program.ranks[rank], ()) for key, program in plan.programs.items()}
        assert header.hash == plan.hash
    with pytest.raises(ValueError, match="ranks 0 to 3, not 4"):
        read_rank(tmp_path / name, 4)


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_does_not_look_at_the_lines_of_others(plan: Plan, tmp_path: Path, name: str) -> None:
    """Damage in rank 1's line is no concern of rank 2."""
    write_plan(plan, tmp_path / name)
    raw = bytearray((tmp_path / name).read_bytes())
    lines = (gzip.decompress(raw) if name.endswith("gz") else bytes(raw)).splitlines(True)
    at = len(raw) - len(raw) // 2 if name.endswith("gz") else len(lines[0]) + len(lines[1]) + 9
    raw[at] ^= 1
    (tmp_path / name).write_bytes(raw)
    damaged = [rank for rank in range(4) if not _reads(tmp_path / name, rank)]
    assert len(damaged) == 1


def _reads(path: Path, rank: int) -> bool:
    try:
        read_rank(path, rank)
    except Rejected:
        return False
    return True


def test_the_file_is_what_the_document_says(plan: Plan, path: Path) -> None:
    """Read by other means: JSON Lines, keys sorted, no blanks, digests and hash as stated."""
    lines = path.read_bytes().splitlines(keepends=True)
    header = json.loads(lines[0])
    assert list(header) == sorted(header)
    assert (header["format"], header["version"]) == ("stretto-plan", 3)
    assert "written" not in header["spec"]
    assert hashlib.sha256(lines[0]).hexdigest() == plan.hash
    for rank, (line, raw) in enumerate(zip(header["ranks"], lines[1:], strict=True)):
        assert line == {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        value = json.loads(raw)
        assert value["rank"] == rank and list(value["programs"]) == ["eval", "train"]
    for raw in lines:
        text = json.dumps(
            json.loads(raw), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        assert text.encode() + b"\n" == raw


def test_what_a_schedule_does_not_use_is_left_out_of_its_plan(path: Path) -> None:
    header = json.loads(path.read_bytes().splitlines()[0])
    spec = header["spec"]
    stages = [stage for pipeline in spec["pipelines"] for stage in pipeline["stages"]]
    for value in (header, spec, *spec["pipelines"], *stages):
        assert not [key for key, one in value.items() if one in ([], {}, "")]


def test_a_plan_of_an_older_format_says_how_to_compile_it_again(path: Path) -> None:
    name = json.loads(path.read_bytes().splitlines()[0])["sources"][0][0]
    for version in (1, 2):
        (found,) = refused(edited(path, at("version", to=version), 0))
        assert found.code == "other-version"
        assert found.message == (
            f"{path}, header: it has version {version} of the format, this stretto reads 3: "
            f"compile it again, `stretto compile {name} -o PLAN`"
        )
    path.write_text('{"format":"stretto-plan","version":2}\n')
    (found,) = refused(path)
    assert found.message.endswith("compile it again, `stretto compile FILE -o PLAN`")


def test_a_plan_of_a_newer_format_says_which_version_it_needs(path: Path) -> None:
    (found,) = refused(edited(path, at("version", to=7), 0))
    assert found.message == (
        f"{path}, header: it has version 7 of the format, this stretto reads 3: use a stretto that "
        "reads version 7"
    )


def test_the_same_plan_is_the_same_bytes(plan: Plan, tmp_path: Path) -> None:
    """Compiled again, written after reading, and with the programs given in another order."""
    again = compile_file("dualpipe", ranks=4, microbatches=8)
    backwards = assemble(
        dict(reversed(plan.programs.items())),
        dict(reversed(plan.claims.items())),
        plan.bound,
        plan.engine,
        plan.sources,
    )
    found: list[bytes] = []
    for name in NAMES:
        found.clear()
        write_plan(plan, tmp_path / name)
        for one in (plan, again, backwards, read_plan(tmp_path / name)):
            write_plan(one, tmp_path / name)
            found.append((tmp_path / name).read_bytes())
        assert found == found[:1] * 4
    assert gzip.decompress(found[0]) == (tmp_path / "plan.json").read_bytes()


def test_the_hash_is_over_everything_that_matters(plan: Plan) -> None:
    seen = {plan.hash}
    spec = plan.programs["train"].spec
    train = plan.programs["train"]
    ranks = ((*train.ranks[0][1::-1], *train.ranks[0][2:]), *train.ranks[1:])
    others: list[dict[str, Any]] = [
        {"engine": "other"},
        {"sources": ()},
        {"bound": replace(plan.bound, ticks=1)},
        {"claims": {**plan.claims, "train": replace(plan.claims["train"], busy=1)}},
        {"programs": {**plan.programs, "train": replace(train, ranks=ranks)}},
        {
            "programs": {
                name: replace(program, spec=replace(spec, name="x"))
                for name, program in plan.programs.items()
            }
        },
    ]
    for changes in others:
        value = replace(plan, **changes)
        seen.add(assemble(*(getattr(value, k) for k in plan.__struct_fields__[:5])).hash)
    assert len(seen) == 1 + len(others)


def test_a_plan_for_evaluation_alone(tmp_path: Path) -> None:
    plan = compile_file("inference", ranks=2, microbatches=2)
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json").programs.keys() == plan.programs.keys()


def test_writing_is_whole_or_not_at_all(
    plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fails(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        write_plan(replace(plan, engine="other"), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# ---------------------------------------------------------------------------- what is refused


STAGE = ("spec", "pipelines", 0, "stages", 3)
WRONG: list[tuple[int, Callable[[Any], object], str, str]] = [
    (0, at("format", to="other"), "not-a-plan", "`format`"),
    (0, at("version", to=4), "other-version", "version 4"),
    (0, at("version", to=True), "plan-field", "$.version: expected `int`, got `bool`"),
    (0, at("extra", to=1), "plan-field", "unknown field `extra`"),
    (0, lambda header: header.pop("bound"), "plan-field", "missing required field `bound`"),
    (0, at("engine", to=3), "plan-field", "$.engine: expected `str`, got `int`"),
    (0, at(*STAGE, "rank", to=7), "plan-reference", "$.spec.pipelines[0].stages[3].rank: there"),
    (0, at(*STAGE, "rank", to=True), "plan-field", "$.spec.pipelines[0].stages[3].rank: expected"),
    (0, at(*STAGE, "F", to=1.5), "plan-field", "got `float`"),
    (0, at(*STAGE, "F", to=-1), "plan-reference", ".F: -1 is not between"),
    (0, at(*STAGE, "F", to=1 << 60), "plan-reference", ".F: "),
    (0, at(*STAGE, "kept", to=9), "plan-reference", ".kept: 9 is not between 0 and"),
    (0, at("spec", "ranks", to=10**9), "plan-reference", "$.spec.ranks: "),
    (0, at("spec", "ranks", to=5), "plan-reference", "$.spec.order: there are 5 ranks, and 4"),
    (0, at("spec", "pipelines", 0, "microbatches", to=10**9), "plan-reference", "operations"),
    (0, at("spec", "pipelines", 1, "replicates", to=1), "plan-reference", "no original"),
    (0, at("spec", "pipelines", 1, "replicates", to=5), "plan-reference", "there are only pipe"),
    (0, at("spec", "pipelines", 0, "feeds", to=[[0, 0]]), "plan-reference", "not another one"),
    (0, at("spec", "pipelines", 0, "name", to="\x1b[31m"), "plan-reference", "cannot be printed"),
    (0, at("spec", "pipelines", 0, "at", to=9999), "plan-reference", "there are only spans"),
    (0, at("spec", "slices", to=-2), "plan-reference", "$.spec.slices"),
    (0, at("spec", "jitter", to=[1, 0]), "plan-reference", "1/0 is no fraction"),
    (0, at("spec", "minimize", to="cost"), "plan-field", "this version does not know 'cost'"),
    (0, at("spec", "overlap", to=["W"]), "plan-reference", "W cannot overlap F"),
    (0, at("spec", "written", to=[]), "damaged-plan", "not written in the one way"),
    (0, at("channels", 0, 0, to=4), "plan-reference", "$.channels[0][0]: there are only ranks"),
    (0, at("channels", 0, to=[0, 1]), "plan-field", "$.channels[0]"),
    (0, at("channels", 0, 2, to="weights"), "plan-field", "does not know 'weights'"),
    (
        0,
        at("reductions", 0, "copies", 0, to=[3, 0, 0]),
        "plan-reference",
        "$.reductions[0].copies[0][0]",
    ),
    (0, lambda header: header["claims"].pop("eval"), "plan-reference", "`eval` alone"),
    (0, lambda header: header["ranks"].pop(), "plan-reference", "$.ranks: there are 4 ranks"),
    (0, at("ranks", 2, "bytes", to=1 << 40), "plan-reference", "$.ranks[2].bytes"),
    (0, at("ranks", 2, "bytes", to=5), "plan-too-large", "line 4 (rank 2)"),
    (0, at("ranks", 2, "sha256", to="0" * 64), "damaged-plan", "line 4 (rank 2): its SHA-256"),
    (2, at("rank", to=0), "plan-reference", "of rank 1"),
    (
        2,
        lambda line: line["programs"].pop("eval"),
        "plan-reference",
        "`eval` and `train` of rank 1",
    ),
]


@pytest.mark.parametrize(("line", "edit", "code", "words"), WRONG)
def test_a_wrong_plan_is_refused_with_what_and_where(
    path: Path, line: int, edit: Callable[[Any], object], code: str, words: str
) -> None:
    found = refused(edited(path, edit, line))
    assert found[0].code == code and words in found[0].message, found
    assert found[0].message.startswith(str(path))


RAW: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("plan.json", lambda raw: b"", "header: it ends in the middle, or is missing"),
    ("plan.json", lambda raw: b"{}\n", "it is no JSON object with `format`"),
    ("plan.json", lambda raw: b"[" * 10**6 + b"\n", "it is no JSON object"),
    ("plan.json", lambda raw: pickle.dumps({"format": "stretto-plan"}) + b"\n", "no JSON object"),
    ("plan.json", lambda raw: gzip.compress(raw), "it is no JSON object"),
    ("plan.json", lambda raw: b"\xef\xbb\xbf" + raw, "it is no JSON object"),
    ("plan.json", lambda raw: b"\xff" * 100 + b"\n", "it is no JSON object"),
    ("plan.json", lambda raw: raw.replace(b"\n", b"\r\n"), "not written in the one way"),
    ("plan.json", lambda raw: raw.replace(b",", b", ", 1), "not written in the one way"),
    (
        "plan.json",
        lambda raw: raw.replace(b'"engine":"written"', b'"engine":"x","engine":"written"'),
        "not written in the one way",
    ),
    ("plan.json", lambda raw: raw[: len(raw) // 2], "it ends in the middle"),
    ("plan.json", lambda raw: raw[:-1], "line 5 (rank 3): it ends in the middle"),
    ("plan.json", lambda raw: raw + b"\n", "line 6 (rank 4): something follows"),
    ("plan.json", lambda raw: raw + raw, "something follows"),
    ("plan.json", lambda raw: raw[:-100] + b"9" + raw[-99:], "its SHA-256 is not the one"),
    ("plan.json.gz", lambda raw: raw, "it is not compressed, in spite of the name"),
    ("plan.json.gz", lambda raw: gzip.compress(raw), "not compressed one by one"),
    ("plan.json.gz", lambda raw: b"", "it is not compressed"),
]


@pytest.mark.parametrize(("name", "spoil", "words"), RAW)
def test_a_spoilt_file_is_refused(
    path: Path, name: str, spoil: Callable[[bytes], bytes], words: str
) -> None:
    spoilt = path.with_name(name)
    spoilt.write_bytes(spoil(path.read_bytes()))
    (found,) = refused(spoilt)
    assert words in found.message


@pytest.mark.parametrize("name", NAMES)
def test_no_damage_goes_unnoticed(plan: Plan, tmp_path: Path, name: str) -> None:
    """Bits flipped, bytes lost, doubled, the file cut: at a few hundred random places. Nothing
    else is raised, and no other plan passes for this one."""
    write_plan(plan, tmp_path / name)
    good = (tmp_path / name).read_bytes()
    choose = random.Random(7)
    for _ in range(300):
        raw, k = bytearray(good), choose.randrange(len(good))
        match choose.randrange(4):
            case 0:
                raw[k] ^= 1 << choose.randrange(8)
            case 1:
                del raw[k : k + choose.randint(1, 9)]
            case 2:
                raw[k:k] = raw[k : k + choose.randint(1, 9)]
            case 3:
                del raw[k:]
        if raw != good:
            (tmp_path / name).write_bytes(raw)
            try:
                found = read_plan(tmp_path / name)
            except Rejected:
                continue
            # What still is a plan is another one, as its hash shows: a header that differs, say,
            # in a letter of the source. Packed lines have a checksum.
            assert found.hash != plan.hash and not name.endswith(".gz")


def member(line: bytes, total: int | None = None) -> bytes:
    """A gzip member as plans have them, made here by hand."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(line) + deflate.flush()
    total = len(body) + 28 if total is None else total
    head = struct.pack("<4sIBBH2sHI", b"\x1f\x8b\x08\x04", 0, 0, 255, 8, b"St", 4, total)
    return head + body + struct.pack("<II", zlib.crc32(line), len(line) & 0xFFFFFFFF)


def test_bombs_are_refused_in_bounded_memory(path: Path) -> None:
    """A header of 256 MiB of blanks; a rank's line of as many brackets behind a good header; both
    a few hundred kilobytes when packed."""
    header, first, *_ = path.read_bytes().splitlines(keepends=True)
    packed = path.with_name("bomb.json.gz")
    blanks = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(blanks.compress(b" " * (1 << 20)) for _ in range(256)) + blanks.flush()
    bomb = struct.pack("<4sIBBH2sHI", b"\x1f\x8b\x08\x04", 0, 0, 255, 8, b"St", 4, len(body) + 28)
    bomb += body + struct.pack("<II", 0, 0)
    for raw, limit in ((bomb, 3 * MAX_HEADER), (member(header) + bomb, 8 << 20)):
        packed.write_bytes(raw)
        tracemalloc.start()
        found = refused(packed)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found[0].code == "plan-too-large"
        assert peak < limit, peak
    assert member(first) != first


@pytest.mark.parametrize("total", [0, 27, 28, 10**9, 2**32 - 1])
def test_a_member_that_lies_about_its_length_is_refused(path: Path, total: int) -> None:
    header, first, *rest = path.read_bytes().splitlines(keepends=True)
    packed = path.with_name("plan.json.gz")
    packed.write_bytes(b"".join([member(header), member(first, total), *map(member, rest)]))
    assert refused(packed)[0].code == "damaged-plan"
    with pytest.raises(Rejected):
        read_rank(packed, 2)


def test_what_cannot_be_opened_is_not_the_plans_fault(tmp_path: Path) -> None:
    for name in ("absent.json", "."):
        with pytest.raises(OSError):
            read_plan(tmp_path / name)
