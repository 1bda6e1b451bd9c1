"""The configuration of a run: TOML and ``--set`` checked by pydantic, every mistake named with what was meant.

Built-in defaults, then what the chosen models bring, then the file, then the command line. Keys never stand in a
file: ``api_key_env`` names the environment variable that holds one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from asyncopt.batches import Batched
from asyncopt.endpoints.secret import redact_patterns
from asyncopt.errors import ConfigError
from asyncopt.limits.budget import Budget
from asyncopt.modelconfig import STRICT, Count
from asyncopt.modelconfig import ModelConfig as ModelConfig
from asyncopt.modelconfig import ModelsConfig as ModelsConfig
from asyncopt.optimizers import OPRO, Optimizer, RandomSearch
from asyncopt.optimizers.base import AnyTask
from asyncopt.optimizers.opro import ExemplarChoice, HistoryOrder, MetaPrompt, ScoreBuckets, Style
from asyncopt.optimizers.overlap import Overlap
from asyncopt.redislink import is_redis, without_password
from asyncopt.shared.at import checked_address
from asyncopt.tasks import load
from asyncopt.tasks.task import Task

Mode: TypeAlias = Literal["parallel", "faithful"]

LARGEST_FILE = 1 << 20
USUAL_STEPS, USUAL_HISTORY = 200, 20  # of the paper's prompt optimization (section 5.1)
_STEPS_OF_OBJECTIVES = 500  # the demos of section 3, by the reference code
_HISTORY_OF = {"tsp": 10}  # by the reference code
_NAMES_OF_KEYS = ("api_key", "apikey", "key", "token", "secret", "password", "authorization")


class TaskConfig(BaseModel):
    """``[task]``; options that only some tasks have are passed on to their loader, which knows them."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    name: str
    data: Path | None = None
    limit: Count | None = Field(default=None, ge=1)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class OptimizerConfig(BaseModel):
    """``[optimizer]``; what is left out has the paper's value.

    ``steps`` is 200, and 500 where no model scores; ``history_size`` is 20, and 10 for tours.
    """

    model_config = STRICT

    name: Literal["opro", "random"] = "opro"
    steps: Count | None = Field(default=None, ge=0)
    samples_per_step: Count = Field(default=8, ge=1)
    history_size: Count | None = Field(default=None, ge=1)
    exemplars: Count = Field(default=3, ge=0)
    threshold: float | None = None
    temperature: float = Field(default=1.0, ge=0)
    max_tokens: Count = Field(default=1024, ge=1)
    styles: tuple[Style, ...] = Field(default=("meta-prompt",), min_length=1)
    lag: Count = Field(default=0, ge=0)
    quorum: float | None = Field(default=None, gt=0, le=1)
    racing: float | None = Field(default=None, gt=0, lt=1)
    validate_every: Count | None = Field(default=None, ge=1)
    patience: Count | None = Field(default=None, ge=1)
    scoring_calls: Count | None = Field(default=None, ge=1)
    meta_prompt: MetaPrompt = "instruction-tuned"
    history_order: HistoryOrder = "ascending"
    score_buckets: ScoreBuckets = 100
    exemplar_choice: ExemplarChoice = "random"
    exemplars_first: bool = False
    final_temperature: float | None = Field(default=None, ge=0)
    attempts: Count = Field(default=1, ge=1)
    faithful: bool = False

    @field_validator("name", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        # By hand: an unknown name is looked up here, and this table alone does not know the other optimizers.
        known = ("opro", "random", *get_args(_Other))
        if value not in known:
            near = get_close_matches(str(value), known, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"it is {value!r}; {meant}wanted one of {', '.join(known)}")
        return value

    @field_validator("score_buckets", mode="before")
    @classmethod
    def _of_one_kind(cls, value: object) -> object:
        # By hand: of a union pydantic complains once for each of its kinds, and it takes true for 1.
        if value not in ("infinite", "none") and not (type(value) is int and 1 <= value <= 2**53):
            raise ValueError(f"it is {value!r}; wanted a whole number from 1 on, or infinite, or none")
        return value

    def build(self, task: AnyTask) -> Optimizer:
        """The optimizer with these settings; what is left out has the paper's value for this task."""
        usual = USUAL_STEPS if isinstance(task, Task) else _STEPS_OF_OBJECTIVES
        steps = usual if self.steps is None else self.steps
        if self.name == "random":
            overlap = self.model_dump(include=set(Overlap.__dataclass_fields__))
            return RandomSearch(steps=steps, samples_per_step=self.samples_per_step, **overlap)
        fields = self.model_dump(exclude={"name", "steps", "history_size"})
        usual = _HISTORY_OF.get(task.name, USUAL_HISTORY)
        history_size = usual if self.history_size is None else self.history_size
        return OPRO(steps=steps, history_size=history_size, **fields)


_Other: TypeAlias = Literal["ape", "dln1", "dln2", "paraphrase", "reflective", "evoprompt-ga", "evoprompt-de"]


def _class_of(name: _Other) -> Any:
    from asyncopt.optimizers import APE, DLN1, DLN2, EvoPromptDE, EvoPromptGA, Paraphrase, Reflective

    classes = {"ape": APE, "dln1": DLN1, "dln2": DLN2, "paraphrase": Paraphrase, "reflective": Reflective}
    return {**classes, "evoprompt-ga": EvoPromptGA, "evoprompt-de": EvoPromptDE}[name]


class OtherOptimizerConfig(BaseModel):
    """``[optimizer]`` of another optimizer than OPRO: its options are the fields of its class, with their types."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    name: _Other

    @model_validator(mode="after")
    def _buildable(self) -> OtherOptimizerConfig:
        self._built()
        return self

    def build(self, task: AnyTask) -> Optimizer:
        """The optimizer with these settings; what is left out has the value of its class."""
        return self._built()

    def _built(self) -> Optimizer:
        kind, options = _class_of(self.name), dict(self.__pydantic_extra__ or {})
        known = [field.name for field in fields(kind) if field.name != "name"]
        for name in (one for one in options if one not in known):
            near = [f"did you mean {one}? " for one in get_close_matches(name, known, n=1, cutoff=0.7)]
            steps = [one for one in ("rounds", "generations") if one in known and name == "steps"]
            meant = "".join([f"it counts {one}: give --set optimizer.{one}=N; " for one in steps] or near)
            raise ValueError(f"{self.name} has no option {name}; {meant}it has {', '.join(known)}")
        try:
            optimizer: Optimizer = TypeAdapter(kind).validate_python(options)
        except ValidationError as error:
            told = [f"{one['loc'][0]}: {one['msg']}" for one in error.errors(include_url=False, include_input=False)]
            raise ValueError("; ".join(told).replace("tuple", "list")) from None
        return optimizer


_TAGS = ("opro", "other")  # which of the two tables of an optimizer is meant; nobody writes them


def _kind_of(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return "other" if name in get_args(_Other) else "opro"


AnyOptimizerConfig: TypeAlias = Annotated[
    Annotated[OptimizerConfig, Tag("opro")] | Annotated[OtherOptimizerConfig, Tag("other")], Discriminator(_kind_of)
]


class BudgetConfig(BaseModel):
    """``[budget]``; what is left out has no limit."""

    model_config = STRICT

    calls: Count | None = Field(default=None, ge=0)
    tokens: Count | None = Field(default=None, ge=0)
    usd: float | None = Field(default=None, ge=0)
    seconds: float | None = Field(default=None, ge=0)

    def build(self) -> Budget:
        return Budget(**self.model_dump())


class Config(BaseModel):
    """A whole run."""

    model_config = STRICT

    task: TaskConfig
    optimizer: AnyOptimizerConfig = OptimizerConfig()
    models: ModelsConfig = ModelsConfig()
    budget: BudgetConfig = BudgetConfig()
    seed: Count = Field(default=0, ge=0)
    mode: Mode = "parallel"
    trace: bool = True
    observers: tuple[str, ...] = ()
    cache: Path | str | None = None  # a file, or the URL of a Redis server
    use_cache: bool = True
    batch: Batched | None = None
    shared: str | None = None

    @field_validator("cache")
    @classmethod
    def _of_a_cache(cls, value: Path | str | None) -> Path | str | None:
        return without_password(value) if isinstance(value, str) and is_redis(value) else value and Path(value)

    @field_validator("shared")
    @classmethod
    def _of_a_quota(cls, value: str | None) -> str | None:
        try:
            return None if value is None else checked_address(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _faithful_in_order(self) -> Config:
        late = [name for name in ("lag", "quorum", "racing") if getattr(self.optimizer, name, None)]
        if self.mode == "faithful" and late:
            raise ValueError(f"mode faithful is the paper's order; leave optimizer.{' and optimizer.'.join(late)} out")
        return self

    def load_task(self) -> AnyTask:
        """The task, with at most ``limit`` examples in each split; in faithful mode graded as in the reference."""
        task = load(self.task.name, data=self.task.data, seed=self.seed, options=self.task.options)
        if not isinstance(task, Task):
            return task
        if self.mode == "faithful" and "answers" not in self.task.options and task.answers == "strict":
            of_dln = self.optimizer.name in ("dln1", "dln2")
            task = replace(task, answers="dln_compat" if of_dln else "opro_compat")
        return task.limited(self.task.limit)

    def build_optimizer(self, task: AnyTask) -> Optimizer:
        """The optimizer for this task; in faithful mode with the reference's draws and filters."""
        settings = self.optimizer
        faithful = isinstance(settings, OptimizerConfig) or settings.name in ("evoprompt-ga", "evoprompt-de")
        if self.mode == "faithful" and faithful:
            settings = settings.model_copy(update={"faithful": True})
        return settings.build(task)

    def to_plain(self) -> dict[str, Any]:
        """The configuration as JSON can hold it; :func:`check` reads it back."""
        return self.model_dump(mode="json", exclude_none=True)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path} is larger than 1 MiB; a configuration is a few lines")
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give the path of a TOML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; TOML is") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def parse_setting(setting: str) -> dict[str, Any]:
    """The nested table of ``a.b=c``; the value is read as TOML, or as text where it is none."""
    path, equals, text = setting.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"--set got {redact_patterns(setting)!r}; wanted something like optimizer.steps=20")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def parse_budget(text: str) -> dict[str, Any]:
    """The table of ``calls=2000,usd=1.5``."""
    table: dict[str, Any] = {}
    for part in text.split(","):
        if "=" not in part:
            raise ConfigError(f"--budget got {redact_patterns(text)!r}; wanted something like calls=2000,usd=1.5")
        table |= parse_setting(part)
    return table


