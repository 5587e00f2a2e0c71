"""The two actions of the table."""

from lark.table import Reduce as Reduce
from lark.table import Shift as Shift
