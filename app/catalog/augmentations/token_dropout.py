"""Texts with words missing."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import Augmentation, Chance, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


class TokenDropout(Augmentation):
    """Put the tokenizer's mask, or where it has none its unknown token, in the place of each token with
    probability p; special tokens stay."""

    modality: ClassVar[Literal["image", "text"]] = "text"

    kind: Literal["token_dropout"] = "token_dropout"
    p: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __call__(self, rows: "Tensor", chance: Chance, vocabulary: Vocabulary | None) -> "Tensor":
        assert vocabulary is not None
        special = rows.new_tensor(sorted(vocabulary.special))
        kept = (rows[..., None] == special).any(-1)
        return rows.masked_fill((chance(rows.shape[1]) < self.p) & ~kept, vocabulary.lost)
