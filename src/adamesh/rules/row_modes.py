"""The three ways to update a table whose gradients are row-sparse, by the name that a parameter group gives."""

from adamesh.errors import ConfigurationError
from adamesh.rules.adam import Adam
from adamesh.rules.base import Rule
from adamesh.rules.decayed_rows import DecayedRows
from adamesh.rules.exact_rows import ExactRows
from adamesh.rules.lazy_rows import LazyRows
from adamesh.rules.rows import RowRule

__all__ = ["MODES", "row_rule"]

MODES = ("lazy", "decayed", "exact")


def row_rule(mode: object, rule: Rule) -> RowRule:
    """The row rule of a parameter group.

    Args:
        mode: the group's ``sparse``.
        rule: the optimizer's rule for dense parameters.

    Raises:
        ConfigurationError: there is no such mode, or no row rule that goes with the optimizer's.
    """
    if mode not in MODES:
        raise ConfigurationError(f"sparse={mode!r} is unknown: a group's sparse must be one of {', '.join(MODES)}")
    if not isinstance(rule, Adam):
        raise ConfigurationError(
            f"sparse={mode!r} in an optimizer whose rule is {type(rule).__name__}: row-sparse groups are for "
            "adamesh.AdamW and adamesh.Adam. Leave 'sparse' out and build the layers with sparse=False"
        )
    if mode == "lazy":
        return LazyRows()
    return DecayedRows(rule.decoupled) if mode == "decayed" else ExactRows(rule)
