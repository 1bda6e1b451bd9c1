"""Studies inside an aiohttp service: one engine for all of them, progress by Server-Sent Events.

Start it with ``python examples/service.py`` and ask it with::

    curl -N http://127.0.0.1:8000/improve -d '{"instruction": "Answer.", "examples": [["2+2", "4"], ["3+4", "7"]]}'

When the client goes away, its study is cancelled. The model is a simulated one; ``model_of`` is the place for yours.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from asyncopt import OPRO, AsyncoptError, Budget, Engine, Example, Model, Quota, Study, Task
from asyncopt.events import CandidateScored, StepFinished, StudyFinished
from asyncopt.testing import Constant, SimulatedAPI

MODEL = web.AppKey("model", Model)
RUNNING = web.AppKey("running", set[Study])


def model_of(engine: Engine) -> Model:
    """The model that all studies share, and with it its quota and its answers.

    A real one: ``engine.model("openai/gpt-4o-mini", api_key=os.environ["OPENAI_API_KEY"])``.
    """
    api = SimulatedAPI(latency=Constant(0.02))
    return engine.model("simulated", endpoint=api.endpoint(), quota=Quota(concurrency=32))


async def engine_of_the_service(app: web.Application) -> AsyncIterator[None]:
    """The engine lives as long as the service does, in the service's own loop."""
    async with Engine() as engine:
        app[MODEL] = model_of(engine)
        app[RUNNING] = set()
        yield


def is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def study_of(body: Any, model: Model) -> Study:
    """The study that a request asks for; raises ``ValueError`` for a body that asks for none."""
    match body:
        case {"instruction": str(instruction), "examples": [_, _, *_] as pairs} if all(map(is_pair, pairs)):
            examples = [Example(number, str(given), str(wanted)) for number, (given, wanted) in enumerate(pairs)]
        case _:
            raise ValueError('wanted {"instruction": "...", "examples": [["input", "target"], two or more]}')
    half = len(examples) // 2
    task = Task("request", "text", train=tuple(examples[:half]), test=tuple(examples[half:]), initial=(instruction,))
    optimizer = OPRO(steps=5, samples_per_step=4)
    return Study(task=task, optimizer=optimizer, scorer=model, proposer=model, budget=Budget(calls=2000))


async def improve(request: web.Request) -> web.StreamResponse:
    """Runs one study and tells how it goes."""
    try:
        study = study_of(await request.json(), request.app[MODEL])
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    request.app[RUNNING].add(study)
    try:
        # Closing the iterator cancels the study, whatever ends this handler.
        async with aclosing(study.events()) as events:
            async for event in events:
                if (line := told(event)) is not None:
                    await response.write(line)
    except AsyncoptError as error:
        await response.write(sse("error", {"error": str(error)}))
    finally:
        request.app[RUNNING].discard(study)
    return response


def told(event: object) -> bytes | None:
    """What the client is told of an event, if anything."""
    match event:
        case CandidateScored(candidate=text, score=score):
            return sse("candidate", {"text": text, "score": score})
        case StepFinished(step=step, steps=steps, best=best, best_score=score):
            return sse("step", {"step": step + 1, "steps": steps, "best": best, "score": score})
        case StudyFinished(result=result):
            return sse("result", {"best": result["best"], "calls": result["calls"]})
    return None


def sse(kind: str, data: dict[str, Any]) -> bytes:
    """One Server-Sent Event; JSON has no line breaks of its own, so no text of a model can begin another event."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


async def running(request: web.Request) -> web.Response:
    """How many studies are running."""
    return web.json_response({"running": len(request.app[RUNNING])})


def application() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(engine_of_the_service)
    app.add_routes([web.post("/improve", improve), web.get("/running", running)])
    return app


if __name__ == "__main__":
    # aiohttp does not cancel the handler of a client that has gone away unless it is told to.
    web.run_app(application(), host="127.0.0.1", port=8000, handler_cancellation=True)
