"""What becomes of a request that was let through: its answer or its fault, and when that comes."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from asyncopt import codec
from asyncopt.errors import ConfigError
from asyncopt.testing.abilities import Abilities
from asyncopt.testing.answers import AnswerModel
from asyncopt.testing.failures import ERRORS, LOST, altered, error_body, spoilt
from asyncopt.testing.faults import SLOW_FACTOR, FaultPlan, Kind
from asyncopt.testing.latency import Latency
from asyncopt.testing.ledger import Entry
from asyncopt.testing.streaming import Piece, schedule
from asyncopt.testing.wire import BadRequest, ChatRequest, Shape
from asyncopt.testing.writer import Writer


@dataclass(frozen=True, slots=True)
class Result:
    """A status and a body that are sent ``delay`` seconds after the arrival; a streamed body comes in ``pieces``."""

    status: int
    body: bytes
    delay: float = 0.0
    pieces: tuple[Piece, ...] = ()

    @property
    def head_delay(self) -> float:
        """The seconds until the headers are sent."""
        return self.pieces[0].after if self.pieces else self.delay


class Worker:
    """The model behind a server, with its latency, its places and its faults. The options are ``SimulatedAPI``'s."""

    def __init__(
        self,
        *,
        seed: int,
        answers: AnswerModel,
        latency: Latency,
        concurrency: int | None,
        first_byte_share: float,
        slow_wrong: float,
        faults: FaultPlan | None,
        abilities: Abilities,
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise ConfigError(f"the concurrency is {concurrency}; it must be at least 1, or None for no bound")
        if not 0 <= first_byte_share <= 1:
            raise ConfigError(f"the first byte's share of the latency is {first_byte_share!r}; it must be in [0, 1]")
        if not 0 <= slow_wrong < math.inf:
            raise ConfigError(f"the factor of wrong answers is {slow_wrong!r}; it must be a number of at least 0")
        self.identity = f"simulated:{answers.seed}:{answers.fingerprint}"
        self._seed = seed
        self.abilities = abilities
        self.writer = Writer(answers, self.identity)
        self._latency = latency
        self._free_at = [-math.inf] * (concurrency or 0)
        self._first_byte_share = first_byte_share
        self._slow_wrong = slow_wrong
        self.faults = faults

    def result(self, entry: Entry, request: ChatRequest, shape: Shape) -> Result:
        """What the request gets; its tokens and its fault are noted in the entry."""
        entry.fault = fault = self.faults.fault(entry.number) if self.faults is not None else None
        if fault is not None and fault in ERRORS:
            return self._failed(entry, shape, fault)
        return self._answered(entry, request, shape, fault)

    def _answered(self, entry: Entry, request: ChatRequest, shape: Shape, fault: Kind | None) -> Result:
        try:
            answer, wrong = self.writer.write(entry.number, request)
        except BadRequest as error:
            return Result(400, codec.dumps(shape.error(400, str(error))))
        factor = self._slow_wrong if wrong else 1.0
        usual = self._latency.seconds(self._seed, entry.number) * factor
        latency = usual * SLOW_FACTOR if fault == "slow" else usual
        waited = self._wait(entry.arrived, latency)
        answer = altered(fault, answer)
        if fault in LOST:
            self.writer.take_back(request)
        else:
            entry.answer = answer.text
        if not request.stream or fault not in (None, "slow"):
            entry.output_tokens = 0 if fault in LOST else answer.output_tokens
            return Result(200, spoilt(fault, shape.whole(answer)), waited + latency)
        usual -= self._latency.tail(self._seed, entry.number) * factor
        first = waited + latency - (1 - self._first_byte_share) * usual
        return Result(200, b"", waited + latency, schedule(shape, answer, first, waited + latency))

    def _failed(self, entry: Entry, shape: Shape, fault: Kind) -> Result:
        error = ERRORS[fault]
        if error.at_once:
            return Result(error.status, error_body(fault, shape))
        latency = self._latency.seconds(self._seed, entry.number)
        delay = self._wait(entry.arrived, latency) + latency
        return Result(error.status, error_body(fault, shape), delay)

    def _wait(self, now: float, latency: float) -> float:
        """Seconds until one of the places is free, which the request then takes for its latency."""
        if not self._free_at:
            return 0.0
        start = max(now, self._free_at[0])
        heapq.heapreplace(self._free_at, start + latency)
        return start - now
