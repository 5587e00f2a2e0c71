"""The plan: all that a compile found out as data, and its file (`docs/json.md`).

In come Programs with what is claimed of each (`assemble`), or a file (`read_plan`, `read_rank`);
out goes a `Plan`, or a file that is written whole or not at all (`write_plan`). Promised: equal
plans are equal bytes; a file that is read is, byte for byte, one that this version would write, in
bounded time and memory, or it is refused with what and where. Whether the plan is right is for the
proof.
"""

from stretto.compiler.plan.plan import Plan, assemble, read_plan, read_rank, write_plan

__all__ = ["Plan", "assemble", "read_plan", "read_rank", "write_plan"]
