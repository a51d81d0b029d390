"""The base of all descriptions: frozen, self-validating, with a digest of their content."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeaudio.errors import ConfigError


def canonical_json(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_json(value: Any) -> str:
    """SHA-256 (hex) of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def explain_validation_error(error: ValidationError) -> str:
    """One line per wrong field: its dotted name, what is wrong, what was given."""
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "(whole)"
        message = item["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {message} (given: {item['input']!r:.80})")
    return "; ".join(lines)


class Spec(BaseModel):
    """A frozen description. Unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def digest(self) -> str:
        """SHA-256 (hex) over the canonical JSON of all fields; equal specs have equal digests."""
        return digest_json(self.model_dump(mode="json"))

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON values: what a stage depends on.

        A field added later, with a default that means "as before", so leaves finished stages valid.
        """
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def parse(cls, value: Any, *, source: str) -> Self:
        """Validate `value`; `source` (a file name) leads the message of a `ConfigError`."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ConfigError(f"{source}: {explain_validation_error(error)}") from error
