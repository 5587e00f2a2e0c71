"""Program → Proof: that the step does what its Spec says under every timing, or what is wrong.

In comes a Program with what is claimed of it, whoever made it; out goes a `Proof` with every figure
computed anew, or one `Rejected` with what was found. Promised: nothing here is shared with the
modules that make Programs. What must happen is derived a second time, from the Spec alone
(`kinds`, `obligations`); each rank's list is followed by itself (`rank`, with `done`, `slots`,
`overlapped` and `memory`); then all run together once (`simulate`). Where stages are cut into parts
these are `parts`; `stream_rank` with `stream_order`; and `streams` with `stream_memory`.
"""

from stretto.compiler.proof.prove import ASSUMPTIONS, STREAM_ASSUMPTIONS, Proof, prove, prove_all

__all__ = ["ASSUMPTIONS", "STREAM_ASSUMPTIONS", "Proof", "prove", "prove_all"]
