"""JSON Schema of strict models; apart from them, because it is slow to import and seldom needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

if TYPE_CHECKING:
    from pydantic_core import core_schema


class StrictJsonSchema(GenerateJsonSchema):
    """A schema for files: an optional key is left out, never null; names without Python's underscores."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Say nothing of null: the YAML reader refuses it."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Name real defaults only."""
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # overrides
        """No titles: the key and its description say it."""
        return False

    def normalize_name(self, name: str) -> str:
        """Drop what marks a class as private."""
        return super().normalize_name(name).lstrip("_")
