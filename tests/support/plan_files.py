"""Plan files as JSON: changed and sealed again, and a rank's lists read out of its line as
`docs/json.md` says, with the standard library alone."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPERATION = {"compute": 1, "await": 1, "receive": 3}  # where it stands in the array


def canonical(value: object) -> bytes:
    """The line of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode() + b"\n"


def edited(path: Path, edit: Callable[[Any], object], line: int = 0) -> Path:
    """The plan with one line changed as a value, and written canonically again, with right digests
    and lengths: only what it says is wrong."""
    lines = [json.loads(raw) for raw in path.read_bytes().splitlines()]
    edit(lines[line])
    if line:
        text = canonical(lines[line])
        digest = hashlib.sha256(text).hexdigest()
        lines[0]["ranks"][line - 1] = {"bytes": len(text), "sha256": digest}
    path.write_bytes(b"".join(map(canonical, lines)))
    return path


def at(*keys: Any, to: Any) -> Callable[[Any], object]:
    """An edit: what stands at these keys becomes another."""

    def edit(value: Any) -> None:
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = to

    return edit


def unfolded(line: Any, name: str) -> list[list[Any]]:
    """A Program's list in a rank's line: each instruction an array of its kind and its fields."""
    own, found = line["programs"][name], []
    columns = {key: iter(own.get(key, ())) for key in ("microbatches", "slices", "units", "at")}
    for number in own["list"]:
        one = json.loads(json.dumps(line["instructions"][number]))
        kind = one[0]
        if kind in OPERATION:
            letter, pipeline, stage, *part = one[OPERATION[kind]]
            turn = [next(columns["microbatches"]), next(columns["slices"], -1)]
            one[OPERATION[kind]] = [letter, pipeline, stage, *turn, *(part or [-1])]
        if kind == "compute":
            stream = line["streams"][number] if "streams" in line else 0
            one += [next(columns["units"], -1), stream, next(columns["at"], -1)]
        found.append(one)
    assert not [key for key, rest in columns.items() if list(rest)]
    return found
