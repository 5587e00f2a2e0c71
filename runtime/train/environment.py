"""Which rank of which job this process is, as torchrun, or whoever starts ranks without it, says in
the environment. In come environment variables, out comes a `RankEnvironment`."""

from collections.abc import Mapping
from typing import NamedTuple

from stretto.compiler.diagnostics.wording import listed
from stretto.runtime.errors import PipelineError

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LARGEST_PORT = 65535


class RankEnvironment(NamedTuple):
    """`rank` of `world`; the store is at `host` and `port`, kept by torchrun where there is an
    `agent`, else by rank 0. `local_rank` of `local_world` are the processes of this machine;
    `attempt` counts torchrun's restarts; `job` tells jobs apart, where who started them says."""

    rank: int
    world: int
    host: str
    port: int
    agent: bool
    local_rank: int
    local_world: int
    attempt: str
    job: str


def read_environment(given: Mapping[str, str]) -> RankEnvironment:
    """Raises `PipelineError` where variables are missing or make no sense."""
    lacking = [name for name in NEEDED if not given.get(name)]
    if lacking:
        there = " and ".join(name for name in NEEDED if name not in lacking)
        raise PipelineError(
            f"the environment has {there or 'nothing'}, but not {' and '.join(lacking)}: "
            "start the ranks with torchrun, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT "
            "for each"
        )
    world = _number(given, "WORLD_SIZE", 1, 1 << 20)
    local_world = _number(given, "LOCAL_WORLD_SIZE", 1, world, "1")
    return RankEnvironment(
        rank=_number(given, "RANK", 0, world - 1),
        world=world,
        host=given["MASTER_ADDR"],
        port=_number(given, "MASTER_PORT", 0, LARGEST_PORT),
        agent=given.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        local_rank=_number(given, "LOCAL_RANK", 0, local_world - 1, "0"),
        local_world=local_world,
        attempt=given.get("TORCHELASTIC_RESTART_COUNT", "0"),
        job=_job(given),
    )


def _number(
    given: Mapping[str, str], name: str, least: int, most: int, default: str | None = None
) -> int:
    text = given.get(name) or default or ""
    try:
        value = int(text)
    except ValueError:
        raise PipelineError(f"{name} is `{text}`, not a whole number") from None
    if not least <= value <= most:
        of = f", since WORLD_SIZE is {given['WORLD_SIZE']}" if name == "RANK" else ""
        raise PipelineError(f"{name} is {value}: it must be from {least} to {most}{of}")
    return value


def _job(given: Mapping[str, str]) -> str:
    names = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID")
    return " ".join(given[name] for name in names if given.get(name))


def different_worlds(worlds: Mapping[int, int]) -> str:
    """What is wrong where ranks were started for different numbers of ranks; empty where they were
    not. `worlds`: by rank, of those that are there."""
    sizes = {size: sorted(r for r in worlds if worlds[r] == size) for size in worlds.values()}
    if len(sizes) <= 1:
        return ""
    told = [f"{listed('rank', ranks)} for {size}" for size, ranks in sorted(sizes.items())]
    return f"the ranks were started for different numbers of ranks: {' and '.join(told)}"
