"""Texts from outside, made safe to show: what could steer a terminal, turn a line around, hide, be
a line of its own in the log of a CI, or be no XML. Whatever prints a text of somebody else, a name
of a file, the words of an exception, prints it through here."""

import re

LONGEST_WORD = 400  # characters of a word in a message, such as a name
LONGEST_TEXT = 20_000  # of a message, a note, a help or a label


def printable(text: str) -> str:
    r"""The text with every character that is not seen, but for line breaks and tabs, spelled out:
    an escape character becomes `\x1b`, what turns the direction of a line `\u202e`, half of a
    surrogate pair `\ud800`."""
    unseen = [c for c in set(text) if not c.isprintable() and c not in "\n\t"]
    return text.translate({ord(c): ascii(c)[1:-1] for c in unseen}) if unseen else text


def shortened(text: str) -> str:
    """The text with the middle left out of every word of more than `LONGEST_WORD` characters, and
    of all of it where that has more than `LONGEST_TEXT`."""
    if len(text) <= LONGEST_WORD:
        return text
    whole = _without_middle(text, LONGEST_TEXT)
    return re.sub(r"\S+", lambda word: _without_middle(word[0], LONGEST_WORD), whole)


def _without_middle(text: str, most: int) -> str:
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def one_line(text: str) -> str:
    r"""The same for what is one line, as a name is: its line breaks and tabs are spelled out too.
    A name with a line break in it could else begin a line of its own, `::error` for instance."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def told(text: str) -> str:
    r"""The same for the words of somebody else that may have several lines, as an exception has:
    none begins with `::`, which GitHub Actions takes for a command."""
    lines = printable(text).split("\n")
    return "\n".join(f"· {one}" if one.lstrip().startswith("::") else one for one in lines)


def unseen_escaped(json: str) -> str:
    """JSON in which every character that is not seen, but for line breaks, is escaped as JSON does
    it, and so means the same."""
    unseen = [c for c in set(json) if not c.isprintable() and c != "\n"]
    return json.translate({ord(c): _escaped(c) for c in unseen}) if unseen else json


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
