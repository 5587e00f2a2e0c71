"""Every code that a diagnostic can have: what it means, and for mistakes in a schedule file a wrong
example and the same one mended. `stretto explain CODE` and the documents are made from this table,
and a test compiles every example.

An example that does not begin with `schedule` stands below the lines of `AROUND`.
"""

from stretto.compiler.diagnostics.error_code import ErrorCode
from stretto.compiler.diagnostics.warning_codes import WARNINGS

AROUND = """\
schedule example
ranks 4
microbatches 8

pipeline main {
}

"""


def complete(example: str) -> str:
    """The example as a whole file."""
    return example if example.startswith("schedule") else AROUND + example


CODES: dict[str, ErrorCode] = {
    # ---- The text
    "syntax": ErrorCode(
        "the text does not follow the grammar",
        "The word that is marked cannot stand where it stands; the message says what could. "
        "Reading goes on at the next statement, so that one mistake hides no other.",
        "order rank r {\n  repeat 8 F\n  repeat 8 { B }\n}\n",
        "order rank r {\n  repeat 8 { F }\n  repeat 8 { B }\n}\n",
    ),
    "unknown-statement": ErrorCode(
        "no statement begins with this word",
        "Statements begin with a word of the language, order blocks and pipelines have their own. "
        "Case matters.",
        "schedule example\nranks 4\nmicrobatchs 8\npipeline main { }\n",
        "schedule example\nranks 4\nmicrobatches 8\npipeline main { }\n",
    ),
    "missing-separator": ErrorCode(
        "two steps of an order stand on one line without `;`",
        "A new line or a `;` stands between the steps of an order, so that a forgotten `|` is "
        "seen.",
        "order rank r { repeat 8 { F B } }\n",
        "order rank r { repeat 8 { F; B } }\n",
    ),
    "hidden-character": ErrorCode(
        "the file contains a character that cannot be seen",
        "Control characters and marks that change the direction of writing can make a file look "
        "other than it is. Schedule files may not contain them, in comments and texts neither.",
        "# a bell: \x07\n",
        "# a bell\n",
    ),
    "too-large": ErrorCode(
        "the file, or what it asks for, is larger than the compiler takes on",
        "Every file must expand in a short time and little memory: loops are counted before they "
        "run. `--max-ops` raises the limit on operations and on rounds of loops.",
        "order rank r { repeat 1000000000 { F } }\n",
        "order rank r { repeat 8 { F }; repeat 8 { B } }\n",
    ),
    "missing": ErrorCode(
        "a statement that every schedule needs is missing",
        "A schedule has a name, a number of ranks, a number of micro-batches and a pipeline.",
        "schedule example\nranks 4\npipeline main { }\n",
        "schedule example\nranks 4\nmicrobatches 8\npipeline main { }\n",
    ),
    "misplaced": ErrorCode(
        "a statement stands where it cannot stand",
        "`schedule` is the first statement, and a queue cannot be listed from another queue.",
        "schedule example\nranks 4\nmicrobatches 8\npipeline main { }\norder rank r {\n"
        "  queue all { repeat 8 { F }; repeat 8 { B } }\n"
        "  queue more { next all }\n  repeat 16 { next more }\n}\n",
        "schedule example\nranks 4\nmicrobatches 8\npipeline main { }\norder rank r {\n"
        "  queue all { repeat 8 { F }; repeat 8 { B } }\n"
        "  repeat 16 { next all }\n}\n",
    ),
    "stated-twice": ErrorCode(
        "a statement that says one thing stands twice",
        "It would be unclear which of the two counts. Costs, limits and rules may stand as "
        "often as you like; of costs the last one that fits counts.",
        "transfer 1/10\ntransfer 1/5\n",
        "transfer 1/5\n",
    ),
    "not-yet": ErrorCode(
        "the language has this, and this version cannot compile it yet",
        "The statement is understood, and has its place in the syntax. Leave it out for now.",
        "split F into attention, dispatch on comm\nsplit microbatch into 2 slices\n",
        "split F into attention, dispatch on comm\n",
    ),
    # ---- Names and values
    "unknown-name": ErrorCode(
        "nothing defines this name here",
        "A name is known from its statement to the end of its block; only `feeds` looks ahead. A "
        "name that is set with `--set` must be a `param`, `ranks` or `microbatches`.",
        "order rank r {\n  let warmup = min(microbatches, ranks - 1 - r)\n"
        "  repeat warmpu { F }\n  repeat microbatches - warmup { F; B }\n"
        "  repeat warmup { B }\n}\n",
        "order rank r {\n  let warmup = min(microbatches, ranks - 1 - r)\n"
        "  repeat warmup { F }\n  repeat microbatches - warmup { F; B }\n"
        "  repeat warmup { B }\n}\n",
    ),
    "name-taken": ErrorCode(
        "the name is defined already",
        "A name has one meaning from its statement to the end of its block, in inner blocks too. "
        "Blocks that stand side by side may use the same names.",
        "let half = ranks / 2\nlet half = microbatches / 2\n",
        "let half = ranks / 2\nlet share = microbatches / 2\n",
    ),
    "wrong-kind": ErrorCode(
        "the value is of another kind than is needed here",
        "Numbers, truth values, lists, pipelines and queues are different things; a truth value is "
        "no number.",
        "let deep = ranks\ncost F = if deep then 2 else 1\n",
        "let deep = ranks > 8\ncost F = if deep then 2 else 1\n",
    ),
    "not-whole": ErrorCode(
        "a whole number is needed, and this is a fraction",
        "Divisions are exact: `7 / 2` is seven halves. Where things are counted, say how to round: "
        "`//` rounds down, `ceil(… / …)` up.",
        "order rank r {\n  repeat 7 / 2 { F }\n  repeat 4 { F }\n  repeat 8 { B }\n}\n",
        "order rank r {\n  repeat 7 // 2 { F }\n  repeat 5 { F }\n  repeat 8 { B }\n}\n",
    ),
    "out-of-range": ErrorCode(
        "the value lies outside of what is possible here",
        "Ranks, stages and items of a list count from 0; there is at least one rank, one stage and "
        "one micro-batch; durations and sizes are not negative.",
        "schedule example\nranks 4\nmicrobatches 8\npipeline main {\n  place s -> s + 1\n}\n",
        "schedule example\nranks 4\nmicrobatches 8\npipeline main {\n"
        "  place s -> (s + 1) % ranks\n}\n",
    ),
    "division-by-zero": ErrorCode(
        "this divides by zero",
        "Guard it: only the branch of an `if` that is needed is computed.",
        "param per_node = 0\nlet nodes = ranks / per_node\n",
        "param per_node = 0\nlet nodes = if per_node == 0 then 1 else ranks / per_node\n",
    ),
    "requirement": ErrorCode(
        "a `require` of the schedule does not hold",
        "Its author says for which sizes the schedule is meant. The message shows the values that "
        "made it fail; change them with `--set`.",
        'require microbatches >= 2 * ranks + 1, "fewer leave ranks without work"\n',
        'require microbatches >= 2 * ranks, "fewer leave ranks without work"\n',
    ),
    # ---- Pipelines
    "uneven-copies": ErrorCode(
        "the copies of a pipeline do not share the micro-batches",
        "The micro-batches of all copies of a model add up to `microbatches`; the original takes "
        "the first ones.",
        "pipeline copy {\n  replicates main\n  microbatches 4\n}\n",
        "schedule example\nranks 4\nmicrobatches 8\npipeline main {\n  microbatches 4\n}\n"
        "pipeline copy {\n  replicates main\n  microbatches 4\n}\n",
    ),
    "unlike-copies": ErrorCode(
        "a copy differs from its original",
        "A pipeline that `replicates` another has its weights, and so its stages and its model.",
        "schedule example\nranks 4\nmicrobatches 8\npipeline main {\n  microbatches 4\n}\n"
        "pipeline copy {\n  replicates main\n  stages 8\n  microbatches 4\n}\n",
        "schedule example\nranks 4\nmicrobatches 8\npipeline main {\n  microbatches 4\n}\n"
        "pipeline copy {\n  replicates main\n  microbatches 4\n}\n",
    ),
    "uneven-feed": ErrorCode(
        "a pipeline feeds one that does not fit",
        "A pipeline and the one it feeds have as many micro-batches, and gradients come "
        "back unless the feeding one is `forward only`.",
        "pipeline encoder {\n  feeds main[0]\n  microbatches 4\n}\n",
        "pipeline encoder {\n  feeds main[0]\n}\n",
    ),
    "ring": ErrorCode(
        "pipelines feed each other in a ring",
        "Each would wait for the other's output.",
        "schedule example\nranks 4\nmicrobatches 8\npipeline a { feeds b[0] }\n"
        "pipeline b { feeds a[0] }\n",
        "schedule example\nranks 4\nmicrobatches 8\npipeline a { feeds b[0] }\npipeline b { }\n",
    ),
    "no-part": ErrorCode(
        "a stage has no part",
        "`split F` cuts every stage of every pipeline. Where the conditions of all parts fail, and "
        "all groups have no layer, nothing would be left of the stage.",
        "split F[s] into embedding if s == 0, dispatch on comm if s > 1\n",
        "split F[s] into embedding if s == 0, mlp, dispatch on comm if s > 1\n",
    ),
    "parts-only": ErrorCode(
        "stages are cut into parts, and this is the cost of a whole",
        "Where stages are cut into parts, only parts have costs. A whole costs the sum of its "
        "parts, and a pair `F | B` what its parts take in the sequence that it gives them.",
        "split F into attention, dispatch on comm\ncost F = 2\n",
        "split F into attention, dispatch on comm\ncost F.attention = 2\n",
    ),
    # ---- Operations and orders
    "no-such-operation": ErrorCode(
        "the operation does not exist, or none is left of it",
        "Stages, micro-batches and slices count from 0. `I` and `W` exist after `split B into I, "
        "W`. A mention without a micro-batch takes the next one; with `?` it does nothing where "
        "none is left.",
        "order rank r {\n  repeat 9 { F }\n  repeat 8 { B }\n}\n",
        "order rank r {\n  repeat 9 { F? }\n  repeat 8 { B }\n}\n",
    ),
    "missing-operation": ErrorCode(
        "a rank never runs an operation that it should",
        "A plan runs every operation of the schedule once: every forward, and a backward whole or "
        "in its two halves.",
    ),
    "wrong-rank": ErrorCode(
        "the operation belongs to another rank",
        "An operation runs where its stage is placed. In an order, `r` is the rank.",
        "order rank r {\n  for m in 0 .. 8 { F main[0, m] }\n  repeat 8 { B }\n}\n",
        "order rank r {\n  for m in 0 .. 8 { F main[r, m] }\n  repeat 8 { B }\n}\n",
    ),
    "ambiguous": ErrorCode(
        "more than one operation fits",
        "What is left out is filled in where only one thing fits: the only pipeline on the rank, "
        "its only stage there.",
        "pipeline other { }\norder rank r {\n  repeat 8 { F }\n  repeat 8 { B }\n}\n",
        "pipeline other { }\norder rank r {\n  repeat 8 { F main; F other }\n"
        "  repeat 8 { B other; B main }\n}\n",
    ),
    "runs-twice": ErrorCode(
        "an operation stands in the order twice",
        "Every operation runs once; `B` does what `I` and `W` do.",
        "order rank r {\n  for m in 0 .. 8 { F main[r, m]; F main[r, 0] }\n  repeat 8 { B }\n}\n",
        "order rank r {\n  for m in 0 .. 8 { F main[r, m] }\n  repeat 8 { B }\n}\n",
    ),
    "left-out": ErrorCode(
        "an order leaves operations out",
        "The order of a rank has every operation of its stages: every forward, and either its `B` "
        "or its `I` and its `W`. Beside `order auto` the compiler adds what is missing.",
        "order rank r {\n  repeat 8 { F }\n  repeat 7 { B }\n}\n",
        "order rank r {\n  repeat 8 { F }\n  repeat 8 { B }\n}\n",
    ),
    "negative-repeat": ErrorCode(
        "`repeat` of a negative number",
        "This is nearly always a size that the order was not made for. Say so with `require`, or "
        "bound the number with `max(0, …)`.",
        "order rank r {\n  repeat 8 { F }\n  repeat r - 1 { }\n  repeat 8 { B }\n}\n",
        "order rank r {\n  repeat 8 { F }\n  repeat max(0, r - 1) { }\n  repeat 8 { B }\n}\n",
    ),
    "no-overlap": ErrorCode(
        "nothing says that these may overlap",
        "A pair `F | B` runs as one unit where `overlap F | B` says that the model can do so.",
        "order rank r {\n  F\n  repeat 7 { F | B }\n  B\n}\n",
        "overlap F | B\norder rank r {\n  let ahead = 2 * (ranks - 1 - r) + 1\n"
        "  repeat ahead { F }\n  repeat 8 - ahead { F | B }\n  repeat ahead { B }\n}\n",
    ),
    "wrong-pair": ErrorCode(
        "these two cannot be one overlapped unit",
        "A unit is an `F` and the `B` or `I` of another micro-batch: the backward of the same one "
        "needs its forward first.",
        "overlap F | B\norder rank r {\n  repeat 8 { F | B }\n}\n",
        "overlap F | B\norder rank r {\n  let ahead = 2 * (ranks - 1 - r) + 1\n"
        "  repeat ahead { F }\n  repeat 8 - ahead { F | B }\n  repeat ahead { B }\n}\n",
    ),
    "deadlock": ErrorCode(
        "the order can never finish",
        "Ranks wait for each other in a circle. The message walks round it: each operation needs "
        "the next one, by its data or by the order of its rank. Move one of the operations that "
        "the help names.",
        "order rank r {\n  let warmup = min(microbatches, r)\n  repeat warmup { F }\n"
        "  repeat microbatches - warmup { F; B }\n  repeat warmup { B }\n}\n",
        "order rank r {\n  let warmup = min(microbatches, ranks - 1 - r)\n  repeat warmup { F }\n"
        "  repeat microbatches - warmup { F; B }\n  repeat warmup { B }\n}\n",
    ),
    "listed-too-early": ErrorCode(
        "an order lists a part before one of its rank that it needs",
        "Each stream of a rank runs its own parts of the list, and does not wait for the others "
        "where nothing else makes it. The list is also the sequence in which one thread issues "
        "everything, so what a part needs of its rank stands before it.",
        "split F into attention, dispatch on comm\n"
        "order rank r { repeat 8 { F.dispatch; F.attention }; repeat 8 { B } }\n",
        "split F into attention, dispatch on comm\n"
        "order rank r { repeat 8 { F.attention; F.dispatch }; repeat 8 { B } }\n",
    ),
    "rule-between-ranks": ErrorCode(
        "a `rule` ties operations of two ranks that exchange no result",
        "A plan waits for results only. A rule between ranks holds where a result travels along; "
        "write other rules between operations of one rank.",
        "rule F[3, 0] after F[0, 7]\norder rank r { repeat 8 { F }; repeat 8 { B } }\n",
        "rule F[0, 7] after F[0, 0]\norder rank r { repeat 8 { F }; repeat 8 { B } }\n",
    ),
    "no-order": ErrorCode(
        "the compiler finds no order",
        "Either none exists within the limits and rules, or this version cannot look for one. The "
        "message says which.",
    ),
    "limit-too-small": ErrorCode(
        "no order at all can keep to a memory limit",
        "Whatever the order, one micro-batch leaves its activations on a rank until its gradients "
        "come back, and every stage of the rank counts. The message says how much that is.",
        "limit activations <= 1/2\n",
        "limit activations <= 1\n",
    ),
    "over-limit": ErrorCode(
        "a rank holds more activations than the limit allows",
        "The written order needs more memory than `limit activations` gives. Raise the limit, or "
        "let backwards come earlier.",
    ),
    # ---- Showing and exporting
    "not-in-torch": ErrorCode(
        "PyTorch's CSV cannot hold this schedule",
        "The CSV knows one pipeline, one rank for each stage, and no slices.",
    ),
    # ---- Tables of other systems
    "unknown-cell": ErrorCode(
        "a cell of a table says nothing that is known",
        "Every cell is read whole. PyTorch looks at the beginning of a cell alone, and takes what "
        "is mistyped behind it for something else without a word.",
    ),
    "table-size": ErrorCode(
        "the rows or stages of a table do not add up to a step",
        "A row is a rank, also an empty one; stages count from 0, and each is on a rank. What was "
        "given with `--ranks`, `--microbatches` and `--placement` must be what the table shows.",
    ),
    "mixed-losses": ErrorCode(
        "PyTorch would give micro-batches the losses of others",
        "It keeps losses in the order in which the last stage runs its forwards, and takes them by "
        "the number of the micro-batch: in another order than that it computes wrong gradients, "
        "without a word.",
    ),
    "not-in-zero-bubble": ErrorCode(
        "the lists of the zero-bubble runtime cannot hold this schedule",
        "They know one pipeline, placed as a loop or a V, and no slices. Every stage takes its "
        "data in the order of the micro-batches.",
    ),
    "not-in-primus": ErrorCode(
        "the schedule table of Primus cannot hold this schedule",
        "It knows one pipeline, placed as a loop or a V, and no slices. Every stage takes its data "
        "in the order of the micro-batches, and in a loop of several turns backwards are whole.",
    ),
    # ---- Plan files
    "not-a-plan": ErrorCode(
        "the file is no plan",
        "A plan is what `stretto compile` writes: JSON Lines, the first with the plan's format.",
    ),
    "other-version": ErrorCode(
        "the plan was made by another version",
        "Compile it anew from its schedule, whose text stands in the plan's `sources`.",
    ),
    "damaged-plan": ErrorCode(
        "the plan file is damaged",
        "It ends too early, or is not, byte for byte, what `stretto compile` wrote: equal plans "
        "are equal files, so that a hash can stand for them. Compile it anew, or copy it again.",
    ),
    "plan-field": ErrorCode(
        "a field of the plan is not what it should be",
        "The message names the place in the JSON, and what stands there.",
    ),
    "plan-reference": ErrorCode(
        "the plan refers to something that it does not have",
        "Every index in a plan points into one of its tables.",
    ),
    "plan-too-large": ErrorCode(
        "the plan file is larger than a reader takes on",
        "Readers of plans bound what they read, so that a broken file cannot fill the memory.",
    ),
    # ---- What a plan must prove
    "other-order": ErrorCode(
        "the plan does not run the order that its schedule says",
        "A plan carries a digest of every order that was written; its instructions must follow it.",
    ),
    "false-claim": ErrorCode(
        "the plan claims a figure that is not so",
        "Every figure of a plan is computed again when it is read.",
    ),
    "other-text": ErrorCode(
        "the plan is not what its own text says",
        "A plan has the text, the parameters and the costs that it was made from. When it is read "
        "they are evaluated again, and what it is to do must be what they say; else the lines that "
        "it cites would say something else than what it does.",
    ),
    "no-such-duty": ErrorCode(
        "the plan runs something that its schedule does not ask for",
        "The instruction names an operation that does not exist.",
    ),
    "repeated-operation": ErrorCode(
        "the plan runs an operation twice",
        "Every operation runs once; a `B` is an `I` and a `W`.",
    ),
    "too-early": ErrorCode(
        "the plan runs an operation before what it needs",
        "A backward comes after its forward, a `W` after its `I`; slices and rules keep their "
        "order.",
    ),
    "wrong-input": ErrorCode(
        "an operation reads something else than it needs",
        "The slots that a `compute` reads must hold exactly the results it needs.",
    ),
    "wrong-result": ErrorCode(
        "an operation writes where it should not, or not where it should",
        "A result that somebody needs is written to a slot, another one is not.",
    ),
    "empty-slot": ErrorCode(
        "a slot is used that holds nothing",
        "A slot holds a result from its `compute` or `receive` to its `free`.",
    ),
    "slot-in-use": ErrorCode(
        "a slot is used that is not free",
        "A slot is filled when it is empty, and freed when no message is on its way.",
    ),
    "slot-left": ErrorCode(
        "a slot is never freed",
        "At the end of a step every slot of a rank is empty.",
    ),
    "still-arriving": ErrorCode(
        "a result is used before the wait for it",
        "After a `receive` a slot is arriving until a `wait` on it.",
    ),
    "idle-wait": ErrorCode(
        "a `wait` for nothing",
        "A `wait` ends messages that were begun on its slot, and there are none.",
    ),
    "unused-result": ErrorCode(
        "a result is freed that nobody used",
        "Results are sent, read, or not kept at all.",
    ),
    "wrong-stream": ErrorCode(
        "an instruction stands on another stream than it should",
        "A part runs on the stream that the schedule gives it. Messages are begun and waited for "
        "at the ends of their channel, sums on `compute`. Schedules without parts have no streams.",
    ),
    "unordered-streams": ErrorCode(
        "one stream uses what another may not have done yet",
        "Streams of a rank run at speeds of their own. What one does comes after what another did "
        "only if an `await` between them says so; that the planned times put one after the other "
        "is not enough.",
    ),
    "wrong-overlap": ErrorCode(
        "an overlapped unit is not an `F` and the `B` or `I` of another micro-batch",
        "The two halves stand beside each other, the forward first, with only its send between.",
    ),
    "wrong-channel": ErrorCode(
        "a message uses a channel that is not its own",
        "A channel is a directed pair of ranks and one kind of traffic.",
    ),
    "unmatched-message": ErrorCode(
        "a message is sent and not received, or received and not sent",
        "The n-th message sent on a channel meets the n-th receive posted on it.",
    ),
    "wrong-message": ErrorCode(
        "a receive meets another message than it expects",
        "Messages on one channel arrive in the order in which they were sent.",
    ),
    "wrong-collective": ErrorCode(
        "gradients are not averaged, or weights not gathered, as they must be",
        "Where the schedule says `reduce gradients`, those of each stage are averaged once, when "
        "all are complete; `unshard weights` gathers those of each once, before its first forward.",
    ),
    "wrong-sum": ErrorCode(
        "gradients of copies are not summed as they must be",
        "The copies of a stage sum their gradients once, when all of them are complete.",
    ),
    "wrong-size": ErrorCode(
        "a cost or a size cannot be",
        "No duration and no size is negative, and after `I` no more is kept than the forward left.",
    ),
    "wrong-share": ErrorCode(
        "the copies of a model do not share its micro-batches",
        "Each micro-batch belongs to one copy, the first ones to the original.",
    ),
    # ---- What is right and seldom meant
    **WARNINGS,
}
