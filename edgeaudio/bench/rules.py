"""Rules for `bench compare`: `latency_ms_p95>+5%` fails when the second run's p95 is over 5 % above the first's.

    [ARTEFACT:]METRIC OP LIMIT        OP is > >= < <=

LIMIT is `+5%` (relative change), `-0.01` (change in the metric's unit) or `20` (the second run's value itself).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Self

from edgeaudio.bench.metrics import metric
from edgeaudio.errors import ConfigError

LimitKind = Literal["relative", "change", "value"]
_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
_RULE: Final = re.compile(
    r"(?:(?P<artefact>.+):)?(?P<metric>[A-Za-z0-9_]+)\s*(?P<operator>[<>]=?)"
    r"\s*(?P<limit>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)\s*(?P<percent>%?)",
    re.ASCII | re.DOTALL,
)
_FORM: Final = "wanted [ARTEFACT:]METRIC OP LIMIT, such as 'latency_ms_p95>+5%', 'accuracy<-0.01' or 'load_ms>20'"
_MAX_CHARACTERS: Final = 500


@dataclass(frozen=True)
class Rule:
    """When a comparison fails. `artefact` None: any of them.

    limit: in per cent for `relative`, else in the unit of the metric.
    """

    metric: str
    operator: Literal[">", ">=", "<", "<="]
    limit: float
    kind: LimitKind
    artefact: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """A rule from its text.

        Raises:
            ConfigError: not of that form, or of no known metric; quotes the rule.
        """
        match = _RULE.fullmatch(text.strip()) if len(text) <= _MAX_CHARACTERS else None
        if match is None:
            raise ConfigError(f"rule {text[:80]!r}: {_FORM}")
        try:
            name = metric(match["metric"]).name
        except ConfigError as error:
            raise ConfigError(f"rule {text!r}: {error}") from None
        limit = float(match["limit"])
        signed = match["limit"][0] in "+-"
        if match["percent"] and not signed:
            raise ConfigError(f"rule {text!r}: say which way, such as '+5%' or '-5%'")
        if not math.isfinite(limit):
            raise ConfigError(f"rule {text!r}: the limit is no finite number")
        kind: LimitKind = "relative" if match["percent"] else "change" if signed else "value"
        return cls(
            metric=name,
            operator=match["operator"],  # type: ignore[arg-type]
            limit=limit,
            kind=kind,
            artefact=match["artefact"],
        )

    def __str__(self) -> str:
        where = f"{self.artefact}:" if self.artefact is not None else ""
        limit = repr(self.limit).removesuffix(".0")
        sign = "" if self.kind == "value" or limit.startswith("-") else "+"
        return f"{where}{self.metric}{self.operator}{sign}{limit}{'%' if self.kind == 'relative' else ''}"

    def fails(self, before: float, after: float) -> bool:
        """Whether the second value, held against the first, is what this rule forbids.

        A relative change from zero to anything else is infinite.
        """
        given = after if self.kind == "value" else after - before
        if self.kind == "relative":
            given = 100 * relative_change(before, after)
        return _OPERATORS[self.operator](given, self.limit)


def relative_change(before: float, after: float) -> float:
    """`after / before - 1`; from zero it is 0 or infinite."""
    if before == 0:
        return 0.0 if after == 0 else math.copysign(math.inf, after)
    return (after - before) / abs(before)
