"""What the engine does, told to what people watch their services with: OpenTelemetry, Prometheus and others.

All of them are observers, for ``Engine(observers=...)`` and ``Study(observers=...)``. Nothing here is imported unless
it is asked for by name.
"""

from asyncopt.telemetry.named import observing
from asyncopt.telemetry.otel import OpenTelemetry
from asyncopt.telemetry.prometheus import Prometheus

__all__ = ["OpenTelemetry", "Prometheus", "observing"]
