"""Predictions. Little stands between a request and its student: a few checks, and one thread for all."""

import os
import time
from collections.abc import Callable
from functools import partial

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from app.api import prediction_orders as orders
from app.api.dependencies import PartsDep, PrincipalDep
from app.api.prediction_orders import ANSWERS, Order, described
from app.api.uploads import receive
from app.errors import Overloaded, UnsupportedMediaType, shown
from app.ports.parts import Parts
from app.services import predictions
from app.services.meter import Meter

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
    work = partial(_answer, parts, request.app.state.meter, project_id)
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


def _answer(parts: Parts, meter: Meter, project_id: str, read: Callable[[], Order]) -> JSONResponse:
    started = time.perf_counter()
    order = read()
    with parts.sessions.read() as session:
        student = predictions.find(session, project_id, order.model)
    answers = predictions.answer(student, parts.predictor, order.rows, top_k=order.top_k, where=order.where)
    meter.count_prediction(project_id, len(answers))
    latency_ms = round((time.perf_counter() - started) * 1000, 3)
    usage = {"rows": len(answers), "latency_ms": latency_ms}
    return JSONResponse({"model": student.name, "predictions": answers, "usage": usage})
