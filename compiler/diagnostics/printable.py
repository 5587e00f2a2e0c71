"""Texts from outside, made safe to show: what could steer a terminal, hide, or be no XML."""


def printable(text: str) -> str:
    r"""The text with every character that is not seen, but for line breaks and tabs, spelled out:
    an escape character becomes `\x1b`."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
