"""Reads JSON objects that describe models, and checks their fields on access."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bo_tune.core.problem import MOST
from bo_tune.core.surroundings import Weights
from bo_tune.errors import ModelError
from bo_tune.files import os_error_text, parse_json, read_file, shown


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a config, checked on access."""

    values: Mapping[str, Any]
    source: Path

    @property
    def quantized(self) -> Mapping[str, Any]:
        """The checkpoint's description of its quantization; empty for none."""
        quantization = self.values.get("quantization_config")
        return quantization if isinstance(quantization, dict) else {}

    @property
    def quantization(self) -> str | None:
        """The ``quant_method`` of the checkpoint; None for none."""
        method = self.quantized.get("quant_method")
        return method if isinstance(method, str) else None

    @property
    def weights(self) -> Weights:
        """Storage of the weights of linear layers in the checkpoint. Unknown formats count as not quantised."""
        quantization = self.values.get("quantization_config")
        method = self.quantization
        if not isinstance(quantization, dict) or method is None or "mxfp4" in method:  # quantises experts only
            return Weights.BITS_16
        if "fp8" in method:
            return Weights.FP8
        groups = quantization.get("config_groups")
        stored = next(iter(groups.values()), None) if isinstance(groups, dict) else None
        weights = stored.get("weights") if isinstance(stored, dict) else None
        bits = weights.get("num_bits") if isinstance(weights, dict) else quantization.get("bits")
        if bits == Weights.FP8.bits:
            return Weights.FP8
        return Weights.INT4 if bits == Weights.INT4.bits else Weights.BITS_16

    def missing(self, field: str) -> bool:
        """Say whether a field is absent or null."""
        return self.values.get(field) is None

    def size(self, field: str, default: int | None = None, least: int = 1, most: int = MOST) -> int:
        """Return an integer. A list of equal integers, one per layer, counts as that integer.

        Raises:
            ModelError: it is missing without a default, out of bounds, not an integer, or differs between layers.
        """
        value = self.values.get(field)
        if isinstance(value, list) and value and all(each == value[0] for each in value):
            value = value[0]
        if value is None:
            if default is None:
                raise ModelError(f"{self.source}: {field} is missing")
            return default
        if type(value) is not int or value < least:
            raise ModelError(f"{self.source}: {field}: expected an integer >= {least}, got {shown(value)}")
        if value > most:
            raise ModelError(f"{self.source}: {field}: expected an integer <= {most}, got {shown(value)}")
        return value

    def first_size(self, fields: Sequence[str], most: int = MOST) -> int:
        """Return the integer of the first field that is present. Raises like ``size``."""
        return self.size(next((field for field in fields if not self.missing(field)), fields[0]), most=most)

    def layer_types(self) -> frozenset[str]:
        """Return the kinds of layers in ``layer_types``. Raises ModelError if the field is invalid."""
        kinds = self.values.get("layer_types")
        if not isinstance(kinds, list) or not kinds or not all(isinstance(kind, str) for kind in kinds):
            raise ModelError(f"{self.source}: layer_types: expected the kind of each layer, got {shown(kinds)}")
        return frozenset(kinds)

    def product(self, field: str, other: str) -> int:
        """Return the product of two integers. Raises like ``size``."""
        return self.size(field) * self.size(other)


def read_object(file: Path, expected: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ModelError: it cannot be read or holds something else.
    """
    try:
        content = parse_json(read_file(file), repeats=True)
    except OSError as error:
        raise ModelError(f"{file}: {os_error_text(error)}") from None
    except ValueError as error:
        raise ModelError(f"{file}: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file}: expected the object of {expected}")
    return content
