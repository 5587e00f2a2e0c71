"""`show --format html`: one file to look around in, which needs no network and no server.

In comes a View, out goes a page: `page.html` with the script `page.js` and the View as JSON in it.
Nothing that comes from a user's file can act in the page: the JSON holds no `<`, the script puts
texts in as text only, and the page's policy runs that one script, known by its hash, and loads
nothing.
"""

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

import msgspec

from stretto.compiler.diagnostics.printable import printable, unseen_escaped
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.spec import Spec
from stretto.compiler.program.timeline import Timed
from stretto.compiler.show.kinds import in_order
from stretto.compiler.show.palette import colour
from stretto.compiler.show.summary import figures
from stretto.compiler.show.view import View


def draw(view: View) -> str:
    """The page."""
    here = files("stretto.compiler.show")
    code = here.joinpath("page.js").read_text("utf-8")
    parts = {
        "title": escape(printable(view.spec.name)),
        "script": "sha256-" + b64encode(sha256(code.encode()).digest()).decode(),
        "code": code,
        "plan": island(content(view)),
    }
    head, *rest = here.joinpath("page.html").read_text("utf-8").split("{{")
    pieces = [piece.split("}}", 1) for piece in rest]
    return head + "".join(parts[name] + text for name, text in pieces)


def island(content: object) -> str:
    """JSON that no HTML parser sees more in than text, whatever its strings hold."""
    text = unseen_escaped(msgspec.json.encode(content).decode())
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def content(view: View) -> dict[str, Any]:
    """What `page.js` draws; a bar is an array, since there may be hundreds of thousands."""
    spec = view.spec
    places = {source.name: i for i, source in enumerate(view.sources)}
    limits = [limit.grains if limit else -1 for limit in spec.limits]
    seen = {(*bar.operation[:2], chunk(view, bar)) for lane in view.lanes for bar in lane}
    kinds = in_order(kind for kind, _, _ in seen)
    coloured = [(kind, p, c) for kind in kinds for k, p, c in sorted(seen) if k == kind]
    return {
        "schedule": spec.name,
        "figures": figures(view.summary),
        "time": spec.time_unit,
        "size": spec.size_unit,
        "makespan": view.claims.makespan,
        "peaks": view.claims.activations,
        "limits": limits,
        "pipelines": [pipeline.name for pipeline in spec.pipelines],
        "lanes": [[packed(view, bar, places) for bar in lane] for lane in view.lanes],
        "idle": [[[one.start, one.end, one.why] for one in rank] for rank in view.idle],
        "memory": view.memory,
        "colours": {
            f"{kind}{p}-{c}": [str(colour(kind, p, c)), str(colour(kind, p, c).ink)]
            for kind, p, c in coloured
        },
        "legend": [
            [legend(spec, kind, p), str(colour(kind, p))]
            for kind, p in dict.fromkeys(one[:2] for one in coloured)
        ],
        "sources": [{"name": source.name, "text": source.text} for source in view.sources],
    }


def legend(spec: Spec, kind: str, pipeline: int) -> str:
    """What a colour of the legend stands for; with the pipeline's name where there are several."""
    name = KINDS[kind].name
    return f"{name} {spec.pipelines[pipeline].name}" if len(spec.pipelines) > 1 else name


def chunk(view: View, bar: Timed) -> int:
    """The place of the operation's stage among those of its pipeline on the same rank."""
    return view.chunks[bar.operation.pipeline, bar.operation.stage]


def packed(view: View, bar: Timed, places: dict[str, int]) -> list[Any]:
    """A bar as `page.js` reads it: an array of its figures, -1 for what there is not."""
    kind, pipeline, stage, microbatch, slice_, _ = bar.operation
    span = view.span(bar)
    source = places.get(span.file, -1) if span else -1
    line = span.line if span and source >= 0 else 0
    times = [bar.start, bar.end]
    name = [kind, pipeline, stage, microbatch, slice_]
    return [*name, bar.unit, *times, source, line, chunk(view, bar)]
