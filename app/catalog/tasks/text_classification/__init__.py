"""Texts to one label each.

A text is read by the teacher's own tokenizer.json everywhere: in training, by the API, and by whoever takes
the student away, for the file goes with it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from app.catalog.answers import ranked
from app.catalog.base import Column, Input, Opened, Task, Vocabulary, parse
from app.catalog.tasks.text_classification import tokens
from app.catalog.tasks.text_classification.preprocessing import Length, Preprocessing
from app.errors import Fault, Invalid, InvalidData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AUTO_LENGTH = 128  # tokens: of most texts all, at a quarter of the cost of 512
STEP = 8  # a batch is padded to a multiple of it, so that few shapes occur


class TextClassification(Task):
    """Tell which one of several classes a text belongs to."""

    modality: ClassVar[Literal["image", "vector", "text"]] = "text"

    kind: Literal["text_classification"] = "text_classification"
    max_length: Literal["auto"] | Length = Field(
        "auto",
        description="tokens that are read of a text, special ones included; auto: 128, or the first "
        "teacher's limit where that is less",
    )

    def input_columns(self, columns: Mapping[str, Column], label: str | None) -> list[str]:
        texts = [name for name, column in columns.items() if column.type == "text" and name != label]
        short = [name for name, column in columns.items() if column.type == "category" and name != label]
        found = texts or short
        if len(found) == 1:
            return found
        there = ", ".join(f"{name} ({column.type})" for name, column in list(columns.items())[:10])
        if found:
            fault = Fault("/data/columns/input", "ambiguous", f"its columns are {there}", "name one of them")
            raise InvalidData(f"The data has {len(found)} columns of text, a model reads one: {there}", fault)
        fault = Fault(
            "/data/train",
            "no_text_column",
            f"its columns are {there}",
            "upload texts, or choose another task",
        )
        raise InvalidData(f"The data has no column of text beside its label; its columns are {there}", fault)

    def preprocessing(
        self, columns: Mapping[str, Column], inputs: Sequence[str], teacher: Mapping[str, Any] | None
    ) -> Preprocessing:
        if teacher is None:
            fault = Fault(
                "/teachers/0", "no_tokenizer", "it has no tokenizer", "put a Hugging Face teacher first"
            )
            raise Invalid(
                "The first teacher of a text job needs a tokenizer, which the student reads by", fault
            )
        return self.bind(self.parse_preprocessing(teacher), columns, inputs)

    def parse_preprocessing(self, value: Mapping[str, Any]) -> Preprocessing:
        return parse(Preprocessing, value, "The preprocessing is not valid")

    def imported_preprocessing(
        self, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, input: Input | None
    ) -> Preprocessing:
        if input is not None or preprocessor is None:
            raise Invalid("A teacher of texts is a Hugging Face folder with its tokenizer.json")
        return self.parse_preprocessing(preprocessor)

    def bind(
        self, preprocessing: Preprocessing, columns: Mapping[str, Column], inputs: Sequence[str]
    ) -> Preprocessing:
        """Names the column, and cuts texts for the teacher where they are cut for the student."""
        if len(inputs) != 1 or columns[inputs[0]].type not in ("text", "category"):
            said = ", ".join(f"{name} ({columns[name].type})" for name in inputs)[:200]
            fault = Fault("/data/columns/input", "not_a_text", said, "name one column of text")
            raise InvalidData("This task reads exactly one column of text", fault)
        wanted = AUTO_LENGTH if self.max_length == "auto" else self.max_length
        length = min(preprocessing.max_length, wanted)
        return preprocessing.model_copy(update={"column": inputs[0], "max_length": length})

    def decided(self, preprocessing: Preprocessing) -> Self:
        return self.model_copy(update={"max_length": preprocessing.max_length})

    def sidecars(self, preprocessing: Preprocessing) -> dict[str, Any]:
        form = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": preprocessing.max_length,
            "model_input_names": ["input_ids", "attention_mask"],
            "padding_side": "right",
            "truncation_side": preprocessing.cut,
            "clean_up_tokenization_spaces": False,
        }
        return {"tokenizer_config.json": {**form, **preprocessing.special_tokens}}

    def files(self, preprocessing: Preprocessing) -> dict[str, str]:
        return {"tokenizer.json": preprocessing.tokenizer}

    def input(self, preprocessing: Preprocessing) -> Input:
        return Input(
            modality="text",
            shape=(preprocessing.max_length,),
            vocabulary=preprocessing.vocabulary,
            pad=preprocessing.pad,
        )

    def encoder(self, preprocessing: Preprocessing, opened: Opened) -> "Callable[[Any], NDArray[np.int32]]":
        """Of a text, or of a row with the text's column, which may be None: an empty text."""
        tokenizer = opened(preprocessing.tokenizer, tokens.open_tokenizer)
        return partial(tokens.encode, tokenizer=tokenizer, preprocessing=preprocessing)

    def normalize(self, encoded: Any, preprocessing: Preprocessing) -> Any:
        """Without the columns that hold padding alone."""
        import numpy as np

        used = (encoded != preprocessing.pad).any(0)
        needed = int(used.nonzero()[0].max() if isinstance(used, np.ndarray) else used.nonzero().max()) + 1
        ids = encoded[:, : -(-needed // STEP) * STEP]
        return ids.astype(np.int64) if isinstance(ids, np.ndarray) else ids.long()

    def token_mask(self, normalized: Any, preprocessing: Preprocessing) -> Any:
        return normalized != preprocessing.pad

    def vocabulary(self, preprocessing: Preprocessing, opened: Opened) -> Vocabulary:
        return tokens.vocabulary(opened(preprocessing.tokenizer, tokens.open_tokenizer), preprocessing)

    def decode(
        self, logits: "NDArray[np.float32]", labels: Sequence[str], *, top_k: int
    ) -> list[dict[str, Any]]:
        return ranked(logits, labels, top_k)
