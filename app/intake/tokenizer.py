"""The tokenizer of a text classifier: whether it fits the model, and that it works.

Worker and API open this file later; it is opened and tried here first, where nothing is lost.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from app.catalog.tasks.text_classification.preprocessing import LONGEST, SHORTEST, SpecialToken
from app.catalog.tasks.text_classification.tokens import open_tokenizer, refusing
from app.errors import InvalidData, ShapeMismatch, UnsafeFormat, shown
from app.intake.checkpoint_folder import CONFIG
from app.intake.refusals import refusal
from app.intake.safetensors import Tensor
from app.intake.tokenizer_parts import SLOW, TOKENIZER, TOKENIZER_CONFIG, check_parts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Json = dict[str, Any]

SPECIAL_TOKENS = "special_tokens_map.json"
MAX_AROUND = 4  # special tokens that stand around one text
PROBES = (
    "",
    "The quick brown fox, and 3 dogs!",
    "word " * 5000,
    "x" * 50_000,
    " \n" * 25_000,
    "äß京😀" * 5000,
)
PROBES_S = 5.0  # all of them take milliseconds
_EMBEDDINGS = re.compile(r".*\b(word_embeddings|tok_embeddings|embed_tokens|wte)\.weight")
_POSITIONS = re.compile(r".*\bposition_embeddings\.weight")
_FROM_PADDING = {  # their positions are counted from the padding's id on
    "camembert", "data2vec-text", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl",
}  # fmt: skip
_OTHER_INPUTS = {"canine", "fnet", "layoutlm", "perceiver", "tapas", "xlnet"}
_FIX = "Save model and tokenizer into one folder with save_pretrained, and upload what belongs together."


def inspect(folder: Path, documents: Mapping[str, Json], tensors: Mapping[str, Tensor]) -> Json:
    """The fields of the task's preprocessing but for the column. Raises Invalid and its children."""
    config = documents[CONFIG]
    if config["model_type"] in _OTHER_INPUTS:
        detail = f"{config['model_type']} does not read token ids with their padding on the right"
        raise refusal(InvalidData, detail, "Import a teacher like BERT, DistilBERT, RoBERTa or DeBERTa.")
    if TOKENIZER not in documents:
        raise refusal(InvalidData, f"the archive has no {TOKENIZER}", SLOW)
    check_parts(documents[TOKENIZER])
    content = (folder / TOKENIZER).read_bytes()
    with refusing(refusal(InvalidData, f"{TOKENIZER} is none that the tokenizers library opens", SLOW)):
        tokenizer = open_tokenizer(content)
    special = _special_tokens(documents)
    pad = _pad(config, documents[TOKENIZER], special, tokenizer)
    vocabulary = _vocabulary(config, tensors, tokenizer)
    _try(tokenizer, pad)
    return {
        "tokenizer": hashlib.sha256(content).hexdigest(),
        "vocabulary": vocabulary,
        "pad": pad,
        "max_length": _limit(config, documents.get(TOKENIZER_CONFIG, {}), tensors, pad),
        "cut": _cut(documents.get(TOKENIZER_CONFIG, {})),
        "special_tokens": special,
    }


def _special_tokens(documents: Mapping[str, Json]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in get_args(SpecialToken):
        for file in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
            said = documents.get(file, {}).get(name)
            text = said.get("content") if isinstance(said, dict) else said
            if isinstance(text, str) and text:
                found.setdefault(name, text)
    return found


def _pad(config: Json, document: Json, special: Mapping[str, str], tokenizer: "Tokenizer") -> int:
    """The id of padding, about which tokenizer and model agree."""
    padding = document.get("padding")
    token = special.get("pad_token") or (padding.get("pad_token") if isinstance(padding, dict) else None)
    said = config.get("pad_token_id")
    pad = tokenizer.token_to_id(token) if isinstance(token, str) else said
    if type(pad) is not int or pad < 0:
        detail = "neither tokenizer_config.json nor config.json says which token is padding"
        raise refusal(InvalidData, detail, "Set pad_token there, and pad_token_id here.")
    if config.get("pad_token_id", pad) != pad:
        detail = (
            f"the tokenizer pads with {shown(token)}, number {pad}, and config.json says pad_token_id {said}"
        )
        raise refusal(ShapeMismatch, detail, _FIX)
    return pad


def _vocabulary(config: Json, tensors: Mapping[str, Tensor], tokenizer: "Tokenizer") -> int:
    """How many rows the embedding has; each id of the tokenizer finds one."""
    rows = config.get("vocab_size")
    if type(rows) is not int or rows < 2:
        raise refusal(InvalidData, f"config.json says vocab_size {shown(rows)}", _FIX)
    for name, tensor in tensors.items():
        if _EMBEDDINGS.fullmatch(name) and tensor.shape[:1] != (rows,):
            detail = f"{name} has the shape {list(tensor.shape)}, and config.json says vocab_size {rows}"
            raise refusal(ShapeMismatch, detail, _FIX)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= rows:
        detail = f"the tokenizer has a token of number {largest}, and the model embeds {rows} from 0 on"
        raise refusal(ShapeMismatch, detail, _FIX)
    return rows


def _limit(config: Json, said: Json, tensors: Mapping[str, Tensor], pad: int) -> int:
    """Tokens that the model can read at most."""
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    rows = {
        tensor.shape[0] for name, tensor in tensors.items() if _POSITIONS.fullmatch(name) and tensor.shape
    }
    if type(positions) is int and rows - {positions}:
        detail = f"the weights hold {min(rows)} positions, and config.json says {positions}"
        raise refusal(ShapeMismatch, detail, _FIX)
    limits = [LONGEST]
    if type(positions) is int:
        limits.append(positions - (pad + 1 if config["model_type"] in _FROM_PADDING else 0))
    longest = said.get("model_max_length")
    if isinstance(longest, int | float) and not isinstance(longest, bool):
        limits.append(int(min(longest, LONGEST)))
    if min(limits) < SHORTEST:
        detail = f"the model reads texts of at most {min(limits)} tokens"
        raise refusal(ShapeMismatch, detail, f"At least {SHORTEST} are needed; see max_position_embeddings.")
    return min(limits)


def _cut(said: Json) -> str:
    side = said.get("truncation_side", "right")
    if side not in ("right", "left"):
        raise refusal(InvalidData, f"truncation_side is {shown(side)}", "Use right or left.")
    return str(side)


def _try(tokenizer: "Tokenizer", pad: int) -> None:
    """Texts of every kind are read, in time, and none becomes padding."""
    started = time.process_time()
    around = tokenizer.num_special_tokens_to_add(is_pair=False)
    if around > MAX_AROUND:
        detail = f"the tokenizer puts {around} special tokens around a text"
        raise refusal(InvalidData, detail, f"At most {MAX_AROUND} are read.")
    for probe in PROBES:
        with refusing(refusal(InvalidData, f"the tokenizer fails on the text {shown(probe, 20)}", SLOW)):
            ids = tokenizer.encode(probe).ids
        if pad in ids:
            detail = f"the tokenizer makes padding, number {pad}, of the text {shown(probe, 20)}"
            raise refusal(InvalidData, detail, "Give padding a token of its own.")
        if time.process_time() - started > PROBES_S:
            raise refusal(UnsafeFormat, f"{TOKENIZER} takes very long to read a text", SLOW)
