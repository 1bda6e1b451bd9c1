"""Observers by name, for the command line and configuration files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from inspect import iscoroutinefunction
from typing import Any

from asyncopt.codec import printable
from asyncopt.errors import AsyncoptError, ConfigError
from asyncopt.events import Observer

_log = logging.getLogger("asyncopt")

_WANTED = "otel, prometheus, prometheus:PORT, wandb, mlflow, or package.module:name for one of your own"


@contextmanager
def observing(names: Iterable[str]) -> Iterator[list[Observer]]:
    """The observers with these names, open while the block runs; raises :class:`ConfigError` for what is none.

    ``package.module:name`` is an observer, or what makes one when it is called without arguments. What has a ``close``
    is closed at the end; where that fails, it is logged.
    """
    makers = [(name, maker_of(name)) for name in names]  # so that a wrong name opens none of the others
    with ExitStack() as stack:
        yield [_opened(name, make, stack) for name, make in makers]


def _opened(name: str, make: Callable[[], AbstractContextManager[Observer]], until: ExitStack) -> Observer:
    own = ExitStack()
    try:
        observer = own.enter_context(make())
    except AsyncoptError:
        raise
    except Exception as error:  # an observer of the user's own, or a tracker without its server, raises anything
        why = printable(f"{type(error).__name__}: {error}", 200)
        raise ConfigError(f"the observer {printable(name, 80)} cannot be started ({why})") from error
    until.callback(_close, name, own)
    return observer


def _close(name: str, own: ExitStack) -> None:
    try:
        own.close()
    except Exception as error:  # the run is over, and its result is worth more
        why = printable(f"{type(error).__name__}: {error}", 200)
        _log.warning("observer %s could not be closed (%s)", printable(name, 80), why)


def maker_of(name: str) -> Callable[[], AbstractContextManager[Observer]]:
    """What opens the observer of this name; raises :class:`ConfigError` for what cannot be one."""
    kind, colon, rest = name.partition(":")
    if kind == "prometheus" and (not colon or (rest.isdecimal() and 0 < int(rest) <= 65535)):
        return partial(_prometheus, int(rest) if rest else None)
    if not colon and name in _KNOWN:
        return _KNOWN[name]
    if colon and kind and rest and kind != "prometheus":
        return partial(_own, kind, rest)
    raise ConfigError(f"there is no observer {printable(name, 80)!r}; wanted {_WANTED}")


def _prometheus(port: int | None) -> AbstractContextManager[Observer]:
    from asyncopt.telemetry.prometheus import PORT, served

    return served(PORT if port is None else port)


def _otel() -> AbstractContextManager[Observer]:
    from asyncopt.telemetry.otel import OpenTelemetry

    observer = OpenTelemetry()
    _require_providers()
    return closing(observer)


def _require_providers() -> None:
    """On the command line nobody can set them later: what is asked for would silently go nowhere."""
    from opentelemetry.metrics import get_meter_provider
    from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

    metered = not type(get_meter_provider()).__module__.startswith("opentelemetry.metrics")
    if not metered and isinstance(get_tracer_provider(), ProxyTracerProvider):
        raise ConfigError(
            "nothing is set that takes what OpenTelemetry is told; pip install opentelemetry-distro and an exporter, "
            "and start with: opentelemetry-instrument asyncopt run ..."
        )


def _wandb() -> AbstractContextManager[Observer]:
    from asyncopt.telemetry.wandb import WandB

    return closing(WandB())


def _mlflow() -> AbstractContextManager[Observer]:
    from asyncopt.telemetry.mlflow import MLflow

    return closing(MLflow())


_KNOWN = {"otel": _otel, "wandb": _wandb, "mlflow": _mlflow}


def _own(module: str, name: str) -> AbstractContextManager[Any]:
    place = printable(f"{module}:{name}", 80)
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the observer {place} is not found ({printable(str(error), 120)}); is its folder on PYTHONPATH?"
        ) from None
    observer = found if hasattr(found, "notify") and not isinstance(found, type) else found()
    notify = getattr(observer, "notify", None)
    if not callable(notify) or iscoroutinefunction(notify):
        raise ConfigError(f"{place} is no observer; it needs a method notify(event), and no async one")
    return closing(observer) if hasattr(observer, "close") else nullcontext(observer)
