"""The text of a certificate → its values, or `Refuted`: every key is known and there once, every
number a whole one in the range that is stated here, every text short and printable. What passes is
plain: nothing behind this module meets a float, a truth value in a number's place, or a number that
rounds away; and no text of a certificate reaches a terminal but through here.

The ranges: times and grains 0 to 2^53, counts and indices as far as `MOST_MEMBERS`, units of time
and size 1 to 2^53. A certificate has at most `LONGEST` bytes and, in the instance, not more
operations than its schedule lists."""

import json
from collections.abc import Callable
from typing import Any

from stretto.compiler.certificate.checker.instance import Refuted, demand

LONGEST = 64 << 20  # bytes
MOST_MEMBERS = 1 << 20  # ranks, stages, micro-batches, operations: each and together
MOST_TEXT = 2000  # characters of a text
FIGURE = 1 << 53  # ticks, grains: what every reader of JSON holds exactly
UNIT = 1 << 62  # ticks or grains in one unit of the costs: where these were rounded, a power of two
SHOWN = 60  # characters of a value in a sentence

FieldCheck = Callable[[Any, str], None]
"""Raises `Refuted` where the value at a path is not what should be there."""


class Unreadable(Refuted):
    """It is no JSON at all."""


def parsed(text: str | bytes) -> Any:
    """The JSON value of a text. Raises `Refuted` where it is none: `Unreadable` where it is no
    JSON."""
    demand(len(text) <= LONGEST, f"this is not a certificate: it has more than {LONGEST} bytes")
    try:
        return json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_object,
            parse_int=_int,
            parse_float=_number,
            parse_constant=_number,
        )
    except UnicodeDecodeError:
        raise Unreadable("this is not a certificate: it is not UTF-8") from None
    except RecursionError:
        raise Refuted("this is not a certificate: its brackets are nested too deeply") from None
    except ValueError:
        raise Unreadable("this is not a certificate: it is not JSON") from None


def read(found: Any) -> dict[str, Any]:
    """The certificate, of a JSON value. Raises `Refuted` where it is none."""
    CERTIFICATE(found, "")
    _counts(found)
    return dict(found)


# ---------------------------------------------------------------------------- JSON, more strictly


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refuted(f"the key {_shown(twice)} stands twice in one object of the certificate")
    return found


def _int(digits: str) -> int:
    if len(digits) > 20:  # before it is made a number: that takes long, and raises from 4300 on
        raise Refuted(f"{_shortened(digits)} is not from 0 to 2^53")
    return int(digits)


def _number(text: str) -> Any:
    raise Refuted(f"{_shortened(text)} is not a whole number, written as one")


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _shown(value: Any) -> str:
    """A value in a sentence: short, and in ASCII."""
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, str):
        value = value[: SHOWN + 1]
    return _shortened(json.dumps(value))


# ---------------------------------------------------------------------------- what is where


def whole(least: int, most: int) -> FieldCheck:
    """A whole number in this range."""
    top = "2^53" if most == FIGURE else str(most)

    def check(value: Any, path: str) -> None:
        if type(value) is not int or not least <= value <= most:
            _wrong(value, path, f"a whole number from {least} to {top}")

    return check


def one_of(*choices: Any) -> FieldCheck:
    """One of these, and of the same type."""

    def check(value: Any, path: str) -> None:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            _wrong(value, path, " or ".join(json.dumps(choice) for choice in choices))

    return check


def text(value: Any, path: str) -> None:
    """A text that can be printed."""
    if type(value) is not str or len(value) > MOST_TEXT or not value.isprintable():
        _wrong(value, path, f"a printable text of at most {MOST_TEXT} characters")


def many(member: FieldCheck) -> FieldCheck:
    """A list of such members."""

    def check(value: Any, path: str) -> None:
        if type(value) is not list or len(value) > MOST_MEMBERS:
            _wrong(value, path, f"a list of at most {MOST_MEMBERS}")
        for k, one in enumerate(value):
            member(one, f"{path}[{k}]")

    return check


def row(*members: FieldCheck) -> FieldCheck:
    """A list of exactly these."""

    def check(value: Any, path: str) -> None:
        if type(value) is not list or len(value) != len(members):
            _wrong(value, path, f"a list of {len(members)}")
        for k, (member, one) in enumerate(zip(members, value, strict=True)):
            member(one, f"{path}[{k}]")

    return check


def maybe(member: FieldCheck) -> FieldCheck:
    """null, or such a value."""

    def check(value: Any, path: str) -> None:
        if value is not None:
            member(value, path)

    return check


