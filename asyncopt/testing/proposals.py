"""What the simulated model proposes when a prompt asks for something better than what it shows.

It is a random walk from the best of what is shown: blind to the objective, so that a run makes progress by selection
alone, as fast as the history in its prompts allows.
"""

from __future__ import annotations

import random
import re

from asyncopt.testing.chance import digest_of
from asyncopt.testing.evolution import crossed, shown_in
from asyncopt.testing.layered import base_of
from asyncopt.testing.tours import propose_tour

_WORDS = """
answer answers break by calculate carefully check clearly compute consider correct detail each every exactly explain
final find first focus give instructions key let logically mistakes number only parts precisely problem question
quickly read reason result sense show simple slowly solution solve state step steps then think through twice
understand units verify work
"""
VOCABULARY = tuple(_WORDS.split())

_LONGEST = 40  # words of a proposed instruction
_TRIES = 20

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_PAIR = re.compile(rf"w\s*=\s*{_NUMBER}\s*,\s*b\s*=\s*{_NUMBER}\s+value:\s*{_NUMBER}", re.IGNORECASE)
_SCORED = re.compile(rf"^text:\s*(.*?)\s*^score:\s*{_NUMBER}", re.IGNORECASE | re.MULTILINE | re.DOTALL)
_UNSCORED = re.compile(r"^text:\n(.*?)\n\n", re.MULTILINE | re.DOTALL)
_TAGGED = re.compile(rf"^(?:Precision: {_NUMBER} )?<TEXT>(.*?)</TEXT>", re.MULTILINE | re.DOTALL)
_TAGS = (("<INS>", "</INS>"), ("<Start>", "</Start>"))
_REFLECTION = "Write it between <instruction> and </instruction>."
_REFLECTED = re.compile(r"^<instruction>\n(.*?)\n</instruction>$", re.MULTILINE | re.DOTALL)
_VARIATION = re.compile(r"\b(?:variations?|paraphrase|rephrase|rewrite|reword|in other words)\b", re.IGNORECASE)
_LABELLED = re.compile(r"^(?:input|instruction|text|prompt):(.*)$", re.IGNORECASE | re.MULTILINE)
_QUOTED = re.compile(r"\"([^\"\n]+)\"")
_INDUCTION = re.compile(r"\bwrite\b.*\binstruction\b.*\s*\Z", re.IGNORECASE)
_UNWANTED = re.compile(r"[\[\]<>\d\s]+")


def _rng(seed: int, purpose: str, prompt: str, draw: str) -> random.Random:
    return random.Random(f"{seed}:{purpose}:{digest_of(prompt)}:{draw}")


def propose(seed: int, prompt: str, draw: str) -> str | None:
    """A reply to a meta-prompt, None if it is none: a pair, a trace, or an instruction in the brackets asked for.

    Where the prompt ends with the wish for the instruction behind some examples, an instruction without brackets; a
    request of a language network is answered with a prompt or a hidden text, and one for a better instruction than the
    one whose failures it shows with a variation of that, in tags. A request of EvoPrompt is answered with a child of
    the prompts that it shows.
    """
    if (base := base_of(prompt)) is not None:
        return _mutated(_rng(seed, "layered", prompt, draw), base)
    if prompt.endswith(_REFLECTION) and (shown := _REFLECTED.search(prompt)):
        return f"<instruction>{_mutated(_rng(seed, 'reflection', prompt, draw), shown[1])}</instruction>"
    if parents := shown_in(prompt):
        rng = _rng(seed, "evolution", prompt, draw)
        child = crossed(rng, parents)
        return f"Combined: {child}\n2. <prompt>{_mutated(rng, child)}</prompt>"
    if "[w, b]" in prompt:
        pairs = [(int(float(w)), int(float(b)), float(value)) for w, b, value in _PAIR.findall(prompt)]
        w, b = _new_pair(_rng(seed, "pair", prompt, draw), pairs)
        return f"A pair beside the best ones could have a lower value: [{w}, {b}]"
    if (tour := propose_tour(_rng(seed, "tour", prompt, draw), prompt)) is not None:
        return tour
    scored = [(text, float(score)) for text, score in _SCORED.findall(prompt)]
    asked = _brackets(prompt)
    if scored or asked:
        opening, closing = asked or ("[", "]")
        return f"{opening}{_new_text(_rng(seed, 'text', prompt, draw), scored or _ranked(prompt))}{closing}"
    if _INDUCTION.search(prompt):
        rng = _rng(seed, "induction", prompt, draw)
        return _mutated(rng, " ".join(rng.sample(VOCABULARY, 5)))
    return None


