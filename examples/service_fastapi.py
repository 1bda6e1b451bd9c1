"""Studies inside a FastAPI service: one engine for all of them, progress by Server-Sent Events.

Install ``fastapi`` and ``uvicorn``, start it with ``uvicorn --app-dir examples service_fastapi:app``, and ask it with::

    curl -N http://127.0.0.1:8000/improve -H 'Content-Type: application/json' \\
        -d '{"instruction": "Answer.", "examples": [["2+2", "4"], ["3+4", "7"]]}'

When the client goes away, its study is cancelled. The model is a simulated one; ``lifespan`` is the place for yours.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from asyncopt import OPRO, AsyncoptError, Budget, Engine, Example, Quota, Study, Task
from asyncopt.events import StepFinished, StudyFinished
from asyncopt.testing import Constant, SimulatedAPI


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The engine lives as long as the service does, in the service's own loop."""
    async with Engine() as engine:
        endpoint = SimulatedAPI(latency=Constant(0.02)).endpoint()
        app.state.model = engine.model("simulated", endpoint=endpoint, quota=Quota(concurrency=32))
        yield


app = FastAPI(lifespan=lifespan)


class Wanted(BaseModel):
    """What a request asks for: a better instruction for these pairs of an input and its answer."""

    instruction: str
    examples: list[tuple[str, str]] = Field(min_length=2)


@app.post("/improve")
async def improve(wanted: Wanted, request: Request) -> StreamingResponse:
    """Runs one study and tells how it goes."""
    model = request.app.state.model
    examples = [Example(number, *pair) for number, pair in enumerate(wanted.examples)]
    half = len(examples) // 2
    train, test = tuple(examples[:half]), tuple(examples[half:])
    task = Task("request", "text", train=train, test=test, initial=(wanted.instruction,))
    optimizer, budget = OPRO(steps=5, samples_per_step=4), Budget(calls=2000)
    study = Study(task=task, optimizer=optimizer, scorer=model, proposer=model, budget=budget)
    return StreamingResponse(progress(study), media_type="text/event-stream")


async def progress(study: Study) -> AsyncIterator[str]:
    """The study as Server-Sent Events."""
    try:
        # Closing the iterator cancels the study, whatever ends this response.
        async with aclosing(study.events()) as events:
            async for event in events:
                match event:
                    case StepFinished(step=step, best=best, best_score=score):
                        yield sse("step", {"step": step + 1, "best": best, "score": score})
                    case StudyFinished(result=result):
                        yield sse("result", {"best": result["best"], "calls": result["calls"]})
    except AsyncoptError as error:
        yield sse("error", {"error": str(error)})


def sse(kind: str, data: dict[str, object]) -> str:
    """One Server-Sent Event; JSON has no line breaks of its own, so no text of a model can begin another event."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
