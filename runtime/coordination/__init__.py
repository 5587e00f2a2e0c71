"""What ranks tell each other besides tensors, over a key-value store as JSON: who is there, with
which plan (`handshake`), why a rank failed (`failure`), and where each is when the step stands
still (`watchdog`, `questions`, `stall`; `signs` of work, `traffic`), which processes are theirs and
what those that were killed did last (`neighbours`, `processes`). In comes a `Peers` value: this
rank, their number, the store and the timeout. Nothing here runs while a step makes progress, but
for the thread of the watchdog."""
