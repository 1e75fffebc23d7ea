"""Predictions. Little stands between a request and its student: a few checks, and one thread for all."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import State

from app.api import prediction_orders as orders
from app.api.dependencies import PartsDep, PrincipalDep
from app.api.prediction_orders import ANSWERS, Order, described
from app.api.uploads import receive
from app.errors import Overloaded, UnsupportedMediaType, shown
from app.ports.parts import Parts
from app.ports.predictor import Answering
from app.services import predictions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

router = APIRouter(tags=["predictions"])
scope = "predict"

IN_PARALLEL = max(4, os.cpu_count() or 1)  # requests in threads; more would only fight over the cores
MAX_WAITING = 64  # requests in line behind them
_HOW = "Send application/json, one image as image/png or the like, or images as multipart/form-data."


@router.post("/predict", openapi_extra=described(named_in_path=False), responses=ANSWERS)
async def predict(request: Request, parts: PartsDep, principal: PrincipalDep) -> JSONResponse:
    """Asks a student: rows of a table, texts, or images as base64, as files of a form, or one as the body."""
    return await _predict(request, parts, principal.project_id, None)


@router.post("/v1/models/{reference}/predict", openapi_extra=described(named_in_path=True), responses=ANSWERS)
async def predict_with(
    reference: str, request: Request, parts: PartsDep, principal: PrincipalDep
) -> JSONResponse:
    """As /predict, the student named in the path by NAME, NAME@VERSION or NAME@ALIAS."""
    return await _predict(request, parts, principal.project_id, reference)


async def _predict(request: Request, parts: Parts, project_id: str, reference: str | None) -> JSONResponse:
    run = partial(to_thread.run_sync, limiter=_lane(request))
    work = partial(_answer, request.app.state, project_id)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        return await run(work, partial(orders.of_json, await request.body(), reference))
    if media_type.startswith("image/"):
        return await run(
            work, partial(orders.of_image, await request.body(), request.query_params, reference)
        )
    if media_type == "multipart/form-data":
        form = orders.form(named_in_path=reference is not None)
        async with receive(request, form, parts.settings, parts.settings.max_json_bytes) as received:
            return await run(work, partial(orders.of_form, received, reference))
    raise UnsupportedMediaType(f"{shown(media_type)} is not understood here. {_HOW}")


def _lane(request: Request) -> CapacityLimiter:
    """The threads of predictions, apart from those of other requests. Raises Overloaded if many wait."""
    state = request.app.state
    if not hasattr(state, "predict_lane"):
        state.predict_lane = CapacityLimiter(IN_PARALLEL)
    lane: CapacityLimiter = state.predict_lane
    if lane.statistics().tasks_waiting >= MAX_WAITING:
        raise Overloaded("Too many predictions are waiting; try again in a second.", retry_after_s=1)
    return lane


def _answer(state: State, project_id: str, read: Callable[[], Order]) -> JSONResponse:
    """state: the application's."""
    started = time.perf_counter()
    order, predictor = read(), _Timed(state.parts.predictor)
    with state.parts.sessions.read() as session:
        student = predictions.find(session, project_id, order.model)
    answers = predictions.answer(student, predictor, order.rows, top_k=order.top_k, where=order.where)
    state.meter.count_prediction(project_id, len(answers))
    seconds = time.perf_counter() - started
    state.telemetry.predicted(student.version_id, seconds, predictor.seconds)
    usage = {"rows": len(answers), "latency_ms": round(seconds * 1000, 3)}
    return JSONResponse({"model": student.name, "predictions": answers, "usage": usage})


class _Timed:
    """Adds up what the predictor takes for one request."""

    def __init__(self, predictor: Answering) -> None:
        self._predictor, self.seconds = predictor, 0.0
        self.opened = predictor.opened

    def logits(self, sha256: str, inputs: "NDArray[Any]") -> "NDArray[np.float32]":
        started = time.perf_counter()
        try:
            return self._predictor.logits(sha256, inputs)
        finally:
            self.seconds += time.perf_counter() - started
