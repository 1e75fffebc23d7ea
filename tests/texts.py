"""Real texts, tokenizers that learned from them, and small classifiers of transformers that read them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from examples.text import SUBJECTS, docstrings, tokenizer

LABELS = sorted(SUBJECTS)
WORDS, TOKENS = 1500, 32


@cache
def rows() -> list[tuple[str, str]]:
    """Documentation strings of Python, each with its subject."""
    return docstrings()


@cache
def wordpiece() -> str:
    """BERT's kind of tokenizer, as JSON."""
    return str(tokenizer([text for text, _ in rows()[:800]], WORDS).to_str())


@cache
def byte_level() -> str:
    """RoBERTa's kind of tokenizer, as JSON; padding is number 1."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=WORDS, special_tokens=special, show_progress=False)
    made.train_from_iterator([text for text, _ in rows()[:800]], trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return str(made.to_str())


def save_classifier(folder: Path, kind: str = "bert", **changes: Any) -> Path:
    """Untrained, with a tokenizer, as save_pretrained writes both; changes: of the config."""
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    roberta = kind in ("roberta", "mpnet")
    sizes: dict[str, Any] = {
        "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": TOKENS + 2 * roberta,
        "pad_token_id": int(roberta), "bos_token_id": 2, "eos_token_id": 3,
        "id2label": dict(enumerate(LABELS)),
    }  # fmt: skip
    if kind == "distilbert":
        own = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"}
        own["hidden_dim"] = "intermediate_size"
        sizes |= {name: sizes.pop(other) for name, other in own.items()}
    config = transformers.AutoConfig.for_model(kind, **sizes | changes)
    auto: Any = transformers.AutoModelForSequenceClassification
    auto.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(byte_level() if roberta else wordpiece())
    names = (
        ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
        if roberta
        else ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    )
    kinds = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": int(1e30)}
    (folder / "tokenizer_config.json").write_text(json.dumps(said | dict(zip(kinds, names, strict=True))))
    return folder
