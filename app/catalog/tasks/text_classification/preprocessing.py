"""The schema of a text's way into a model. The tokenizer itself is a stored file, named by its sha256."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints

from app.catalog.base import Frozen

SHORTEST, LONGEST = 8, 8192  # tokens

Length = Annotated[int, Field(ge=SHORTEST, le=LONGEST)]
SpecialToken = Literal[
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"
]


class Preprocessing(Frozen):
    """How a text becomes a model's input: token ids, cut to `max_length` and filled up with `pad`."""

    column: str = Field(
        "", max_length=1000, description="of the text; empty while the teacher's files do not say it"
    )
    tokenizer: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] = Field(
        description="sha256 of the tokenizer.json"
    )
    vocabulary: PositiveInt = Field(description="rows of the model's embedding; every id is below it")
    pad: NonNegativeInt
    max_length: Length = Field(description="tokens, special ones included")
    cut: Literal["right", "left"] = Field("right", description="the end that a longer text loses")
    special_tokens: dict[SpecialToken, Annotated[str, StringConstraints(max_length=200)]] = Field(
        {}, description="as tokenizer_config.json names them"
    )
