"""What a model costs: as the configuration states it, else as the package ``genai-prices`` lists it, else unknown.

The list comes with that package (extra ``prices``), so that nothing is asked of any server.
"""

from __future__ import annotations

from dataclasses import dataclass

from asyncopt.endpoints.providers import FAMILIES
from asyncopt.values import Price

STATED = "as stated"
LISTED = "as listed by genai-prices"
UNKNOWN = "no price is known: state usd_per_million_input_tokens and usd_per_million_output_tokens"
NOT_INSTALLED = "no price is stated, and genai-prices is not installed: pip install 'asyncopt[prices]'"

_PROVIDER_IDS = {"gemini": "google"}  # where the list has another name than ours


@dataclass(frozen=True, slots=True)
class Priced:
    """A model's price, None where it is not known, and in a few words where it comes from or why there is none."""

    price: Price | None
    source: str


def price_of(model: str, base_url: str | None = None, stated: Price | None = None) -> Priced:
    """The price of ``model`` (``openai/NAME`` and so on), served at ``base_url`` where that is not the provider's own.

    Long prompts and cached input cost something else with some providers; this is the price of short, new ones.
    """
    if stated is not None:
        return Priced(stated, STATED)
    try:
        listed = _listed(model, base_url)
    except ImportError:
        return Priced(None, NOT_INSTALLED)
    return Priced(None, UNKNOWN) if listed is None else Priced(listed, LISTED)


def _listed(model: str, base_url: str | None) -> Price | None:
    from genai_prices import Usage, calc_price

    family, slash, name = model.partition("/")
    known = bool(slash) and family in FAMILIES

    def dollars(usage: Usage) -> float:
        if base_url is None or (known and family == "azure"):  # every Azure resource has an address of its own
            found = calc_price(usage, name, provider_id=_PROVIDER_IDS.get(family, family))
        else:
            found = calc_price(usage, name if known else model, provider_api_url=base_url)
        return 1000 * float(found.total_price)

    if not known and base_url is None:
        return None
    try:
        # Of a thousand tokens, since some models cost more beyond some hundred thousand.
        return Price(dollars(Usage(input_tokens=1000)), dollars(Usage(output_tokens=1000)))
    except LookupError:
        return None
