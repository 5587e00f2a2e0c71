"""Expressions: compiled once to closures (`compile`), run with the values of the names in scope.

In: nodes of the syntax and a `Scope`. Out: `Code`, which raises `EvalError` where the expression
has no value. Promised: exact numbers, and no value of more than about 300 digits.
"""
