"""`show --format html`: one file to look around in, which needs no network and no server.

In comes a View, out goes a page: the files of `page/` and the plan as JSON (`page_data`) in one.
Nothing that comes from a user's file can act in the page: the JSON holds no `<`, the script puts
texts in as texts only, and the page's policy allows that one script and that one style, known by
their hashes, and loads nothing.
"""

import re
from base64 import b64encode
from graphlib import TopologicalSorter
from hashlib import sha256
from html import escape
from importlib.resources import files

import msgspec

from stretto.compiler.diagnostics.printable import printable, unseen_escaped
from stretto.compiler.show.page_data import page_data
from stretto.compiler.show.view import View

PAGE = files("stretto.compiler.show").joinpath("page")
FIRST = "main.js"
IMPORT = re.compile(r'^import \{[^}]*\}\s*from "\./([a-z]+\.js)";\n', re.MULTILINE)


def draw(view: View) -> str:
    """The page of one plan."""
    return page(view)


def page(*views: View) -> str:
    """The page of one plan or several, which are drawn one below the other; title and text are
    those of the first."""
    code, style = script(), text_of("page.css")
    parts = {
        "title": escape(printable(views[0].spec.name)),
        "script": digest(code),
        "look": digest(style),
        "style": style,
        "code": code,
        "plan": island(page_data(*views)),
    }
    head, *rest = text_of("page.html").split("{{")
    pieces = [piece.split("}}", 1) for piece in rest]
    return head + "".join(parts[name] + text for name, text in pieces)


def text_of(name: str) -> str:
    """A file of the page."""
    return PAGE.joinpath(name).read_text("utf-8")


def script() -> str:
    """The modules of the page as one, each behind those that it imports. They stand in files of
    their own for whoever reads them, and say what they take from each other; as no two of them give
    one name to two things, leaving out what they say of that makes one module of all."""
    texts, needs, open_ = {}, {}, [FIRST]
    while open_:
        name = open_.pop()
        if name not in texts:
            texts[name] = text_of(name)
            needs[name] = IMPORT.findall(texts[name])
            open_ += needs[name]
    order = TopologicalSorter(needs).static_order()
    return "\n".join(
        re.sub(r"^export ", "", IMPORT.sub("", texts[name]), flags=re.MULTILINE) for name in order
    )


def digest(text: str) -> str:
    """What the page's policy knows a text by."""
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


def island(content: object) -> str:
    """JSON that no HTML parser sees more in than text, whatever its strings hold."""
    text = unseen_escaped(msgspec.json.encode(content).decode())
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
