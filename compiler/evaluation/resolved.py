"""`ResolvedPipeline`: a pipeline when all of the file is known."""

from msgspec import Struct

from stretto.compiler.evaluation.chains import StageChain
from stretto.compiler.evaluation.declared import PipelineDecl
from stretto.compiler.problem.spec import Feed


class ResolvedPipeline(Struct, frozen=True):
    """A pipeline with everything known but its costs."""

    declaration: PipelineDecl
    ranks: tuple[int, ...]  # of each stage
    microbatches: int
    first: int
    replicates: int
    model: str
    feeds: tuple[Feed, ...]
    chains: tuple[StageChain, ...] = ()  # of each stage; empty where stages are whole

    @property
    def index(self) -> int:
        """Its index in `Spec.pipelines`."""
        return self.declaration.value.index

    @property
    def name(self) -> str:
        """Its name."""
        return self.declaration.value.name

    @property
    def forward_only(self) -> bool:
        """Whether it has no backward."""
        return self.declaration.forward_only
