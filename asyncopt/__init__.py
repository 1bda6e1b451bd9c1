"""Asynchronous, high-throughput optimization by large language models.

A name is imported when it is first asked for: the engine brings aiohttp, most of what `asyncopt --help` would cost.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from asyncopt.version import __version__

if TYPE_CHECKING:
    from asyncopt.assess import Assessment, evaluate_instructions
    from asyncopt.cache import Cache, MemoryCache, SqliteCache
    from asyncopt.engine import Engine, Model
    from asyncopt.errors import AsyncoptError, BudgetExhausted, CallFailed, ConfigError
    from asyncopt.evaluation import Evaluation, evaluate
    from asyncopt.limits.budget import Budget
    from asyncopt.optimizers import OPRO, RandomSearch
    from asyncopt.racing import Floor
    from asyncopt.records import load_run
    from asyncopt.result import Result
    from asyncopt.study import Study
    from asyncopt.tasks.task import Example, Task
    from asyncopt.values import Completion, Fault, Generate, Message, Price, Priority, Quota, Sampling, Usage

__all__ = [
    "OPRO",
    "Assessment",
    "AsyncoptError",
    "Budget",
    "BudgetExhausted",
    "Cache",
    "CallFailed",
    "Completion",
    "ConfigError",
    "Engine",
    "Evaluation",
    "Example",
    "Fault",
    "Floor",
    "Generate",
    "MemoryCache",
    "Message",
    "Model",
    "Price",
    "Priority",
    "Quota",
    "RandomSearch",
    "Result",
    "Sampling",
    "SqliteCache",
    "Study",
    "Task",
    "Usage",
    "__version__",
    "evaluate",
    "evaluate_instructions",
    "load_run",
]

_NAMES_OF = {
    "assess": "Assessment evaluate_instructions",
    "cache": "Cache MemoryCache SqliteCache",
    "engine": "Engine Model",
    "errors": "AsyncoptError BudgetExhausted CallFailed ConfigError",
    "evaluation": "Evaluation evaluate",
    "limits.budget": "Budget",
    "optimizers": "OPRO RandomSearch",
    "racing": "Floor",
    "records": "load_run",
    "result": "Result",
    "study": "Study",
    "tasks.task": "Example Task",
    "values": "Completion Fault Generate Message Price Priority Quota Sampling Usage",
}  # the imports above once more, for the running program; a test compares them
_MODULE_OF = {name: f"asyncopt.{module}" for module, names in _NAMES_OF.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