def keys(needed: dict[str, FieldCheck], others: dict[str, FieldCheck] | None = None) -> FieldCheck:
    """An object with all of these keys, perhaps `others`, no more. It raises `Refuted`."""
    known = needed | (others or {})

    def check(value: Any, path: str) -> None:
        if type(value) is not dict:
            _wrong(value, path, "an object")
        for key in value:
            if key not in known:
                raise Refuted(f"{_at(path)} has a key {_shown(key)}, which means nothing there")
        for key in needed:
            demand(key in value, f"this is not a certificate: {_at(path)} has no `{key}`")
        for key, one in value.items():
            known[key](one, f"{path}.{key}" if path else key)

    return check


def _at(path: str) -> str:
    return f"`{path}`" if path else "it"


def _wrong(value: Any, path: str, wanted: str) -> None:
    what = _at(path) if path else "this is not a certificate: it"
    raise Refuted(f"{what} is {_shown(value)}; it should be {wanted}")


def _plan(value: Any, path: str) -> None:
    if type(value) is not str or len(value) != 64 or set(value) - set("0123456789abcdef"):
        _wrong(value, path, "the hash of a plan, 64 digits from 0 to f")


_figure = whole(0, FIGURE)
_index = whole(0, MOST_MEMBERS)
_unit = whole(1, UNIT)
_stage = row(_index, _index)
_kind = one_of("F", "B", "I", "W")
_operation = row(_kind, _index, _index, _index, whole(-1, MOST_MEMBERS))
_case = keys(
    {"by": one_of("chain", "busy", "merged", "window", "little")},
    {
        "first": maybe(_operation),
        **dict.fromkeys(("on", "share"), _index),
        **dict.fromkeys(("head", "tail"), _figure),
    },
)
_stage_figures = keys(
    {"rank": _index, **dict.fromkeys(("F", "B", "I", "W", "activation", "kept"), _figure)}
)
_pipeline = keys(
    {
        "name": text,
        "microbatches": _index,
        "forward_only": one_of(True, False),
        "feeds": many(_stage),
        "stages": many(_stage_figures),
    }
)
_instance = keys(
    {
        "ranks": whole(1, MOST_MEMBERS),
        "minimize": one_of("makespan", "span"),
        "split": one_of(True, False),
        "slices": _index,
        "pipelines": many(_pipeline),
        "transfers": many(row(_index, _index, _figure)),
        "limits": many(maybe(_figure)),
        "pairs": many(row(_stage, one_of("B", "I"), _stage, _figure)),
        "exceptions": many(row(_operation, _figure)),
        "exceptional_pairs": many(row(_operation, _operation, _figure)),
        "rules": many(row(_operation, _operation)),
        "fixed": many(many(many(_operation))),
    }
)
HEADER = {
    "version": one_of(1),
    "schedule_name": text,
    "time_unit": _unit,
    "size_unit": _unit,
    "claims": keys(
        {
            "makespan": _figure,
            "span": _figure,
            "peaks": many(_figure),
            "bound": _figure,
        }
    ),
}
"""What every certificate has."""

BESIDE = {
    "plan": _plan,
    "stated": keys({"bound": _figure, "reason": text}),
    "sizes_in": one_of("KiB", "MiB", "GiB", "TiB"),
}
"""What every certificate may have."""

CERTIFICATE = keys(
    {
        **HEADER,
        "format": one_of("stretto-certificate"),
        "instance": _instance,
        "schedule": many(many(row(_figure, _figure, many(_operation)))),
        "evidence": keys(
            {
                "rank": _index,
                "rounds": _index,
                "shares": many(many(row(row(_kind, _index, _index, whole(-1, 1 << 20)), _figure))),
                "cases": many(_case),
            }
        ),
    },
    BESIDE,
)
"""What stands where in a certificate; `check` says what it means."""


def _counts(found: dict[str, Any]) -> None:
    """The instance has what the schedule lists: a small file claims no large step."""
    instance = found["instance"]
    listed = sum(len(unit[2]) for units in found["schedule"] for unit in units)
    claimed = sum(
        len(line["stages"])
        * line["microbatches"]
        * max(1, instance["slices"])
        * (1 if line["forward_only"] else 2)
        for line in instance["pipelines"]
    )
    demand(
        claimed <= listed,
        f"the instance has {claimed} operations or more, and the schedule lists {listed}",
    )
    ranks = f"the instance has {instance['ranks']} ranks, and {len(found['schedule'])} lists"
    demand(instance["ranks"] == len(found["schedule"]), f"{ranks} of units are in the schedule")
