"""What the sections of a config have in common. In: the keys and values of one section. Out: a
frozen object, and a message for each group of its values that do not fit together."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# How people write that a field has no value, besides YAML's null. Read as a text, --data.cache=None
# would be a folder of that name.
NO_VALUE = ("None", "none", "")
FIELDS_ALONE = "fields alone"  # the context of a validation that does not look for clashes


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def clashes(self) -> Iterator[str]:
        """Yield a message for each group of values that are legal alone but not together.

        A message names every field that takes part.
        """
        yield from ()

    @model_validator(mode="before")
    @classmethod
    def _read_no_value(cls, content: Any) -> Any:
        """Return the content with null where a field that may be null has one of NO_VALUE."""
        if not isinstance(content, dict):
            return content
        optional = {
            name
            for name, field in cls.model_fields.items()
            if type(None) in get_args(field.annotation)
        }
        return {
            name: None if name in optional and value in NO_VALUE else value
            for name, value in content.items()
        }

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> "Section":
        if info.context != FIELDS_ALONE and (lines := [*self.clashes()]):
            raise ValueError("\n".join(lines))
        return self
