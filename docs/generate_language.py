"""Fills the generated parts of `docs/language.md` from the code: the tables of statements, of
steps in an order block, of operators and of reserved words from the grammar, the table of codes
from `compiler/diagnostics/codes.py`, and the grammar itself.

A part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. What a statement *looks like*
comes from the grammar; what it *means* is said in `MEANINGS` here, and a statement without a
meaning, or a meaning without a statement, is a `KeyError`.
"""

import re
from collections.abc import Iterable, Iterator

from stretto.compiler.diagnostics.codes import CODES
from stretto.grammar import grammar

PART = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)

MEANINGS = {
    "titled": "the file's name for itself; the first statement",
    "ranks": "number of pipeline ranks; needed, overridable, readable as `ranks`",
    "microbatches": "micro-batches: of the step, over all copies of a model, needed and "
    "overridable like `ranks`; or of a pipeline, all of them by default",
    "param": "any other number that `--set NAME=VALUE` may override",
    "let": "a name for a value",
    "require": "refuse to compile unless E holds, and say why",
    "pipeline": "a stream of micro-batches through a chain of stages",
    "stages": "how many stages; default `ranks`",
    "place": "the rank of each stage; default `NAME % ranks`",
    "replicates": "a second copy of the weights of another pipeline",
    "model_name": "which model the runtime is to build",
    "feeds": "the output of the last stage is an input of that stage of another pipeline",
    "forward_only": "no backward",
    "split_backward": "the backward may run as input gradient and weight gradient",
    "split_forward": "every stage is a chain of named parts, on the stream `compute` or on others",
    "split_microbatch": "every micro-batch is cut along the sequence",
    "overlap": "a forward and a backward of different micro-batches may run as one unit",
    "cost": "how long an operation, or an overlapped unit, takes; default 1, `B` its `I` and `W`",
    "activation": "what one forward leaves in memory; default 1",
    "part_activation": "what the forward of a part leaves on top of that",
    "kept": "what is left of it once the input gradient has ended",
    "transfer": "time from the end of an operation to its result being usable on another rank",
    "limit": "no rank may hold more activations",
    "minimize": "what an order that the compiler finds aims at; default `makespan`",
    "rule": "the first operation happens after the second",
    "reduce_gradients": "every stage's gradients are averaged with those of its replicas in other "
    "pipelines, once, beside what follows",
    "unshard_weights": "every stage's weights are gathered from its replicas, once, before its "
    "first forward",
    "order_rank": "the exact order of every rank",
    "order_auto": "let the compiler order, or complete, what is written",
    "mention": "an operation; what is left out is filled in. With `?` nothing if none is left",
    "pair": "two operations that run as one overlapped unit",
    "next": "the next operation of a queue. With `?` nothing if none is left",
    "repeat": "the block n times; NAME counts from 0",
    "loop": "the block for every value of the names; the last name varies fastest",
    "if": "one of the blocks",
    "queue": "a list of operations that is taken from with `next`",
    "queue_block": "likewise, of what the block lists",
}

# The letters that a rule's KINDs stand for, where they are no choice.
LETTERS = {
    "split_backward": "BIW",
    "split_forward": "F",
    "overlap": "FB",
    "kept": "I",
    "mention": "F",
}
TIGHT = {
    " ⟨?⟩": "⟨?⟩",
    " ⟨. ": "⟨.",
    " ,": ",",
    " ⟨,": "⟨,",
    "[ ": "[",
    " ]": "]",
    "NAME [": "NAME[",
    "{ }": "{ … }",
}
READABLE = {
    "expr": "E",
    "mention": "OP",
    "exact": "OP",
    "taken": "OP",
    "block": "{ … }",
    "item": "PART, …",
    "ranges": "for i in a .. b, …",
    "range": "i in a .. b, …",
    "index": "[stage, microbatch, slice k]",
    "STRING": '"…"',
    "ITS_COST": "cost",
}


def language(text: str) -> str:
    """The text with its generated parts made anew."""
    parts = {
        "statements": table("statement", "meaning", statements("statement")),
        "properties": table("in a pipeline", "meaning", statements("property")),
        "steps": table("in an order", "meaning", statements("step")),
        "operators": operators(),
        "reserved": reserved(),
        "codes": table("code", "what is wrong", codes()),
        "grammar": f"```lark\n{grammar()}```\n",
    }
    return PART.sub(lambda part: part[1] + parts[part[2]] + part[3], text)