def vary(seed: int, prompt: str, draw: str) -> str | None:
    """Another wording, on one line, of the instruction in a request for a variation; None if it is none."""
    if not _VARIATION.search(prompt):
        return None
    last = prompt.strip().splitlines()[-1:]
    asked = [text for label, _, text in (line.partition(":") for line in last) if text and _VARIATION.search(label)]
    named = asked or _LABELLED.findall(prompt) or _QUOTED.findall(prompt) or last
    return _mutated(_rng(seed, "variation", prompt, draw), max(named, key=len))


def small_talk(seed: int, prompt: str, draw: str) -> str:
    """A few words for a prompt that nothing is known about."""
    return " ".join(_rng(seed, "talk", prompt, draw).sample(VOCABULARY, 4)).capitalize() + "."


def _brackets(prompt: str) -> tuple[str, str] | None:
    """What an instruction is to stand between, None if none is asked for.

    The end of the prompt says so, whatever stands in the texts that are shown.
    """
    request = prompt.rstrip().rpartition("\n")[2]
    if request.endswith("</TEXT>"):
        return "<TEXT>", "</TEXT>"
    tags = next((tags for tags in _TAGS if tags[1] in request), None)
    return tags or (("[", "]") if "square bracket" in prompt.lower() else None)


def _ranked(prompt: str) -> list[tuple[str, float]]:
    """Texts that are shown otherwise than as text and score; without scores they have their place in the order."""
    tagged = _TAGGED.findall(prompt)
    if any(score for score, _ in tagged):
        return [(text, float(score or 0)) for score, text in tagged]
    texts = [text for _, text in tagged] or _UNSCORED.findall(prompt)
    if "no particular order" in prompt:
        return [(text, 0.0) for text in texts]
    return [(text, -place if "descending order" in prompt else place) for place, text in enumerate(texts)]


def _new_pair(rng: random.Random, pairs: list[tuple[int, int, float]]) -> tuple[int, int]:
    """A pair of whole numbers that is not shown, by a step along the difference of a good and another shown pair."""
    if not pairs:
        return rng.randint(10, 20), rng.randint(10, 20)
    shown = {(w, b) for w, b, _ in pairs}
    best_first = sorted(pairs, key=lambda pair: pair[2])
    new = best_first[0][:2]
    for attempt in range(_TRIES):
        good, other = rng.choice(best_first[:3]), rng.choice(best_first)
        reach = rng.uniform(-0.5, 1.5)
        spread = 1.0 + attempt / 4
        w = good[0] + reach * (good[0] - other[0]) + rng.gauss(0, spread)
        b = good[1] + reach * (good[1] - other[1]) + rng.gauss(0, 2 * spread)
        new = (round(w), round(b))
        if new not in shown:
            break
    return new


def _new_text(rng: random.Random, scored: list[tuple[str, float]]) -> str:
    shown = {text for text, _ in scored}
    best = [text for text, _ in sorted(scored, key=lambda pair: -pair[1])[:3]] or [""]
    new = ""
    for _ in range(_TRIES):
        new = _mutated(rng, rng.choice(best))
        if new not in shown:
            break
    return new


def _mutated(rng: random.Random, text: str) -> str:
    """The text with one to three words added, removed or replaced; never empty, without digits or brackets."""
    words = _UNWANTED.sub(" ", text).lower().rstrip(" .").split()[:_LONGEST]
    for _ in range(rng.randint(1, 3)):
        kind = rng.choice(("add", "replace", "remove")) if len(words) > 1 else "add"
        place = rng.randrange(len(words) + (kind == "add"))
        replacement = [] if kind == "remove" else [rng.choice(VOCABULARY)]
        words[place : place + (kind != "add")] = replacement
    sentence = " ".join(words[:_LONGEST])
    return sentence[:1].upper() + sentence[1:] + "."
