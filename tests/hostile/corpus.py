"""Files that attack the service, made afresh each time: none is stored."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.hostile import data, models, packed

LIMITS = {
    "max_upload_bytes": 40_000_000,
    "max_archive_entries": 1000,
    "max_pixels": 1_000_000,
    "max_intake_s": 20.0,
}


@dataclass(frozen=True)
class Attack:
    """What it is, where it is sent, as a file of which name."""

    kind: str
    name: str
    path: str
    filename: str
    content: bytes


def corpus() -> Iterator[Attack]:
    for kind, attacks in (
        ("archive", packed.archives()), ("tensors", models.tensors()), ("configuration",
        models.configurations()),
        ("vocabulary", models.vocabularies()), ("graph", models.graphs()),
    ):  # fmt: skip
        for name, content in attacks:
            is_graph = kind == "graph" or (
                not content.startswith((b"PK", b"\x1f\x8b")) and b"ustar" not in content[:300]
            )
            yield Attack(kind, name, "/v1/models", "model.onnx" if is_graph else "model.zip", content)
    for name, content in packed.archives():
        yield Attack("folders", name, "/v1/datasets", "images.zip", content)
    for name, content in data.tables():
        yield Attack("table", name, "/v1/datasets", name, content)
    for name, content in data.images():
        yield Attack("images", name, "/v1/datasets", "images.zip", content)
