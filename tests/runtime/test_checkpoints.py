"""Checkpoints: what was saved under one plan is resumed under another, bit for bit; what is there
is whole; what does not fit is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stretto.runtime
from stretto.compiler.plan.plan import Plan
from stretto.runtime import Executor, PipelineError, run_local
from stretto.runtime.checkpoint import latest, load, save
from stretto.runtime.transport.local import Local
from tests.support.training import Layer, compiled, loss, spec_of

LAYERS, ROWS = 8, 16


class Part(nn.Module):
    """Some layers of the model, numbered from 0 in every stage; knows which they are."""

    def __init__(self, stage: int, stages: int, running: bool = False):
        super().__init__()
        self.first = stage * LAYERS // stages
        many = (stage + 1) * LAYERS // stages - self.first
        self.layers = nn.Sequential(*(Layer(self.first + k) for k in range(many)))
        self.norm = nn.BatchNorm1d(6) if running and stage == 0 else nn.Identity()

    def full_name(self, name: str) -> str:
        """Under the layer's number in the model."""
        kind, number, rest = name.split(".", 2) if name.startswith("layers") else ("", "0", name)
        return f"{kind}.{self.first + int(number)}.{rest}" if kind else rest

    def forward(self, x: Tensor) -> Tensor:
        """Rows on both sides."""
        return self.norm(self.layers(x))


class Trained:
    """Some steps of a plan, with what a rank ends with."""

    def __init__(self, plan: Plan, folder: Path, running: bool = False):
        self.plan, self.folder, self.running = plan, folder, running
        draw = torch.Generator().manual_seed(0)
        self.x, self.y = (torch.randn(ROWS, 6, generator=draw) for _ in range(2))

    def run(self, body: Callable[[Executor, Any, Any], Any], make: Any = Part) -> list[Any]:
        """Calls `body(executor, optimizer, modules)` on every rank."""
        spec = spec_of(self.plan)
        built = [
            {
                (p.name, s): make(s, len(p.stages), self.running)
                for p in spec.pipelines
                for s, stage in enumerate(p.stages)
                if stage.rank == rank
            }
            for rank in range(spec.ranks)
        ]

        def rank(transport: Local) -> Any:
            modules = built[transport.rank]
            executor = Executor(self.plan, modules, loss, transport=transport, timeout=20.0)
            parameters = [p for module in modules.values() for p in module.parameters()]
            try:
                return body(executor, torch.optim.AdamW(parameters, lr=1e-2), modules)
            finally:
                executor.close()

        return run_local(self.plan, rank)

    def steps(self, executor: Executor, optimizer: Any, many: int) -> list[float]:
        """Takes steps; the losses of those that this rank has."""
        found = []
        for _ in range(many):
            losses: list[Tensor] = []
            executor.step(self.x, target=self.y, losses=losses)
            optimizer.step()
            optimizer.zero_grad()
            found += [float(one) for one in losses]
        return found


def weights(modules: dict[Any, nn.Module]) -> dict[str, Tensor]:
    found = {}
    for module in modules.values():
        assert isinstance(module, Part)
        for name, tensor in module.state_dict().items():
            found[module.full_name(name)] = tensor.clone()
    return found


def whole(results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor for found in results for name, tensor in found.items()}


def saved(folder: Path, name: str = "dualpipe", ranks: int = 4, running: bool = False) -> Any:
    """Three steps of a plan, and what the weights were then."""
    run = Trained(compiled(name, ranks=ranks, microbatches=8), folder, running)

    def body(executor: Executor, optimizer: Any, modules: Any) -> Any:
        run.steps(executor, optimizer, 3)
        save(executor, folder, 3, optimizer)
        return weights(modules)

    return whole(run.run(body))


def test_it_is_found_through_its_package() -> None:
    """Also where nobody has imported it before."""
    assert stretto.runtime.__getattr__("checkpoint").load is load


