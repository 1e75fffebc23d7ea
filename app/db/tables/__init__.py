"""The rows. Whoever wants to know the truth about a job, a model or a dataset reads it here."""

from app.db.tables.access import AuditEntry, ComputeUsage, Key, PredictionUsage, Project
from app.db.tables.base import Base, Json
from app.db.tables.outbox import Delivery, Outbox, ProjectEvent, Webhook
from app.db.tables.search import Sweep, SweepTrial
from app.db.tables.sources import Import
from app.db.tables.stock import Alias, Dataset, DatasetName, Model, ModelLayers, ModelVersion, Signals
from app.db.tables.upkeep import Chore, Condemned, Tally
from app.db.tables.work import (
    AttemptLog,
    Event,
    Idempotency,
    Job,
    JobCheckpoint,
    JobLabel,
    JobReference,
    MetricPoint,
)
from app.db.tables.workers import Worker

__all__ = [
    "Alias",
    "AttemptLog",
    "AuditEntry",
    "Base",
    "Chore",
    "ComputeUsage",
    "Condemned",
    "Dataset",
    "DatasetName",
    "Delivery",
    "Event",
    "Idempotency",
    "Import",
    "Job",
    "JobCheckpoint",
    "JobLabel",
    "JobReference",
    "Json",
    "Key",
    "MetricPoint",
    "Model",
    "ModelLayers",
    "ModelVersion",
    "Outbox",
    "PredictionUsage",
    "Project",
    "ProjectEvent",
    "Signals",
    "Sweep",
    "SweepTrial",
    "Tally",
    "Webhook",
    "Worker",
]
