"""Every knob with its default. Built once at the door and handed in, never a global."""

import json
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024**2
GIB = 1024**3
CONNECTION = "[a-z][a-z0-9_-]{0,63}"  # a connection's name


class Connection(BaseModel):
    """A bucket from which data and models may be imported. The keys stand in the variables that are named
    here; without them requests are not signed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    bucket: str
    prefix: str = ""
    endpoint: str | None = None  # None: Amazon's
    region: str = "us-east-1"
    access_key_env: str | None = None
    secret_key_env: str | None = None


_RATE = r"^([1-9][0-9]{0,8}/(second|minute|hour|day))?$"

_OURS_ALONE = ("STILLHOUSE_BOOTSTRAP_KEY", "STILLHOUSE_HUB_TOKEN")  # in capitals or not
_NO_SETTINGS = {"STILLHOUSE_FAILPOINT", "STILLHOUSE_FAILPOINT_ONCE", "STILLHOUSE_KEY"}  # read elsewhere


class Settings(BaseSettings):
    """Read from the environment, each with the prefix STILLHOUSE_."""

    model_config = SettingsConfigDict(
        env_prefix="STILLHOUSE_", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    database_url: str = Field(
        "sqlite:///data/stillhouse.db", description="sqlite:///PATH or postgresql+psycopg://..."
    )
    blobs_url: str = Field(
        "file://data/blobs", description="file://PATH or s3://BUCKET/PREFIX (keys: AWS_* variables)"
    )
    queue_url: str = Field(
        "local://", description="local:// (a thread in the API process) or redis://... (Celery)"
    )
    work_dir: Path = Field(Path("data/work"), description="scratch space of jobs, uploads and served models")

    host: str = Field("127.0.0.1", description="address to listen on; any but loopback needs a key")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="0 takes a free port")
    bootstrap_key: SecretStr | None = Field(
        None, description="the first API key, sh_ID_SECRET; turns keys on"
    )
    log_format: str = Field("console", pattern="^(console|json)$", description="console or json")

    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="where a Celery worker tells Prometheus how it does, and /healthz; 0: nowhere"
    )
    metrics_host: str = Field("127.0.0.1", description="address of that port, which needs no key")
    trace_predictions: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="share of predictions that are traced, where OTEL_EXPORTER_OTLP_ENDPOINT is set"
    )

    slots: PositiveInt | None = Field(
        None, description="jobs that one worker process runs at once; unset: one a GPU, or one"
    )
    accelerators: tuple[Literal["cpu", "cuda"], ...] = Field(
        (), description='what this worker offers, as JSON: ["cpu", "cuda"]; empty: what it finds'
    )
    devices: tuple[str, ...] | None = Field(
        None, description='its GPUs, as JSON: ["0", "1"]; unset: CUDA_VISIBLE_DEVICES, or all that there are'
    )
    threads: PositiveInt = Field(os.cpu_count() or 1, description="CPU threads of one training process")
    lease_s: PositiveFloat = Field(
        60.0, description="seconds after which a silent worker's job is taken over"
    )
    poll_s: PositiveFloat = Field(2.0, description="seconds between two looks for work that nobody rang for")
    max_no_progress: PositiveInt = Field(
        3, description="attempts without progress before a job counts as poison"
    )
    checkpoint_s: Annotated[float, Field(ge=0)] = Field(
        10.0, description="least seconds between two checkpoints; more where saving is slow"
    )

    max_connections: PositiveInt = Field(1000, description="connections at once; more are told to come again")
    max_header_bytes: PositiveInt = Field(32 * 1024, description="largest request line with all its headers")
    max_headers: PositiveInt = Field(100, description="most headers of a request")
    header_s: PositiveFloat = Field(
        10.0, description="seconds in which a request's headers must have come whole"
    )
    body_s: PositiveFloat = Field(
        20.0, description="seconds over which the pace of a body, or of a client that reads, is measured"
    )
    min_body_rate: PositiveInt = Field(
        4096, description="least bytes a second of a body, over each stretch of body_s"
    )

    max_json_bytes: PositiveInt = Field(32 * MIB, description="largest JSON or image body")
    max_waiting_bytes: PositiveInt = Field(
        256 * MIB, description="memory for all JSON and image bodies at once; more are told to come again"
    )
    max_upload_bytes: PositiveInt = Field(4 * GIB, description="largest upload, before and after unpacking")
    max_archive_entries: PositiveInt = Field(200_000, description="most files in an archive")
    max_archive_ratio: PositiveInt = Field(200, description="most bytes that one archived byte may become")
    max_pixels: PositiveInt = Field(64_000_000, description="most pixels of one image")
    max_intake_s: PositiveFloat = Field(600.0, description="seconds that the profiling of an upload may take")
    max_intake_bytes: PositiveInt = Field(
        4 * GIB, description="memory that the profiling of an upload may take"
    )
    max_parameters: PositiveInt = Field(2_000_000_000, description="largest student, in parameters")

    rate_limit_requests: str = Field(
        "600/minute",
        pattern=_RATE,
        description="most requests of one key to one process, predictions apart; empty: no limit. "
        "While keys are off nothing is limited",
    )
    rate_limit_predictions: str = Field(
        "6000/minute", pattern=_RATE, description="the same, of predictions: NUMBER/second, minute, hour, day"
    )

    max_training_bytes: PositiveInt = Field(
        256 * GIB, description="most memory of one training, as it is estimated before it is accepted"
    )
    max_trainer_bytes: int | None = Field(
        None,
        ge=GIB,
        description="memory that each process of a job may take; more is refused, as on a full device. "
        "Unset: what the machine gives",
    )
    max_training_operations: PositiveFloat = Field(
        1e21,
        description="most operations of a job's trainings, as estimated; an A100 does as many in a month",
    )
    max_signal_bytes: PositiveInt = Field(
        256 * GIB, description="most that the stored answers of a job's teachers may take"
    )

    outgoing_allow: tuple[str, ...] = Field(
        (),
        description="what may be called though it is not public, or by http, as JSON: networks "
        "(10.1.0.0/16) and places (hooks.internal:8080)",
    )

    keep_answers_s: PositiveFloat = Field(
        30 * 86_400.0, description="seconds that a teacher's stored answers are kept for other jobs"
    )
    keep_checkpoints_s: PositiveFloat = Field(
        7 * 86_400.0, description="seconds that an ended job can be retried from its checkpoints"
    )
    keep_deliveries_s: PositiveFloat = Field(
        30 * 86_400.0, description="seconds that an ended delivery of a webhook is listed"
    )
    keep_imports_s: PositiveFloat = Field(
        30 * 86_400.0,
        description="seconds that an ended import is listed; longer while what it made is known by it",
    )

    hub_url: str = Field(
        "https://huggingface.co", description="the hub that sources `hf:ORG/REPO@REVISION` are fetched from"
    )
    hub_token: SecretStr | None = Field(
        None, description="sent to that hub, for what it does not show to all; every project imports with it"
    )
    connections: dict[str, Connection] = Field(
        {},
        description='buckets for sources `s3://NAME/KEY`, as JSON: {"lake": {"bucket": "b", "prefix": "p", '
        '"endpoint": "https://...", "region": "...", "access_key_env": "LAKE_KEY", "secret_key_env": ...}}',
    )
    source_request_s: PositiveFloat = Field(
        60.0, description="seconds that one request to a hub or a bucket may take; what came by then is kept"
    )
    max_import_s: PositiveFloat = Field(86_400.0, description="seconds after which an import is given up")

    serving_bytes: PositiveInt = Field(1 * GIB, description="memory for loaded students")
    serving_threads: PositiveInt = Field(os.cpu_count() or 1, description="CPU threads of one loaded student")

    @field_validator("outgoing_allow")
    @classmethod
    def _are_networks_or_places(cls, allowed: tuple[str, ...]) -> tuple[str, ...]:
        for text in allowed:
            if "/" in text:
                ip_network(text)
            elif not re.fullmatch(r"[a-z0-9.:_\[\]-]+:[0-9]{1,5}", text):
                raise ValueError("each is a network (10.1.0.0/16) or a place (hooks.internal:8080)")
        return allowed

    @field_validator("connections")
    @classmethod
    def _are_named_plainly(cls, connections: dict[str, Connection]) -> dict[str, Connection]:
        if not all(re.fullmatch(CONNECTION, name) for name in connections):
            raise ValueError("a connection's name is 1 to 64 of a-z, 0-9, '-' and '_', a letter first")
        return connections

    @property
    def embedded(self) -> bool:
        """Whether the API process supervises the jobs itself."""
        return self.queue_url.startswith("local:")

    def without_secrets(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Those that a child process is handed on: not the first key, and nothing that opens a hub or a
        bucket to import from. AWS_* opens our own store, which it needs."""
        named = {
            name
            for one in self.connections.values()
            for name in (one.access_key_env, one.secret_key_env)
            if name and not name.startswith("AWS_")
        }
        kept = {name: text for name, text in variables.items() if name not in named}
        return {name: text for name, text in kept.items() if name.upper() not in _OURS_ALONE}

    def environment(self) -> dict[str, str]:
        """The same settings as environment variables, for a child process, which needs no secrets."""
        values = self.model_dump(mode="json", exclude={"bootstrap_key", "hub_token"}, exclude_none=True)
        texts = {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()
        }
        return {f"STILLHOUSE_{name.upper()}": text for name, text in texts.items()}


def unknown_variables(variables: Mapping[str, str]) -> dict[str, str | None]:
    """Those with our prefix that set nothing, each with the one that may be meant."""
    known = {f"STILLHOUSE_{name.upper()}" for name in Settings.model_fields} | _NO_SETTINGS
    strange = {name: name.upper() for name in variables if name.upper().startswith("STILLHOUSE_")}
    return {
        name: next(iter(get_close_matches(capitals, known, n=1)), None)
        for name, capitals in strange.items()
        if capitals not in known
    }