@pytest.mark.parametrize(
    ("name", "ranks"), [("one_f_one_b", 2), ("zb_v", 2), ("dualpipe", 4), ("chimera", 2)]
)
def test_a_checkpoint_is_independent_of_the_plan(tmp_path: Path, name: str, ranks: int) -> None:
    expected = saved(tmp_path)
    assert latest(tmp_path) == 3
    run = Trained(compiled(name, ranks=ranks, microbatches=8), tmp_path)
    moments: dict[str, Tensor] = {}

    def body(executor: Executor, optimizer: Any, modules: Any) -> Any:
        run.steps(executor, optimizer, 1)  # what it had before is gone
        assert load(executor, tmp_path, optimizer) == 3
        for parameter, state in optimizer.state.items():
            assert state["step"] == 3
            moments[str(tuple(parameter.shape))] = state["exp_avg"]
        return weights(modules)

    found = whole(run.run(body))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert all(moment.abs().max() > 0 for moment in moments.values())


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("name", ["dualpipe", "interleaved_1f1b"])
def test_a_resumed_run_goes_on_as_the_undisturbed_one(
    tmp_path: Path, name: str, running: bool
) -> None:
    run = Trained(compiled(name, ranks=2, microbatches=8), tmp_path, running)

    def undisturbed(executor: Executor, optimizer: Any, modules: Any) -> Any:
        run.steps(executor, optimizer, 2)
        save(executor, tmp_path, 2, optimizer)
        return run.steps(executor, optimizer, 2), weights(modules)

    def resumed(executor: Executor, optimizer: Any, modules: Any) -> Any:
        assert load(executor, tmp_path, optimizer) == 2
        return run.steps(executor, optimizer, 2), weights(modules)

    for (a, b), (c, d) in zip(run.run(undisturbed), run.run(resumed), strict=True):
        assert a == c
        assert all(torch.equal(b[key], d[key]) for key in b)


def test_running_means_of_copies_are_one_in_a_checkpoint(tmp_path: Path) -> None:
    run = Trained(compiled("dualpipe", ranks=2, microbatches=8), tmp_path, running=True)

    def means(modules: Any) -> list[Tensor]:
        found = [module.norm.running_mean for module in modules.values() if module.first == 0]
        return [mean.clone() for mean in found]

    def body(executor: Executor, optimizer: Any, modules: Any) -> Any:
        run.steps(executor, optimizer, 1)
        before = means(modules)
        save(executor, tmp_path, 1, optimizer)
        return before, means(modules)

    results = run.run(body)
    first, second = [mean for before, _ in results for mean in before]
    assert not torch.equal(first, second)
    for mean in [mean for _, after in results for mean in after]:
        assert torch.equal(mean, (first + second) / 2)


def refusal(run: Trained, folder: Path, make: Any = Part, step: int | None = None) -> str:
    with pytest.raises(PipelineError) as error:
        run.run(lambda executor, optimizer, _: load(executor, folder, optimizer, step=step), make)
    return str(error.value)


class Nameless(Part):
    """The same, without knowing which layers it has."""

    full_name = None  # type: ignore[assignment]


class Wider(Part):
    """Another model under the same names."""

    def __init__(self, *place: Any):
        super().__init__(*place)
        for layer in self.layers:
            layer.up = nn.Linear(6, 13)
            layer.down = nn.Linear(13, 6)


def test_what_does_not_fit_is_refused_on_every_rank(tmp_path: Path) -> None:
    saved(tmp_path)
    run = Trained(compiled("one_f_one_b", ranks=2, microbatches=8), tmp_path)
    assert "has `layers.0.up.weight` as (12, 6) torch.float32, this rank as (13, 6)" in refusal(
        run, tmp_path, Wider
    )
    assert "lacks 24 of 24 tensors of this rank, `stage0of2.layers.0." in refusal(
        run, tmp_path, Nameless
    )
    (tmp_path / "step-00000003" / ".metadata").write_bytes(b"broken")
    told = refusal(run, tmp_path)
    assert "cannot be loaded: rank 0: its file `.metadata` cannot be read: UnpicklingError" in told
    assert "there is no older checkpoint" in told


