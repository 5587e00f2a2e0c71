"""`Plan`, all that a compile found out as data, and its file: canonical JSON Lines, never code.

The first line is the header, one line per rank follows; `docs/json.md` has the keys. Canonical
means keys sorted, no blanks, numbers and texts written one way, so that equal plans are equal
bytes on every machine and the hash of the header line, in which every other line's digest stands,
is the plan's. `lines` writes and reads them, packed where the name ends in `.gz`: a rank
reads the header, hops to its own line, and reads nothing else.

Reading is strict: what is not, byte for byte, a plan that this version would write is refused with
what and where, in bounded time and memory. What was read is well formed, no more: whether the
plan is right, `prove` says.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib import import_module
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple
from weakref import ref

import msgspec
from msgspec import Struct

from stretto.compiler.bounds.bound import Bound
from stretto.compiler.diagnostics.diagnostic import Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.plan.lines import Lines, as_written, write_lines
from stretto.compiler.plan.rank_line import (
    IssuedList,
    RankLine,
    RankLists,
    encode,
    fold,
    unfold,
)
from stretto.compiler.problem.spec import Pipeline, Spec, Stage
from stretto.compiler.program.program import (
    Channel,
    Claims,
    Program,
    ProgramName,
    Reduction,
)

FORMAT, VERSION = "stretto-plan", 3
MAX_HEADER = 64 << 20  # bytes of the header line
MAX_LINE = 48 << 20  # bytes of a rank's line
MAX_FILE = 384 << 20  # bytes of all lines together
PER_OPERATION = 2048  # bytes that a line may have for each operation of its rank, and once more
MAX_WORDS = 2000  # characters of the bound's reason, and of the engine's name
MAX_TEXTS = 4 << 20  # bytes of the texts of another version in which a name is looked for
FEW = 10  # findings told of one line


class Plan(Struct, frozen=True):
    """The Programs by name (`train` and `eval`, or one alone), what is claimed of each, a lower
    bound of what the Spec minimizes, who made the order, the texts it was compiled from, and the
    SHA-256 of the file's header line. `verified`: of a plan that was read from a file, the lower
    bound that was then worked out anew; its own `bound` may state more, which nobody has checked.
    None where this process has compiled the plan, or has only read it. `no_evaluation`: why a step
    has no `eval` beside it, a sentence's end; else empty. `assumed`: in sentences, the costs and
    sizes that all of it rests on though nobody stated them; a file has the text that leaves them
    out, of which `verify` finds them again."""

    programs: dict[ProgramName, Program]
    claims: dict[ProgramName, Claims]
    bound: Bound
    engine: str
    sources: tuple[Source, ...]
    hash: str
    verified: Bound | None = None
    no_evaluation: str = ""
    assumed: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """The figures of the plan's step, times and sizes in the units of the schedule: the object
        that `stretto compile --json` prints (`docs/json.md`), but for the warnings about the file.
        The programs and claims themselves count in ticks and grains."""
        show = import_module("stretto.compiler.show.summary")
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(show.of_plan(self)))
        return found

    def _repr_html_(self) -> str:
        """The picture that a notebook shows. The room of pictures stands above this one, and is
        loaded when a notebook asks."""
        show = import_module("stretto.compiler.show.notebook")
        picture: str = show.embedded(self)
        return picture

    def __repr__(self) -> str:
        """A word for its figures: all of a plan is a page."""
        spec = next(iter(self.programs.values())).spec
        size = f"{spec.ranks} ranks, {spec.microbatches} micro-batches"
        return f"<Plan {spec.name}: {size}, {self.hash[:12]}>"


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """A rank's line: its length, line break included, and its SHA-256."""

    bytes: int
    sha256: str


