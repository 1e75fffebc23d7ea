"""`python -m examples.text FOLDER` writes teacher.zip, a BERT, and tables of texts for its students.

The texts are the documentation strings of Python's standard library, the subjects what its modules are about.
The teacher, made here from nothing, learned one half of them; of the other half few have a label.
"""

import ast
import csv
import sysconfig
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from examples.folder import folder_argument

SUBJECTS = {
    "concurrency": "asyncio concurrent multiprocessing queue sched selectors subprocess threading",
    "files": "fileinput filecmp gzip io _pyio os pathlib shutil tarfile tempfile zipfile zipimport",
    "internet": "email ftplib http imaplib ipaddress poplib smtplib socket socketserver ssl urllib xmlrpc",
    "numbers": "_pydecimal calendar datetime _pydatetime fractions numbers random statistics",
    "python": "ast bdb cmd code dis doctest importlib inspect pdb pydoc tokenize trace typing unittest",
}
LABELED, TESTED = 200, 400
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def docstrings() -> list[tuple[str, str]]:
    """(text, subject), each text once, in an order of chance that is always the same."""
    library = Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    for subject, names in SUBJECTS.items():
        for name in names.split():
            for path in sorted([*library.glob(f"{name}.py"), *library.glob(f"{name}/**/*.py")]):
                if "test" not in path.relative_to(library).parts:
                    found |= dict.fromkeys(_documentation(path), subject)
    rows = sorted(found.items())
    return [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]


def tokenizer(texts: Iterable[str], words: int) -> Tokenizer:
    """WordPiece, as BERT has it, learned from these texts."""
    made = Tokenizer(models.WordPiece(unk_token=SPECIAL[1]))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=words, special_tokens=list(SPECIAL), show_progress=False)
    made.train_from_iterator(texts, trainer)
    around = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return made


def write_teacher(
    folder: Path, rows: Sequence[tuple[str, str]], *, words: int = 4000, tokens: int = 48, width: int = 128,
    layers: int = 2, epochs: int = 6,
) -> None:  # fmt: skip
    """A BERT that learned these rows, with its tokenizer, as save_pretrained writes both."""
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    texts, subjects = zip(*rows, strict=True)
    reads = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer(texts, words), model_max_length=tokens,
        **{f"{name.strip('[]').lower()}_token": name for name in SPECIAL},
    )  # fmt: skip
    labels = sorted(set(subjects))
    config = BertConfig(
        vocab_size=len(reads), hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=max(width // 64, 2), intermediate_size=4 * width, max_position_embeddings=tokens,
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    batch = reads(list(texts), padding=True, truncation=True, return_tensors="pt")
    targets = torch.tensor([labels.index(subject) for subject in subjects])
    _learn(model, batch["input_ids"], batch["attention_mask"], targets, epochs)
    model.save_pretrained(folder)
    reads.save_pretrained(folder)


def main() -> None:
    write(folder_argument("examples.text", __doc__, "data/text"))


def write(folder: Path, epochs: int = 6) -> None:
    """epochs: of the teacher."""
    rows = docstrings()
    half = len(rows) // 2
    _write(folder / "train.csv", rows[half : half + LABELED])
    _write(folder / "unlabeled.csv", [(text, "") for text, _ in rows[half + LABELED : -TESTED]])
    _write(folder / "test.csv", rows[-TESTED:])
    with TemporaryDirectory() as made, zipfile.ZipFile(folder / "teacher.zip", "w") as packed:
        write_teacher(Path(made), rows[:half], epochs=epochs)
        for path in sorted(Path(made).iterdir()):
            packed.write(path, path.name)


def _write(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "subject"])
        writer.writerows(rows)


def _documentation(path: Path) -> Iterable[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    nodes = (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, kinds))
    texts = (ast.get_docstring(node) for node in nodes)
    return [text for text in texts if text and len(text) >= 20]


def _learn(
    model: nn.Module, ids: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor, epochs: int
) -> None:
    """Texts of about one length stand in a batch together, so that little is computed for padding."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    batches = torch.arange(len(ids))[mask.sum(1).argsort()].split(32)  # type: ignore[no-untyped-call]
    model.train()
    for epoch in range(epochs):
        for turn in np.random.default_rng(epoch).permutation(len(batches)):
            rows = batches[turn]
            used = int(mask[rows].sum(1).max())
            optimizer.zero_grad()
            model(
                input_ids=ids[rows, :used], attention_mask=mask[rows, :used], labels=targets[rows]
            ).loss.backward()
            optimizer.step()
    model.eval()


if __name__ == "__main__":
    main()
