"""Datasets: uploaded once, checked row by row, immutable from then on."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api import source_orders, uploads
from app.api.dependencies import PartsDep, PrincipalDep, ReadSession, WriteSession
from app.api.jobs import IdempotencyKey
from app.api.pages import After, Limit, Page, cut, read_cursor, write_cursor
from app.api.source_orders import ImportView, accept, names_a_source
from app.api.uploads import Form, Received, receive
from app.catalog.spec import NAME, Name
from app.db.tables import Dataset
from app.intake.profile import SPLITS, Profile, Split
from app.ports.parts import Parts
from app.services import dataset_rows, datasets
from app.services.datasets import Order, UploadedFile
from app.services.sources import DatasetOrder

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

Version = Annotated[int, Path(ge=1, lt=10**9)]

_FORM = Form(
    files={
        "file": "Parquet, CSV, JSON Lines, or a zip of images as class/image or split/class/image",
        **{split: f"the rows of the split {split}, instead of `file`" for split in SPLITS},
    },
    texts={
        "name": "the dataset that this becomes a version of",
        "label": "column with the class; left out: label, labels, target, class or y; empty: none",
        "splits": 'divides `file`, each class alike, by content: {"train": 0.8, "test": 0.2}',
        "seed": "of that division; 0 when left out",
    },
    required=("name",),
    repeatable=frozenset({"file", *SPLITS}),
)


class SplitView(BaseModel):
    split: Split
    rows: int
    size: int = Field(description="bytes of its Parquet file")
    sha256: str


class DatasetView(BaseModel):
    """A version, without its profile."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "dataset", "id": "ds_01kavq3x7m9s6w2h8c4d5e6f7g", "name": "digits", "version": 2,
                "reference": "dataset:digits@2", "digest": "9f2c" + "0" * 60, "label": "label", "rows": 1797,
                "splits": [{"split": "train", "rows": 1797, "size": 127299, "sha256": "51ab" + "0" * 60}],
                "size": 127299, "source": None, "created_at": "2026-11-21T09:30:00Z",
            }
        }
    )  # fmt: skip

    object: Literal["dataset"] = "dataset"
    id: str
    name: str
    version: int
    reference: str = Field(description="what a job spec names it by; add #SPLIT for one of its splits")
    digest: str = Field(description="sha256 of the content")
    label: str | None = Field(description="the column with the class; null: there is none")
    rows: int
    size: int = Field(description="bytes of all splits")
    splits: list[SplitView]
    source: str | None = Field(description="where it was fetched from, pinned; null: it was uploaded")
    created_at: datetime

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        return cls.model_validate(_shown(dataset))


class ProfiledDatasetView(DatasetView):
    """A version with what is known of its content."""

    profile: Profile

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        return cls.model_validate({**_shown(dataset), "profile": dataset.profile})


class RowView(BaseModel):
    row: int = Field(description="counted from 1 within the split")
    values: dict[str, Any] = Field(
        description="by column; an image as {media_type, size, base64}, base64 null where it is too large"
    )


@router.post(
    "",
    status_code=201,
    response_model=ProfiledDatasetView,
    openapi_extra=source_orders.openapi(_FORM, DatasetOrder),
    responses={
        200: {"model": ProfiledDatasetView},
        202: {"model": ImportView, "description": "It is fetched"},
    },
)
async def upload_dataset(
    request: Request,
    response: Response,
    parts: PartsDep,
    principal: PrincipalDep,
    idempotency_key: IdempotencyKey = None,
) -> ProfiledDatasetView | Response:
    """Uploads a version of a dataset; content that this name has already is answered with 200.

    Rows that cannot be used are left out; `profile` names them with their reasons. A split may come in
    several files, each under the same field. A JSON body names a source to fetch the files from,
    hf:ORG/REPO@REVISION or s3://CONNECTION/KEY: 202, and where the import is to be followed. Idempotency-Key
    counts for this.
    """
    if names_a_source(request):
        return await accept(request, DatasetOrder, parts, principal.project_id, idempotency_key)
    async with receive(request, _FORM, parts.settings) as form:
        view, new = await uploads.take_in(request, partial(_upload, parts, principal.project_id, form))
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/datasets/{view.name}/versions/{view.version}"
    return view


@router.get("")
def list_datasets(
    session: ReadSession, principal: PrincipalDep, after: After = None, limit: Limit = 50
) -> Page[DatasetView]:
    """Every dataset with its newest version, by name."""
    rows = datasets.list_(session, principal.project_id, after=read_cursor(after, NAME), limit=limit + 1)
    return _page(rows, limit, "name")


@router.get("/{name}")
def list_versions(
    name: Name, session: ReadSession, principal: PrincipalDep, after: After = None, limit: Limit = 50
) -> Page[DatasetView]:
    """The versions of a dataset, newest first."""
    mark = read_cursor(after, r"[0-9]{1,9}")
    before = int(mark) if mark else None
    rows = datasets.versions(session, principal.project_id, name, before=before, limit=limit + 1)
    return _page(rows, limit, "version")


@router.get("/{name}/versions/{version}")
def get_version(
    name: Name, version: Version, session: ReadSession, principal: PrincipalDep
) -> ProfiledDatasetView:
    """A version with its profile."""
    return ProfiledDatasetView.of(datasets.get(session, principal.project_id, name, version))


@router.get("/{name}/versions/{version}/rows")
def list_rows(
    name: Name, version: Version, parts: PartsDep, principal: PrincipalDep,
    split: Annotated[Split | None, Query(description="left out: the first that there is")] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=dataset_rows.MAX_LIMIT, description="most rows of this page")] = 20,
) -> Page[RowView]:  # fmt: skip
    """A page of rows as they are stored. A page of large images ends early."""
    start = int(read_cursor(after, r"[0-9]{1,12}") or 0)
    with parts.sessions.read() as session:
        dataset = datasets.get(session, principal.project_id, name, version)
    rows, more = dataset_rows.page(parts.blobs, datasets.file_of(dataset, split), start, limit)
    views = [RowView(row=number, values=values) for number, values in enumerate(rows, start=start + 1)]
    return Page(data=views, has_more=more, next=write_cursor(views[-1].row) if more else None)


@router.delete("/{name}/versions/{version}", status_code=204)
def delete_version(name: Name, version: Version, session: WriteSession, principal: PrincipalDep) -> None:
    """Deletes a version that no job used."""
    datasets.delete(session, principal.project_id, name, version)


def _upload(parts: Parts, project_id: str, form: Received) -> tuple[ProfiledDatasetView, bool]:
    """The version, and whether it is new."""
    order, out = uploads.parse_texts(Order, form, "splits"), form.folder / "out"
    out.mkdir()
    files = [UploadedFile(file.field, file.name, file.path) for file in form.files]
    dataset, new = datasets.take_in(parts, project_id, order, files, out)
    return ProfiledDatasetView.of(dataset), new


def _page(rows: Sequence[Dataset], limit: int, mark: Literal["name", "version"]) -> Page[DatasetView]:
    shown, more, token = cut(rows, limit, lambda dataset: getattr(dataset, mark))
    return Page(data=[DatasetView.of(dataset) for dataset in shown], has_more=more, next=token)


def _shown(dataset: Dataset) -> dict[str, Any]:
    columns = ("id", "name", "version", "digest", "rows", "size", "source", "created_at")
    return {
        **{column: getattr(dataset, column) for column in columns},
        "reference": f"dataset:{dataset.name}@{dataset.version}",
        "label": dataset.profile["label"],
        "splits": [{"split": split, **dataset.files[split]} for split in SPLITS if split in dataset.files],
    }