class Header(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first line of the file. Of it, of the Spec, its pipelines and stages, a key that may be
    left out is left out where its list, object or text is empty, and so are the streams of a
    channel where both are `compute`: what a schedule does not use does not show in its plan, and a
    later version may add to this one without changing it."""

    format: Literal["stretto-plan"] = "stretto-plan"
    version: Literal[3] = 3
    spec: Spec
    channels: tuple[Channel, ...] = ()
    reductions: tuple[Reduction, ...] = ()
    claims: dict[ProgramName, Claims]
    bound: Bound
    engine: str
    sources: tuple[Source, ...]
    ranks: tuple[Line, ...]
    no_evaluation: str = ""

    @property
    def hash(self) -> str:
        """The plan's hash."""
        return sha256(_encode(self)).hexdigest()


def assemble(
    programs: Mapping[ProgramName, Program],
    claims: Mapping[ProgramName, Claims],
    bound: Bound,
    engine: str,
    sources: Iterable[Source] = (),
    no_evaluation: str = "",
) -> Plan:
    """The Plan of these Programs of one Spec, with its hash. All share their channels; the sums
    are those of `train`. `no_evaluation`: see `Plan`."""
    first = next(iter(programs.values()))
    for name, program in programs.items():
        same = program.spec == first.spec and program.channels == first.channels
        if not same or (name == "eval" and program.reductions) or program.name != name:
            raise ValueError(f"the {name} program is not of the same plan")
    value = Plan(
        dict(programs), dict(claims), bound, engine, tuple(sources), "", None, no_evaluation
    )
    return msgspec.structs.replace(value, hash=next(_lines(value))[1])


def write_plan(plan: Plan, path: str | PathLike[str]) -> None:
    """Write the file: whole, or not at all. Raises `OSError`."""
    write_lines(Path(path), (line for line, _ in _lines(plan)))


def plan_bytes(plan: Plan, *, packed: bool) -> Iterator[bytes]:
    """The bytes of the file, line by line; `packed`: as those of a name that ends in `.gz`."""
    return as_written((line for line, _ in _lines(plan)), packed)


def read_plan(path: str | PathLike[str] | Lines) -> Plan:
    """Read the whole file, by its name or as it was opened. Raises `Rejected` (where it is no
    well-formed plan of this version) and
    `OSError`."""
    with path if isinstance(path, Lines) else Lines(path) as lines:
        header = _header(lines)
        lists = [_rank_line(lines, header, rank) for rank in range(len(header.ranks))]
        lines.end()
    programs = {}
    for name in header.claims:
        reductions = header.reductions if name == "train" else ()
        ranks = tuple(own[name].instructions for own in lists)
        streams = tuple(own[name].streams for own in lists) if header.spec.streams else ()
        programs[name] = Program(header.spec, name, header.channels, reductions, ranks, streams)
    return Plan(
        programs,
        header.claims,
        header.bound,
        header.engine,
        header.sources,
        header.hash,
        None,
        header.no_evaluation,
    )


def read_rank(path: str | PathLike[str], rank: int) -> tuple[Header, RankLists]:
    """Read the header and the line of one rank. Raises as `read_plan`; `ValueError` where the plan
    has no such rank."""
    with Lines(path) as lines:
        header = _header(lines)
        if not 0 <= rank < len(header.ranks):
            raise ValueError(f"the plan has ranks 0 to {len(header.ranks) - 1}, not {rank}")
        lines.skip(line.bytes for line in header.ranks[:rank])
        return header, _rank_line(lines, header, rank)


# ---------------------------------------------------------------------------- writing


def _lines(plan: Plan) -> Iterator[tuple[bytes, str]]:
    """The lines of the file, each with its SHA-256."""
    first = next(iter(plan.programs.values()))
    parts = _rank_lines(plan.programs)
    header = Header(
        spec=first.spec,
        channels=first.channels,
        reductions=plan.programs["train"].reductions if "train" in plan.programs else (),
        claims=plan.claims,
        bound=plan.bound,
        engine=plan.engine,
        sources=plan.sources,
        no_evaluation=plan.no_evaluation,
        ranks=tuple(Line(len(line), digest) for line, digest in parts),
    )
    first_line = _encode(header)
    yield first_line, sha256(first_line).hexdigest()
    yield from parts


class _Made(NamedTuple):
    """Lines of ranks, each with its SHA-256, and the Programs that they were made of, by name."""

    programs: dict[ProgramName, "ref[Program]"]
    lines: list[tuple[bytes, str]]


_LAST: list[_Made] = []
"""What was made last: a plan is assembled, with the digests of its lines, and written after that.
Programs do not change."""


def _rank_lines(programs: Mapping[ProgramName, Program]) -> list[tuple[bytes, str]]:
    """The line of every rank, with its SHA-256."""
    for made in _LAST:
        known = {name: of() for name, of in made.programs.items()}
        if known.keys() == programs.keys() and all(known[n] is programs[n] for n in programs):
            return made.lines
    lines = []
    for rank in range(next(iter(programs.values())).spec.ranks):
        lists: dict[ProgramName, IssuedList] = {
            name: _issued(program, rank) for name, program in programs.items()
        }
        line = encode(fold(rank, lists))
        lines.append((line, sha256(line).hexdigest()))
    _LAST[:] = [_Made({name: ref(program) for name, program in programs.items()}, lines)]
    return lines


def _issued(program: Program, rank: int) -> IssuedList:
    return IssuedList(program.ranks[rank], program.streams[rank] if program.spec.streams else ())


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted") + b"\n"


def _encode(header: Header) -> bytes:
    """The header's line. The written orders stay out: the lists are the order."""
    without = msgspec.structs.replace(header.spec, written=())  # they are as large as the lists
    value = msgspec.to_builtins(msgspec.structs.replace(header, spec=without))
    spec = value["spec"]
    for pipeline in spec["pipelines"]:
        for stage in pipeline["stages"]:
            _leave_out(stage, Stage)
        _leave_out(pipeline, Pipeline)
    _leave_out(spec, Spec)
    value["channels"] = [c[:3] if c[3:] == (0, 0) else c for c in header.channels]
    for reduction in value["reductions"]:
        _leave_out(reduction, Reduction)
    _leave_out(value, Header)
    return _canonical(value)


def _leave_out(value: dict[str, Any], of: type[Struct]) -> None:
    """Take the empty lists, objects and texts out of this value of a type `of`, where a reader
    supposes them."""
    for name in _optional(of):
        if value.get(name) in ([], (), {}, ""):
            del value[name]


@cache
def _optional(of: type[Struct]) -> tuple[str, ...]:
    """The fields that a value of this type may leave out."""
    return tuple(field.name for field in msgspec.structs.fields(of) if not field.required)


# ---------------------------------------------------------------------------- reading


def _header(lines: Lines) -> Header:
    """The first line."""
    raw = lines.next(MAX_HEADER)
    _preamble(lines, raw)
    header: Header = _decode(lines, raw, Header)
    _check(lines, _sane(header))
    _same(lines, raw, _encode(header))
    return header


def _preamble(lines: Lines, raw: bytes) -> None:
    """Whether this is a plan at all, and of this version: said before anything else is."""
    try:
        kind = msgspec.json.decode(raw, type=_Preamble)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        kind = _Preamble()
    if kind.format != FORMAT:
        lines.refuse("not-a-plan", f"it is no JSON object with `format` {FORMAT!r}")
    if type(kind.version) is int and kind.version != VERSION:
        text = f"it has version {kind.version} of the format, this stretto reads {VERSION}"
        if kind.version < VERSION:
            text += f": compile it again, `stretto compile {kind.source()} -o PLAN`"
        else:
            text += f": use a stretto that reads version {kind.version}"
        lines.refuse("other-version", text)


def _rank_line(lines: Lines, header: Header, rank: int) -> RankLists:
    """The next line, which is that of `rank`."""
    expected = header.ranks[rank]
    raw = lines.next(expected.bytes)
    if len(raw) != expected.bytes:
        text = f"it has {len(raw)} bytes, the header says {expected.bytes}"
        lines.refuse("damaged-plan", text)
    if sha256(raw).hexdigest() != expected.sha256:
        lines.refuse("damaged-plan", "its SHA-256 is not the one in the header")
    part: RankLine = _decode(lines, raw, RankLine)
    _same(lines, raw, encode(part))
    if part.rank != rank or part.programs.keys() != header.claims.keys():
        there = " and ".join(f"`{name}`" for name in header.claims)
        lines.refuse("plan-reference", f"$: this should be {there} of rank {rank}")
    from stretto.compiler.plan.line_references import check_line  # a compile reads no plan

    sizes = len(header.channels), len(header.reductions)
    _check(lines, check_line(header.spec, *sizes, part))
    return unfold(part)


def _decode(lines: Lines, raw: bytes, of: type) -> Any:
    try:
        return _decoder(of).decode(raw)
    except msgspec.ValidationError as error:
        lines.refuse("plan-field", _words(str(error)))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        lines.refuse("damaged-plan", f"it is no JSON: {error}")
    except RecursionError:
        lines.refuse("damaged-plan", "it has more brackets in each other than a plan has")


def _words(error: str) -> str:
    """A decoder's message, path first."""
    text, _, path = error.partition(" - at ")
    for old in ("Invalid enum value", "Invalid value"):
        text = text.replace(old, "this version does not know")
    return f"{path.strip('`') or '$'}: {text[:1].lower()}{text[1:]}"


def _same(lines: Lines, raw: bytes, canonical: bytes) -> None:
    """Equal plans are equal bytes: no key twice or in another order, no blanks, no number or text
    written in another way, nothing that was passed over."""
    if raw == canonical:
        return
    both = zip(raw, canonical, strict=False)
    at = next((k for k, (a, b) in enumerate(both) if a != b), min(len(raw), len(canonical)))
    near = raw[max(0, at - 20) : at + 20].decode(errors="replace")
    text = f"it is not written in the one way in which plans are: see byte {at}, near {near!r}"
    lines.refuse("damaged-plan", text)


def _check(lines: Lines, wrong: Iterator[tuple[str, str]]) -> None:
    found = [
        lines.diagnostic("plan-reference", f"{path}: {words}") for path, words in islice(wrong, FEW)
    ]
    if found:
        raise Rejected(found)


class _Preamble(Struct):
    """What is read of a header before it is known to be one of this version."""

    format: str = ""
    version: Any = None
    sources: msgspec.Raw = msgspec.Raw()

    def source(self) -> str:
        """The file it was compiled from, as the header tells it; else `FILE`."""
        if len(self.sources) > MAX_TEXTS:
            return "FILE"
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            match msgspec.json.decode(self.sources):
                case [[str(name), *_], *_] if name and name.isprintable():
                    return name
        return "FILE"


@cache
def _decoder(of: type) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(of)


def _sane(header: Header) -> Iterator[tuple[str, str]]:
    """What must hold of the header before a rank's line is looked at."""
    from stretto.compiler.plan.references import check_header, check_spec, operations_of

    spec = header.spec
    wrong = [*check_spec(spec)]
    yield from wrong
    if wrong:
        return
    for source in header.sources:
        if not source.name.isprintable():
            yield "$.sources", "the name of one of them cannot be printed"
    words = {
        "$.engine": header.engine,
        "$.bound.reason": header.bound.reason,
        "$.no_evaluation": header.no_evaluation,
    }
    for path, text in words.items():
        if len(text) > MAX_WORDS or not text.isprintable():
            yield path, "this is too long, or cannot be printed"
    yield from check_header(spec, header.channels, header.reductions)
    if header.no_evaluation and header.claims.keys() != {"train"}:
        yield "$.no_evaluation", "with a reason for no evaluation a plan has `train` alone"
    elif not header.no_evaluation and header.claims.keys() not in ({"train", "eval"}, {"eval"}):
        yield "$.claims", "a plan has `train` and `eval`, or `eval` alone"
    for name, claims in header.claims.items():
        for key in ("activations", "receives", "outputs"):
            if len(getattr(claims, key)) != spec.ranks:
                yield f"$.claims.{name}.{key}", f"there are {spec.ranks} ranks"
    if len(header.ranks) != spec.ranks:
        yield "$.ranks", f"there are {spec.ranks} ranks, and {len(header.ranks)} lines"
        return
    for rank, (line, many) in enumerate(zip(header.ranks, operations_of(spec), strict=True)):
        most = min(MAX_LINE, PER_OPERATION * (many + 1))
        if not 0 < line.bytes <= most:
            yield f"$.ranks[{rank}].bytes", f"{line.bytes} is not between 1 and {most}"
    if sum(line.bytes for line in header.ranks) > MAX_FILE:
        yield "$.ranks", f"together they have more than {MAX_FILE} bytes"
