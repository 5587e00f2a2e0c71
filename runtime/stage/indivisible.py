"""Graphs whose backward is not run in two halves. In comes a graph that was cut, out comes whether
some node of it must not run twice, or not while the graph is kept: then I computes everything in
one run, and W adds what that left."""

from collections.abc import Iterable
from typing import Any

from torch.autograd.graph import Node

from stretto.runtime.stage.graph_cut import GraphCut
from stretto.runtime.stage.saved_tensors import is_packed

CHECKPOINT, COMPILED = "CheckpointFunctionBackward", "CompiledFunctionBackward"
NORM = "NativeGroupNormBackward0"


def adds_by_itself(nodes: Iterable[Node]) -> bool:
    """Whether one of a graph's nodes is a reentrant activation checkpoint, torch's or one that
    follows it (Megatron's, DeepSpeed's): its backward is a `backward()` of its own, which adds to
    `.grad` at once and refuses to be asked for single gradients."""
    return CHECKPOINT in _kinds(nodes)


def is_indivisible(graph: GraphCut, has_inputs: bool) -> bool:
    """Whether I and W would both need what can be used only once: what hooks have packed (an
    activation checkpoint computes it again for each run, an offloading hook may give it once), or
    the saved tensors of a compiled region, which its backward overwrites; or whether W alone is
    what torch cannot compute."""
    packed = graph.cut_nodes if has_inputs else graph.nodes  # a first stage is cut anywhere
    if any(map(is_packed, packed)):
        return True
    kinds = _kinds(graph.nodes)
    if COMPILED in kinds and any(map(_donates, (*graph.cut_nodes, *graph.others))):
        return True
    return NORM in kinds and any(map(_crashes, graph.cut_nodes))


def is_special(nodes: Iterable[Node]) -> bool:
    """Whether one of the two above may hold for a graph with these nodes where nothing is
    packed."""
    return not _kinds(nodes).isdisjoint((CHECKPOINT, COMPILED, NORM))


def _kinds(nodes: Iterable[Node]) -> set[str]:
    return {kind.__name__ for kind in set(map(type, nodes))}


def _crashes(node: Node) -> bool:
    """Whether torch ends the process where the node's weights alone are asked for: on the CPU a
    group norm whose input has its channels last (torch 2.13)."""
    if type(node).__name__ != NORM:
        return False
    given: Any = getattr(node, "_saved_input", None)
    return given is not None and given.device.type == "cpu" and not given.is_contiguous()


def _donates(node: Node) -> bool:
    """Whether it is a compiled region that reuses the memory of its saved tensors ("donated
    buffers"), or may."""
    if type(node).__name__ != COMPILED:
        return False
    forward: Any = getattr(type(node), "_forward_cls", None)
    metadata = getattr(forward, "metadata", None)
    return getattr(metadata, "bw_donated_idxs", None) != []
