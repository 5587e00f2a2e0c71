"""From words to nodes: the table is run, and every rule that was read makes its node."""

from typing import Any

from stretto.grammar.lexer import Lexer, Token, Unfitting
from stretto.grammar.table import GrammarRule, GrammarTable


class _Inlined(list[Any]):
    """The children of a rule that stand in its parent's list."""


class Parser:
    """A parse under way: the stack of its states, from the first, and that of its values (words,
    and nodes made before), which is one shorter. Both may be cut at any height."""

    def __init__(self, table: GrammarTable, build: object, text: str, start: str):
        self.table, self.build = table, build
        self.lexer = Lexer(table, text)
        first, self.last = table.start[start]
        self.state_stack, self.value_stack = [first], list[Any]()

    def feed(self, word: Token, is_end: bool = False) -> Any:
        """Take the next word; at the end, the node of the whole. Raises `Unfitting`, and what the
        methods of `build` raise."""
        states, stack, values = self.table.states, self.state_stack, self.value_stack
        while True:
            action = states[stack[-1]].get(word.type)
            if action is None:
                raise Unfitting(word)
            if action >= 0:
                stack.append(action)
                values.append(word)
                return None
            rule = self.table.rules[-1 - action]
            first = len(values) - rule.length
            children = values[first:]
            del stack[first + 1 :], values[first:]
            values.append(self._made(rule, children))
            stack.append(states[stack[-1]][rule.name])
            if is_end and stack[-1] == self.last:
                return values[-1]

    def _made(self, rule: GrammarRule, children: list[Any]) -> Any:
        inside: list[Any] = []
        for child in children:
            if type(child) is not _Inlined:
                inside.append(child)
            elif inside:
                inside += child
            else:  # a list that grows at its end is not copied for each
                inside = child
        if rule.inlined:
            return inside if type(inside) is _Inlined else _Inlined(inside)
        if rule.single and len(inside) == 1:
            return inside[0]
        return getattr(self.build, rule.made)(inside)