def spoil(folder: Path, how: str) -> str:
    """Damages the file of a step; its name."""
    file = min(folder.glob("*.distcp"))
    whole = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        cut = whole[: len(whole) // 2]
        file.write_bytes(cut if how == "cut" else bytes(len(whole)))
    return file.name


def test_a_damaged_file_is_named_and_the_way_out(tmp_path: Path) -> None:
    run = Trained(compiled("one_f_one_b", ranks=2, microbatches=8), tmp_path)

    def body(executor: Executor, optimizer: Any, _: Any) -> None:
        for step in (1, 2, 3, 4):
            save(executor, tmp_path, step, optimizer, keep=4)

    run.run(body)
    told = {}
    for step, how in ((2, "zeros"), (4, "cut"), (3, "missing")):
        folder = tmp_path / f"step-{step:08d}"
        name = spoil(folder, how)
        told[how] = refusal(run, tmp_path, step=step)
        assert f"{folder} cannot be loaded: rank 0: its file `{name}` " in told[how]
        older = 3 if how == "cut" else 1 if how == "zeros" else 2
        assert f"of step {older} are all there: delete {folder}" in told[how]
    assert " has " in told["cut"] and "FileNotFoundError" in told["missing"]


def test_a_file_of_another_checkpoint_is_noticed(tmp_path: Path) -> None:
    """Of another step of the same run, or of the same step of another run: both have every tensor
    in its place, and other numbers. Threads write one file, so each word is written by hand."""
    run = Trained(compiled("one_f_one_b", ranks=2, microbatches=8), tmp_path)

    def body(executor: Executor, optimizer: Any, _: Any) -> None:
        for root, step in (("a", 1), ("a", 2), ("b", 1)):
            save(executor, tmp_path / root, step, optimizer)

    run.run(body)
    own, table = tmp_path / "a" / "step-00000001", ".metadata"
    before = (own / table).read_bytes()
    for root, step in (("a", 2), ("b", 1)):
        other = tmp_path / root / f"step-{step:08d}"
        mixed = pickle.loads(before)
        more = pickle.loads((other / table).read_bytes())
        for index, part in more.storage_data.items():
            if index.fqn in ("written.1", "model.layers.6.up.weight"):
                part.relative_path = "other.distcp"
                mixed.storage_data[index] = part
        (own / "other.distcp").write_bytes((other / "__0_0.distcp").read_bytes())
        (own / table).write_bytes(pickle.dumps(mixed))
        told = refusal(run, tmp_path / "a", step=1)
        assert "its files `__0_0.distcp` and `other.distcp` are of different checkpoints" in told
    (own / table).write_bytes(before)
    run.run(lambda executor, optimizer, _: load(executor, tmp_path / "a", optimizer, step=1))


def test_a_folder_with_the_name_of_another_step_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "step-00000003").rename(tmp_path / "step-00000030")
    run = Trained(compiled("dualpipe", ranks=4, microbatches=8), tmp_path)
    assert "written after step 3" in refusal(run, tmp_path)


def test_links_are_removed_as_links(tmp_path: Path) -> None:
    """What they lead to stays; a dangling one, a file, and names that no checkpoint has are in
    nobody's way."""
    run = Trained(compiled("one_f_one_b", ranks=2, microbatches=8), tmp_path)
    precious, root = tmp_path / "precious", tmp_path / "root"
    precious.mkdir()
    root.mkdir()
    (precious / "mine").write_text("mine")
    for name in ("step-00000001", "step-00000002.partial"):
        (root / name).symlink_to(precious)
    (root / "step-00000003").symlink_to("nowhere")
    (root / "step-00000004.partial").write_text("")
    (root / "step-000000009").mkdir()
    (root / "step-٠٠٠٠٠٠٠٩").mkdir()
    run.run(lambda executor, optimizer, _: save(executor, root, 3, optimizer, keep=1))
    assert latest(root) == 3 and (precious / "mine").read_text() == "mine"
    assert not [entry for entry in root.iterdir() if entry.is_symlink() or entry.is_file()]


def test_only_the_newest_are_kept_and_none_is_half_there(tmp_path: Path) -> None:
    run = Trained(compiled("one_f_one_b", ranks=2, microbatches=8), tmp_path)
    (tmp_path / "step-00000009.partial").mkdir()

    def body(executor: Executor, optimizer: Any, _: Any) -> None:
        assert load(executor, tmp_path, optimizer) is None
        for step in (1, 2, 3, 3):
            save(executor, tmp_path, step, optimizer, keep=2)

    run.run(body)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    assert latest(tmp_path) == 3


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    saved(tmp_path)
    run = Trained(compiled("one_f_one_b", ranks=2, microbatches=8), tmp_path)

    class Stubborn:
        """Has a state that nobody can write."""

        def state_dict(self) -> Any:
            return {"lambda": lambda: 0}

        def load_state_dict(self, state: Any) -> None: ...

    def body(executor: Executor, optimizer: Any, _: Any) -> None:
        save(executor, tmp_path, 4, optimizer, extra={"stubborn": Stubborn()})

    with pytest.raises(PipelineError, match="the checkpoint of step 4 was not written: rank 0"):
        run.run(body)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]
