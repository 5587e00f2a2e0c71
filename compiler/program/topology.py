"""What a reader of Programs asks of their Spec: which stages give each other data, and what is true
of a kind of operation. Values of `problem/`, for those who see a Program alone, the runtime for
one. (The proof derives all this itself, and does not come here.)"""

from stretto.compiler.problem.kinds import KINDS as KINDS
from stretto.compiler.problem.topological import topological as topological
from stretto.compiler.problem.topology import Topology as Topology
