"""A vocab.txt of BERT made into a tokenizer.json, by the rules of BERT's own tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.errors import InvalidData
from app.intake.checkpoint_folder import CONFIG
from app.intake.refusals import refusal
from app.intake.tokenizer_parts import TOKENIZER, TOKENIZER_CONFIG

Json = dict[str, Any]

FAMILIES = ("bert", "distilbert", "electra", "mobilebert", "squeezebert")
VOCABULARY = "vocab.txt"
MAX_BYTES = 32 * 1024**2
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_FIX = "Upload the tokenizer.json that AutoTokenizer.from_pretrained(folder).save_pretrained(folder) makes."


def converts(folder: Path, documents: Mapping[str, Json]) -> bool:
    """Whether this is all that there is of a tokenizer, and of a family that has BERT's."""
    known = documents[CONFIG].get("model_type") in FAMILIES
    return known and TOKENIZER not in documents and (folder / VOCABULARY).exists()


def convert(folder: Path, documents: dict[str, Json]) -> Path:
    """Writes the tokenizer.json beside the vocab.txt and among the documents. Raises InvalidData."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    said = documents.get(TOKENIZER_CONFIG, {})
    vocabulary = _vocabulary(folder / VOCABULARY)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=_SPECIAL[1], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=_flag(said, "tokenize_chinese_chars", True),
        strip_accents=said.get("strip_accents") if isinstance(said.get("strip_accents"), bool) else None,
        lowercase=_flag(said, "do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in _SPECIAL])
    path = folder / TOKENIZER
    tokenizer.save(str(path))
    documents[TOKENIZER] = json.loads(path.read_bytes())
    return path


def _vocabulary(path: Path) -> dict[str, int]:
    if path.stat().st_size > MAX_BYTES:
        raise refusal(InvalidData, f"{VOCABULARY} has more than {MAX_BYTES:,} bytes", _FIX)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise refusal(InvalidData, f"{VOCABULARY} is not UTF-8", _FIX) from None
    tokens = [line.rstrip("\r") for line in lines]
    if tokens and not tokens[-1]:
        tokens.pop()
    found = {token: number for number, token in enumerate(tokens)}
    if missing := [name for name in _SPECIAL if name not in found]:
        raise refusal(InvalidData, f"{VOCABULARY} has no {' and no '.join(missing)}", _FIX)
    return found


def _flag(said: Mapping[str, Any], name: str, default: bool) -> bool:
    value = said.get(name, default)
    return value if isinstance(value, bool) else default