def merged(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The layers laid over each other, later ones on top, table by table."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = result.get(key)
            both = isinstance(old, dict) and isinstance(value, Mapping)
            result[key] = merged([old, value]) if both else value  # type: ignore[list-item]
    return result


def check(tables: Mapping[str, Any], source: str = "the configuration") -> Config:
    """The configuration in these tables; raises :class:`ConfigError` with every mistake and what was meant."""
    _refuse_keys(tables)
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        lines = [_complaint(dict(problem)) for problem in error.errors(include_url=False, include_input=False)]
        raise ConfigError(f"{source}: " + "; ".join(lines)) from None


def _refuse_keys(tables: Mapping[str, Any], path: str = "") -> None:
    for name, value in tables.items():
        key = f"{path}{name}"
        if redact_patterns(key) != key:
            raise ConfigError("a setting has a key for its name; write NAME=VALUE, and leave keys in the environment")
        inner = value if isinstance(value, list) else [value]
        for table in inner:
            if isinstance(table, Mapping):
                _refuse_keys(table, f"{key}.")
        if isinstance(value, Mapping):
            continue
        if name.lower().replace("-", "_") in _NAMES_OF_KEYS or (
            key.startswith("models.") and redact_patterns(str(value)) != str(value)
        ):
            raise ConfigError(
                f"{key} holds a key; keys stay in the environment. Remove it and name the variable: "
                'api_key_env = "OPENAI_API_KEY"'
            )


def _complaint(problem: Mapping[str, Any]) -> str:
    where = [str(part) for part in problem["loc"] if part not in _TAGS]
    path = ".".join(where)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(where[:-1])
        near = get_close_matches(where[-1], known, n=1, cutoff=0.0)
        meant = f"did you mean {near[0]}?" if near else ""
        return f"unknown key {path}; {meant} (known here: {', '.join(known)})"
    if problem["type"] == "missing":
        return f"{path} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{path}{': ' if path else ''}{message[:1].lower()}{message[1:]}"


def _fields_at(path: list[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in path:
        if not part.isdigit():  # a place in a list of tables
            annotation = model.model_fields[part].annotation
            model = OptimizerConfig if part == "optimizer" else next(_tables_in(annotation))
    return sorted(model.model_fields)


def _tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _tables_in(inner)