def table(first: str, second: str, rows: Iterable[tuple[str, str]]) -> str:
    """A Markdown table of two columns."""
    body = "".join(f"| {left} | {right} |\n" for left, right in rows)
    return f"| {first} | {second} |\n| --- | --- |\n{body}"


def rules() -> dict[str, str]:
    """The body of every rule of the grammar, on one line."""
    text = re.sub(r"^//.*\n", "", grammar(), flags=re.MULTILINE)
    found = re.findall(r"^\??(\w+): (.*(?:\n[ ]+.*)*)", text, re.MULTILINE)
    return {name: " ".join(body.split()) for name, body in found}


def statements(kind: str) -> Iterator[tuple[str, str]]:
    """Every rule that the rule `kind` offers, as it looks and what it means."""
    for name in rules()[kind].split(" | "):
        if name.startswith("cost_"):
            yield from statements(name)
        else:
            yield f"`{look(name)}`".replace("|", "\\|"), MEANINGS[name.rstrip("_")]


def look(name: str) -> str:
    """A rule as a reader writes it, what may be left out in ⟨ ⟩:
    `cost OP ⟨| OP⟩ = E ⟨for i in a .. b, …⟩`."""
    body = rules()[name]
    for letter in LETTERS.get(name, ""):
        body = body.replace("KIND", letter, 1)
    body = re.sub(r'";"\*|\(property ";"\*\)\*', "", body)  # `;` and the inside of a pipeline
    body = re.sub(r'\("," \w+\)\*', "", body)  # further parts and ranges
    body = body.replace('"?"?', '⟨"?"⟩')
    body = re.sub(r"\(((?:[^()]|\([^()]*\))*)\)[?*]", r"⟨\1⟩", body)
    body = re.sub(r"(\w+)\?", r"⟨\1⟩", body)
    words = re.sub(r'"([^"]*)"', r"\1", body)
    words = words.replace("index", "[stage]" if name in ("activation", "kept") else "index")
    words = re.sub(r"\w+", lambda word: READABLE.get(word[0], word[0]), words)
    words = re.sub(r"\(([^()]*)\)\?", r"⟨\1⟩", words)  # what may be left out within such a part
    words = re.sub(r"\b(?!NAME|OP|E\b|PART|[FBIW]\b)[A-Z_]+\b", lambda w: w[0].lower(), words)
    words = " ".join(words.split())
    for loose, tight in TIGHT.items():
        words = words.replace(loose, tight)
    return words


def terminal(name: str) -> list[str]:
    """The texts that a word of the grammar stands for."""
    line = re.search(rf"^{name}[.\d]*: (.*)$", grammar(), re.MULTILINE)
    assert line, name
    return re.findall(r'"([^"]+)"', line[1]) or [line[1].strip("/").removesuffix(r"\b")]


def operators() -> str:
    """From the loosest to the tightest, as the rules of expressions nest."""
    levels = [
        "`if … then … else …`",
        *(f"`{terminal(name)[0]}`" for name in ("OR", "AND", "NOT")),
        " ".join(f"`{text}`" for text in terminal("COMPARE")),
        " ".join(f"`{terminal(name)[0]}`" for name in ("PLUS", "MINUS")),
        " ".join(f"`{terminal(n)[0]}`" for n in ("TIMES", "DIVIDE", "FLOOR_DIVIDE", "MODULO")),
        "unary `-`",
        "`list[i]`, " + ", ".join(f"`{name}( )`" for name in functions()),
    ]
    return "From the loosest to the tightest:\n\n" + "".join(f"1. {level}\n" for level in levels)


def functions() -> list[str]:
    """The functions of expressions, as the grammar lists them."""
    return terminal("FUNCTION")[0].strip("()").split("|")


def reserved() -> str:
    """The words that cannot be names: what the grammar's NAME excludes."""
    excluded = re.search(r"NAME: /\(\?!\(([^)]+)\)", grammar())
    assert excluded
    return " ".join(f"`{word}`" for word in excluded[1].split("|")) + "\n"


def codes() -> Iterator[tuple[str, str]]:
    """Every code of an error, and what it means."""
    for code, row in CODES.items():
        yield f"`{code}`", row.title
