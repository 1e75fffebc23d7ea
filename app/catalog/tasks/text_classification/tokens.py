"""From a text to token ids, by the `tokenizers` library: no torch and no transformers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from app.catalog.base import Vocabulary
from app.catalog.tasks.text_classification.preprocessing import Preprocessing
from app.errors import InvalidData, TeacherLoadFailed, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

MAX_CHARACTERS = 1_000_000  # of a text that are looked at; far more than the longest input holds


def open_tokenizer(content: bytes) -> "Tokenizer":
    """A tokenizer.json without the cutting and padding that it may ask for: here a preprocessing says how."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode(raw: Any, tokenizer: "Tokenizer", preprocessing: Preprocessing) -> "NDArray[np.int32]":
    """raw: a text, or a row with the text's column; None is an empty text. Gives (max_length,)."""
    import numpy as np

    text = _text(raw, preprocessing.column)
    with refusing(InvalidData("The tokenizer cannot read this text; send another one.")):
        found = ids(text, tokenizer, preprocessing)
    if not found:
        raise InvalidData("The text has nothing that the tokenizer reads; send words.")
    row = np.full(preprocessing.max_length, preprocessing.pad, np.int32)
    row[: len(found)] = found
    return row


@contextmanager
def refusing(error: Exception) -> Iterator[None]:
    """Raises `error` for what the library raises: it has no class of its own, and Rust's panics are no
    Exception."""
    try:
        yield
    except BaseException as raised:
        theirs = type(raised) is Exception or type(raised).__name__ == "PanicException"
        if not theirs and not isinstance(raised, ValueError):
            raise
        raise error from None


def ids(text: str, tokenizer: "Tokenizer", preprocessing: Preprocessing) -> list[int]:
    """At most `max_length` of them; what is cut off is text, never one of the special tokens around it."""
    room = preprocessing.max_length - tokenizer.num_special_tokens_to_add(is_pair=False)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    encoding.truncate(max(room, 0), direction=preprocessing.cut)
    return list(tokenizer.post_process(encoding, add_special_tokens=True).ids)


def vocabulary(tokenizer: "Tokenizer", preprocessing: Preprocessing) -> Vocabulary:
    """What stands for a lost token, and the tokens that are no text. Raises TeacherLoadFailed."""
    named = preprocessing.special_tokens
    known = {name: tokenizer.token_to_id(text) for name, text in named.items()}
    model = getattr(tokenizer.model, "unk_token", None)
    found = [known.get("mask_token"), known.get("unk_token"), tokenizer.token_to_id(model) if model else None]
    lost = next((one for one in found if one is not None), None)
    if lost is None:
        raise TeacherLoadFailed(
            "The first teacher's tokenizer has neither a mask nor an unknown token to put in a dropped one's "
            "place. Leave token_dropout out, or import a teacher whose tokenizer_config.json names one."
        )
    added = tokenizer.get_added_tokens_decoder().items()
    special = {one for one, token in added if token.special} | {preprocessing.pad}
    return Vocabulary(lost, frozenset(special | {one for one in known.values() if one is not None}))


def _text(raw: Any, column: str) -> str:
    if isinstance(raw, Mapping):
        if column not in raw:
            there = ", ".join(shown(name, 40) for name in list(raw)[:10]) or "none"
            raise InvalidData(f"The row lacks the column {shown(column)}; it has {there}")
        raw = raw[column]
    if raw is None:
        return ""
    if not isinstance(raw, str):
        raise InvalidData(f"A text is needed, not {shown(raw, 40)}")
    return raw[:MAX_CHARACTERS]
