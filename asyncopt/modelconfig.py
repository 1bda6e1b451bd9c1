"""``[models.scorer]`` and ``[models.proposer]`` of a configuration: what is asked, where, and what it allows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from asyncopt.endpoints.completions import PromptLogprobs
from asyncopt.limits.slots import HOSTED
from asyncopt.values import DIMENSIONS, Concurrency, Price, Quota

STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)
Count = Annotated[int, Field(le=2**53)]  # what every JSON reader takes
_OF_EACH = ("base_url", *(f"{dimension}_per_minute" for dimension in DIMENSIONS), "concurrency")


class PlaceConfig(BaseModel):
    """Where a model is served, whose key it takes there, and what that allows."""

    model_config = STRICT

    base_url: str | None = None
    api_key_env: str | None = None
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    input_tokens_per_minute: float | None = Field(default=None, gt=0)
    output_tokens_per_minute: float | None = Field(default=None, gt=0)
    concurrency: Count | str | None = None

    @field_validator("concurrency")
    @classmethod
    def _readable(cls, value: int | str | None) -> int | str | None:
        if value is not None:
            Concurrency.of(value)
        return value


class EndpointConfig(PlaceConfig):
    """One of ``endpoints``, with its share of the work."""

    weight: float = Field(default=1.0, gt=0)


class ModelConfig(PlaceConfig):
    """``[models.scorer]`` and ``[models.proposer]``: a name, where it is served, what it allows and what it costs.

    With ``endpoints`` it is served at several places that act as one; ``identity`` is then what the cache knows it by.
    """

    model: str
    hedge: float = Field(default=0.0, ge=0, le=0.1)
    scope: str | None = None
    usd_per_million_input_tokens: float | None = Field(default=None, ge=0)
    usd_per_million_output_tokens: float | None = Field(default=None, ge=0)
    timeout: float = Field(default=600.0, gt=0)
    threads: Count | None = Field(default=None, ge=1)
    format: Literal["chat", "completions"] = "chat"
    top_logprobs: Count | None = Field(default=None, ge=0)
    prompt_logprobs: PromptLogprobs | None = None
    endpoints: tuple[EndpointConfig, ...] | None = Field(default=None, min_length=1)
    identity: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _of_a_pool(self) -> ModelConfig:
        stated = [name for name in _OF_EACH if getattr(self, name) is not None]
        if self.endpoints is not None and stated:
            raise ValueError(f"each of the endpoints has its own {' and '.join(stated)}; state it there only")
        if self.endpoints is None and self.identity is not None:
            raise ValueError("identity is what several endpoints are known by; leave it out, or list endpoints")
        return self

    @model_validator(mode="after")
    def _of_raw_text(self) -> ModelConfig:
        if self.prompt_logprobs is not None and self.format != "completions":
            raise ValueError('prompt_logprobs is about raw text; add format = "completions", or leave it out')
        return self

    @property
    def each(self) -> tuple[ModelConfig, ...]:
        """The model at every one of its endpoints, as if it were the only one."""
        if self.endpoints is None:
            return (self,)
        alone = self.model_copy(update={"endpoints": None, "identity": None})
        return tuple(alone.model_copy(update=_stated(one)) for one in self.endpoints)

    @property
    def address(self) -> str | None:
        """The base URL, or that of the first endpoint; None for the provider's own."""
        return self.each[0].base_url

    @property
    def quota(self) -> Quota:
        """What it allows; of several endpoints, what they allow together."""
        if self.endpoints is not None:
            return _together([one.quota for one in self.each])
        return Quota(
            self.requests_per_minute,
            self.tokens_per_minute,
            self.concurrency,
            self.scope,
            self.input_tokens_per_minute,
            self.output_tokens_per_minute,
        )

    @property
    def price(self) -> Price | None:
        sent, received = self.usd_per_million_input_tokens, self.usd_per_million_output_tokens
        return None if sent is None and received is None else Price(sent or 0.0, received or 0.0)


class ModelsConfig(BaseModel):
    model_config = STRICT

    scorer: ModelConfig | None = None
    proposer: ModelConfig | None = None


def _stated(one: EndpointConfig) -> dict[str, object]:
    return one.model_dump(exclude={"weight"}, exclude_none=True)


def _together(quotas: list[Quota]) -> Quota:
    """The sum, as far as every one of them is known."""
    rates = {dimension: [quota.per_minute(dimension) for quota in quotas] for dimension in DIMENSIONS}
    known = {name: sum(rate for rate in of if rate is not None) for name, of in rates.items() if None not in of}
    places = [HOSTED if quota.concurrency is None else Concurrency.of(quota.concurrency) for quota in quotas]
    least, start, most = (sum(getattr(one, name) for one in places) for name in ("least", "start", "most"))
    concurrency = None if all(quota.concurrency is None for quota in quotas) else f"{least}-{start}-{most}"
    return Quota(
        known.get("requests"),
        known.get("tokens"),
        concurrency,
        quotas[0].scope,
        known.get("input_tokens"),
        known.get("output_tokens"),
    )
