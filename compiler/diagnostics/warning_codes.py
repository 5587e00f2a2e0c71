"""The codes of warnings: what is right, by the language or for other systems, and seldom meant. The
others stand in `codes`, which has all."""

from stretto.compiler.diagnostics.error_code import ErrorCode

WARNINGS: dict[str, ErrorCode] = {
    "messages-cross": ErrorCode(
        "two ranks have the messages between them in different sequences",
        "NCCL has one communicator for the messages of two ranks, to and fro, and takes them in "
        "sequence: each rank may wait for the other. Over gloo they arrive. A warning.",
    ),
    "messages-circle": ErrorCode(
        "three or more ranks wait for each other if each takes its messages one by one",
        "So it does where a process group has one communicator for all messages (torch's "
        "`device_id`), or where sends block. Over gloo they arrive, and over NCCL with a "
        "communicator for each two ranks. A warning.",
    ),
    "passed-over": ErrorCode(
        "a table has messages or offloading that are not read",
        "What is proved has the compiler's messages instead. A warning.",
    ),
    "unstated-cost": ErrorCode(
        "costs are stated, and an operation that runs takes 1 because nothing is said of it",
        "A backward that is split costs what `I` and `W` do, whatever `B` does. A warning.",
    ),
    "own-cost": ErrorCode(
        "costs are given with a schedule, and an operation keeps what the schedule says",
        "The two seldom count in one unit. Give the cost of that operation too. A warning.",
    ),
    "unstated-activation": ErrorCode(
        "activations are stated, and a stage leaves 1 because nothing is said of it",
        "A statement without a stage, above the others, is for all of them. A warning.",
    ),
    "size-without-unit": ErrorCode(
        "sizes have a unit, and one of them, or the default of 1, counts bytes",
        "A number without a unit is one of bytes where others are in KiB to TiB. A warning.",
    ),
    "rounded": ErrorCode(
        "costs or sizes have no common denominator that fits, and are rounded",
        "To 2^-40 of the largest, before anything is computed; the finest is marked. A warning.",
    ),
    "no-evaluation": ErrorCode(
        "the step keeps a rule between ranks that its forwards alone do not keep",
        "The step waits for gradients, an evaluation has none: the plan trains, and has no "
        "evaluation. Write the rule between operations of one rank to have one. A warning.",
    ),
    "more-receive-slots": ErrorCode(
        "a rank needs more receive slots than `--receive-slots` says",
        "The order cannot run with fewer. A warning.",
    ),
}
