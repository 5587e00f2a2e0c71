"""The runtime's layers, from the bottom up: a module knows those below its own layer, and its own
layer where that is a folder."""

from tests.repository.sources import modules, ours

LAYERS = (
    ("aloud",),
    ("accelerator", "ending", "errors", "leave", "loss_scaler", "surroundings", "whereabouts"),
    ("collectives", "containers", "topology"),
    ("chunks",),
    ("batch",),
    ("given",),
    ("transport",),
    ("parcels", "rank_program", "tensor_spec"),
    ("describe", "placement", "stage"),
    ("coordination", "parameters", "rank_context", "slices", "weights"),
    ("alike", "microbatches", "declared_ties", "holders", "shared_memory", "untied"),
    (
        "collective_peers",
        "data_parallel",
        "header",
        "presence",
        "recut",
        "replicas",
        "signatures",
        "ties",
    ),
    ("known_steps",),
    ("agreement", "bound", "edges"),
    ("mailbox", "streams"),
    ("interpreter",),
    ("activity", "issuing", "last_words"),
    ("exchange", "preparation"),
    ("nonfinite",),
    ("executor",),
    ("checkpoint", "clip", "copies", "graphs", "local", "scaler"),
    ("train",),
    ("hf",),
)
ROOM = "runtime."


def layer(module: str) -> int:
    """The number of the module's layer. A folder counts as one."""
    first = module.removeprefix(ROOM).split(".")[0]
    (found,) = [k for k, names in enumerate(LAYERS) if first in names]
    return found


def folder(module: str) -> str:
    """The folder or module directly below the room that the module is in."""
    return module.removeprefix(ROOM).split(".")[0]


def test_every_module_knows_lower_layers_alone() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, path in modules().items()
        if module.startswith(ROOM) and module != "runtime.__main__"
        for other in ours(path)
        if other.startswith(ROOM)
        and folder(other) != folder(module)
        and layer(other) >= layer(module)
    ]
    assert not wrong
