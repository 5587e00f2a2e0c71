"""From words to nodes."""

from typing import Any

from lark.exceptions import UnexpectedToken
from lark.table import Rule, Shift, Table


class Inner(list[Any]):
    """The children of a rule that has no node of its own."""


class ParserState:
    """The stacks of states and values."""

    def __init__(self, table: Table, transformer: Any, start: str):
        self.parse_conf = table
        self.transformer, self.end = transformer, table.end[start]
        self.state_stack: list[int] = [table.start[start]]
        self.value_stack: list[Any] = []

    def feed_token(self, token: Any, is_end: bool = False) -> Any:
        """Takes the next word; at the end gives the node of the whole."""
        states, stack, values = self.parse_conf.states, self.state_stack, self.value_stack
        while True:
            action = states[stack[-1]].get(token.type)
            if action is None:
                raise UnexpectedToken(token)
            kind, arg = action
            if kind is Shift:
                stack.append(arg)
                values.append(token)
                return None
            first = len(values) - len(arg.expansion)
            children = values[first:]
            del stack[first + 1 :], values[first:]
            values.append(self._made(arg, children))
            stack.append(states[stack[-1]][arg.origin.name][1])
            if is_end and stack[-1] == self.end:
                return values[-1]

    def _made(self, rule: Rule, children: list[Any]) -> Any:
        inside: list[Any] = []
        for child in children:
            inside += child if type(child) is Inner else [child]
        if rule.origin.name.startswith("_"):
            return Inner(inside)
        if rule.expand1 and len(inside) == 1:
            return inside[0]
        return getattr(self.transformer, rule.made)(inside)
