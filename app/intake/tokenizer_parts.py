"""What a tokenizer.json may be made of: known parts alone, and no expression that could take for ever."""

import re
from collections.abc import Iterator
from typing import Any

from app.errors import InvalidData, UnsafeFormat, shown
from app.intake.refusals import refusal

Json = dict[str, Any]

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
MAX_ADDED, MAX_PARTS, MAX_WORD = 10_000, 64, 10_000  # tokens, steps of a pipeline, characters of a word
SLOW = "Write it with AutoTokenizer.from_pretrained(folder).save_pretrained(folder), which makes one."
_PARTS = {
    "normalizer": {
        "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend",
        "Replace", "Sequence", "Strip", "StripAccents",
    },
    "pre_tokenizer": {
        "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation",
        "Sequence", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit",
    },
    "post_processor": {"BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"},
    "model": {"BPE", "Unigram", "WordLevel", "WordPiece"},
}  # fmt: skip
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_KNOWN_EXPRESSIONS = {  # that split words in GPT-2, in Llama 3 and in Qwen, and in those that follow them
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    _LETTERS + r"\p{N}{1,3}" + _REST,
    _LETTERS + r"\p{N}" + _REST,
}
_PLAIN_EXPRESSION = re.compile(r"(?:[^()\\*+?{}|]|\\[snrtdwSDW.\-])+(?:[+*]|\{\d{1,3},?\d{0,3}\})?")


def check_parts(document: Json) -> None:
    """Raises UnsafeFormat for a part that is not known, or an expression that is not plain."""
    for section, known in _PARTS.items():
        kinds = [part.get("type") for part in _parts(document.get(section))]
        untold = section == "model"  # older files leave the model's type to be guessed from its fields
        strange = [kind for kind in kinds if str(kind) not in known and not (untold and kind is None)]
        if strange:
            detail = f"{TOKENIZER} has the {section} {shown(strange[0])}, which is not one of the known ones"
            raise refusal(UnsafeFormat, detail, f"Use {', '.join(sorted(known))}.")
        if len(kinds) > MAX_PARTS:
            detail = f"the {section} in {TOKENIZER} has {len(kinds)} parts"
            raise refusal(UnsafeFormat, detail, f"At most {MAX_PARTS} are read.")
    for section in ("normalizer", "pre_tokenizer", "decoder"):
        for expression in _expressions(document.get(section)):
            if not _is_harmless(expression):
                detail = f"{TOKENIZER} holds the expression {shown(expression)}, which could take very long"
                raise refusal(UnsafeFormat, detail, "Use plain ones: no groups, one repetition, at its end.")
    model, added = document.get("model"), document.get("added_tokens") or []
    if not isinstance(model, dict) or not isinstance(added, list) or len(added) > MAX_ADDED:
        raise refusal(InvalidData, f"{TOKENIZER} has no model, or more than {MAX_ADDED:,} added tokens", SLOW)
    if model.get("dropout"):
        detail = f"the model in {TOKENIZER} has dropout, by which one text has many readings"
        raise refusal(InvalidData, detail, "Set dropout to null.")
    longest = model.get("max_input_chars_per_word", 0)
    if not isinstance(longest, int) or longest > MAX_WORD:
        detail = f"max_input_chars_per_word in {TOKENIZER} is {shown(longest)}"
        raise refusal(UnsafeFormat, detail, f"Use at most {MAX_WORD:,}; 100 is usual.")


def _parts(section: Any) -> Iterator[Json]:
    """A part and those that it is made of."""
    if section is None:
        return
    if not isinstance(section, dict):
        raise refusal(InvalidData, f"a part of {TOKENIZER} is no object", SLOW)
    yield section
    for name in ("normalizers", "pretokenizers", "processors"):
        inner = section.get(name)
        for part in inner if isinstance(inner, list) else []:
            yield from _parts(part)


def _expressions(value: Any) -> Iterator[Any]:
    """Every `Regex` at any depth."""
    if isinstance(value, dict):
        yield from (inner for key, inner in value.items() if key == "Regex")
        for inner in value.values():
            yield from _expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _expressions(inner)


def _is_harmless(expression: Any) -> bool:
    """One that is read in one go from left to right: nothing is tried twice."""
    if not isinstance(expression, str) or len(expression) > 300:
        return False
    return expression in _KNOWN_EXPRESSIONS or bool(_PLAIN_EXPRESSION.fullmatch(expression))
