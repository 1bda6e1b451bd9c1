"""Asynchronous, high-throughput optimization by large language models."""

from asyncopt.assess import Assessment, evaluate_instructions
from asyncopt.cache import Cache, MemoryCache, SqliteCache
from asyncopt.engine import Engine, Model
from asyncopt.errors import AsyncoptError, BudgetExhausted, CallFailed, ConfigError
from asyncopt.evaluate import Evaluation, evaluate
from asyncopt.limits.budget import Budget
from asyncopt.optimizers import OPRO, RandomSearch
from asyncopt.racing import Floor
from asyncopt.records import load_run
from asyncopt.result import Result
from asyncopt.study import Study
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Completion, Fault, Generate, Message, Price, Priority, Quota, Sampling, Usage
from asyncopt.version import __version__

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
