"""What the sections of a config have in common. In: the keys and values of one section. Out: a
frozen object, and a message for each group of its values that do not fit together."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FIELDS_ALONE = "fields alone"  # the context of a validation that does not look for clashes


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def clashes(self) -> Iterator[str]:
        """Yield a message for each group of values that are legal alone but not together.

        A message names every field that takes part.
        """
        yield from ()

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> "Section":
        if info.context != FIELDS_ALONE and (lines := [*self.clashes()]):
            raise ValueError("\n".join(lines))
        return self
