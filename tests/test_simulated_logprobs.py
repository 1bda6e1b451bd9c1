"""The simulated API's log-probabilities: in every dialect the same numbers, and better instructions have better ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from calls import body_of
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from asyncopt import codec
from asyncopt.codec import Json
from asyncopt.endpoints.completions import TextCompletions
from asyncopt.endpoints.protocol import Codec, Reply
from asyncopt.engine import Engine
from asyncopt.errors import ConfigError, MissingCapability
from asyncopt.tasks.task import Example, Task
from asyncopt.testing import Abilities, AnswerModel, Item, SimulatedAPI, items_of, run_virtual
from asyncopt.testing.logprobs import TokenModel, id_of, tokens_of
from asyncopt.values import Completion, Fault, FaultKind, Generate, Likelihood, LogProb, Sampling

ITEMS = {str(n): Item(f"Is {n} even?\nSay yes or no.", "No" if n % 2 else "Yes", "boolean") for n in range(20)}
ANSWERS = AnswerModel(3, ITEMS)
INSTRUCTIONS = ("", "Think.", "Check each step carefully.", "Read the question twice and verify the answer.")
COMPLETIONS = "/v1/completions"
LLAMA = Abilities(prompt_logprobs="llamacpp", silent_echo=True, n=True)
DIALECTS: list[tuple[Abilities, Codec | None]] = [
    (Abilities(), TextCompletions()),
    (Abilities(prompt_logprobs="vllm"), TextCompletions("prompt_logprobs")),
    (LLAMA, None),
]


def prompt_of(instruction: str, number: int = 4) -> str:
    return f"{instruction}\n{ITEMS[str(number)].question}\nOutput:"


def answered(body: Mapping[str, Json], path: str = COMPLETIONS, abilities: Abilities = Abilities()) -> Reply:
    api = SimulatedAPI(answers=ANSWERS, abilities=abilities)
    data = codec.dumps({"model": "m", **body})
    return run_virtual(lambda: api.handle(data, CIMultiDict(), path))


def choice_of(reply: Reply) -> Mapping[str, Json]:
    assert reply.status == 200, reply.body
    found: Mapping[str, Json] = codec.loads(reply.body)["choices"][0]
    return found


def scored(abilities: Abilities, wire: Codec | None, prompt: str, continuation: str) -> tuple[float, ...]:
    endpoint = SimulatedAPI(answers=ANSWERS, abilities=abilities).endpoint(codec=wire)
    answer = run_virtual(lambda: endpoint.send("m", Likelihood.of(prompt, continuation)))
    assert isinstance(answer, Completion), answer
    return LogProb.of(answer).tokens


# Tokens


@given(st.text())
def test_tokens_spell_their_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text


def test_labels_are_single_tokens() -> None:
    assert tokens_of("Output: (B)\n Yes") == ["Output", ":", " (B)", "\n", " Yes"]


# The first token of an answer


def first_of(instruction: str, top: int = 20) -> Mapping[str, float]:
    body = body_of(prompt_of(instruction), logprobs=True, top_logprobs=top, max_tokens=1)
    reply = answered(codec.loads(body), "/v1/chat/completions", Abilities(top_logprobs=1000))
    (entry,) = choice_of(reply)["logprobs"]["content"]
    return {other["token"]: math.exp(other["logprob"]) for other in entry["top_logprobs"]}


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_the_labels_have_the_chances_of_the_answers(instruction: str) -> None:
    first = first_of(instruction)
    chances = ANSWERS.chances(prompt_of(instruction))
    assert first["Yes"] == pytest.approx(chances["Yes"], abs=1e-12)
    assert first["No"] == pytest.approx(0.97 * chances["No"], abs=1e-12)


@pytest.mark.parametrize("instruction", ["Think.", "Check it twice, step by step.", "Guess quickly."])
def test_the_most_probable_answer_is_the_greedy_one_and_as_often_right_as_the_instruction_is_good(
    instruction: str,
) -> None:
    examples = tuple(Example(n, f"Is {n} such a number?", "yes" if n % 3 else "no") for n in range(600))
    task = Task("numbers", "boolean", examples[:1], examples[1:], classes=("yes|Yes", "no|No"))
    model = AnswerModel(3, items_of([task]))
    right = 0
    for example in examples:
        prompt = task.render(instruction, example.input)
        chances = model.chances(prompt)
        best = max(chances, key=lambda answer: chances[answer])
        assert best == model.judged(prompt, bare=True)[0]
        right += best == example.target
    accuracy = model.true_accuracy(task.render(instruction, ""))
    assert abs(right / 600 - accuracy) < 4 * math.sqrt(accuracy * (1 - accuracy) / 600)


def test_a_better_instruction_makes_right_answers_likelier_on_the_whole() -> None:
    examples = tuple(Example(n, f"Is {n} such a number?", "yes") for n in range(200))
    task = Task("numbers", "boolean", examples[:1], examples[1:], classes=("yes|Yes", "no|No"))
    model = AnswerModel(3, items_of([task]))
    found = []
    for instruction in ("Think.", "Check it twice, step by step.", "Guess quickly.", "Answer.", "Read with care."):
        chances = [model.chances(task.render(instruction, example.input))["yes"] for example in examples]
        found.append((model.true_accuracy(task.render(instruction, "")), sum(map(math.log, chances)) / 200))
    found.sort()
    assert found[0][0] + 0.1 < found[-1][0]
    assert found[0][1] + 0.1 < found[-1][1]


def test_all_probabilities_of_a_place_make_one() -> None:
    everything = first_of("Think.", 1000)
    assert len(everything) > 150
    assert sum(everything.values()) == pytest.approx(1.0, abs=1e-9)
    assert list(everything.values()) == sorted(everything.values(), reverse=True)


def test_the_text_is_the_bare_answer_and_its_first_token_the_label() -> None:
    body = {"prompt": prompt_of("Think."), "max_tokens": 1}
    plain, with_logprobs = choice_of(answered(body)), choice_of(answered(body | {"logprobs": 2}))
    assert plain["text"] == "The "
    assert with_logprobs["text"] in ("Yes", "No")
    assert with_logprobs["logprobs"]["tokens"] == [with_logprobs["text"]]
    assert plain["logprobs"] is None


def test_the_labels_of_a_task_with_classes_share_the_rest() -> None:
    examples = tuple(Example(n, f"Text number {n} is what?", label) for n, label in enumerate("abcabc"))
    task = Task("letters", "text", examples[:3], examples[3:], classes=("a|A", "b|B", "c|C"))
    model = AnswerModel(1, items_of([task]))
    chances = model.chances("Think.\nText number 0 is what?\n")
    assert set(chances) == {"a", "b", "c"}
    assert next(iter(chances)) == "a"
    assert sum(chances.values()) == pytest.approx(1.0)
    plain = AnswerModel(1, items_of([Task("letters", "text", examples[:3], examples[3:])]))
    assert plain.fingerprint != model.fingerprint


# A given text


@pytest.mark.parametrize("continuation", [" Yes", " No", " Yes indeed, my friend.", " I say: Yes"])
@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_every_dialect_tells_the_same(instruction: str, continuation: str) -> None:
    found = [scored(abilities, wire, prompt_of(instruction), continuation) for abilities, wire in DIALECTS]
    assert len(found[0]) == len(tokens_of(continuation))
    assert found[0] == found[1] == found[2]
    assert all(-14 < logprob < 0 for logprob in found[0])


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_a_target_is_as_likely_as_that_answer(instruction: str) -> None:
    (logprob,) = scored(*DIALECTS[0], prompt_of(instruction), " Yes")
    assert logprob == pytest.approx(math.log(ANSWERS.chances(prompt_of(instruction))["Yes"]), abs=1e-12)


def test_the_context_and_the_seed_decide_every_token() -> None:
    texts = [TokenModel(AnswerModel(seed)).scored(context, [" a", " b"]) for seed in (1, 2) for context in ("x", "y")]
    assert len({token.logprob for tokens in texts for token in tokens}) == 8
    assert texts[0] == TokenModel(AnswerModel(1)).scored("x", [" a", " b"])


def test_the_older_format_with_an_echo_is_openais() -> None:
    reply = answered({"prompt": "Hello world.", "max_tokens": 0, "echo": True, "logprobs": 1})
    choice = choice_of(reply)
    assert choice["text"] == "Hello world."
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["Hello", " world", "."]
    assert logprobs["text_offset"] == [0, 5, 11]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert all(logprob < 0 for logprob in logprobs["token_logprobs"][1:])
    assert " world" in logprobs["top_logprobs"][1]
    assert codec.loads(reply.body)["object"] == "text_completion"
    assert codec.loads(reply.body)["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}


def test_vllms_field_names_every_token_of_the_prompt() -> None:
    body = {"prompt": "Hello world.", "max_tokens": 1, "prompt_logprobs": 0}
    first, second, third = choice_of(answered(body, abilities=Abilities(prompt_logprobs="vllm")))["prompt_logprobs"]
    assert first is None
    assert set(second) == {str(id_of(" world"))}
    assert third[str(id_of("."))]["decoded_token"] == "."
    assert "prompt_logprobs" not in choice_of(answered(body))


def test_a_grammar_of_token_ids_forces_the_answer() -> None:
    api = SimulatedAPI(answers=ANSWERS, abilities=LLAMA)

    async def main() -> Reply:
        ids = codec.loads((await api.handle(b'{"content":" No way"}', CIMultiDict(), "/tokenize")).body)["tokens"]
        assert ids == [id_of(" No"), id_of(" way")]
        grammar = "root ::= " + " ".join(f"<[{number}]>" for number in ids)
        body = body_of("Hello", grammar=grammar, logprobs=True, max_tokens=8)
        return await api.handle(body, CIMultiDict())

    choice = choice_of(run_virtual(main))
    assert choice["message"]["content"] == " No way"
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == [" No", " way", ""]
    assert len(api.ledger.entries) == 1


def test_an_unknown_token_id_is_a_bad_request() -> None:
    body = codec.loads(body_of("Hello", grammar="root ::= <[1]>", max_tokens=1))
    assert answered(body, "/v1/chat/completions", LLAMA).status == 400


def test_an_echo_that_is_ignored_silently_is_a_fault_of_the_client_and_never_a_score() -> None:
    endpoint = SimulatedAPI(answers=ANSWERS, abilities=LLAMA).endpoint(codec=TextCompletions())
    answer = run_virtual(lambda: endpoint.send("m", Likelihood.of("Hello", " world")))
    assert isinstance(answer, Fault)
    assert answer.kind is FaultKind.FATAL_CONFIG


# What a server has not got


@pytest.mark.parametrize(
    ("abilities", "path", "extra", "status"),
    [
        (Abilities(), COMPLETIONS, {"logprobs": 20}, 200),
        (Abilities(), COMPLETIONS, {"logprobs": 21}, 400),
        (Abilities(top_logprobs=0), COMPLETIONS, {"logprobs": 0}, 400),
        (Abilities(prompt_logprobs="none"), COMPLETIONS, {"echo": True}, 400),
        (Abilities(prompt_logprobs="none", silent_echo=True), COMPLETIONS, {"echo": True}, 200),
        (Abilities(completions=False), COMPLETIONS, {}, 404),
        (Abilities(chat=False), COMPLETIONS, {}, 200),
        (Abilities(chat=False), "/v1/chat/completions", {}, 404),
        (Abilities(), COMPLETIONS, {"n": 2}, 400),
        (Abilities(n=True), COMPLETIONS, {"n": 2}, 200),
        (Abilities(n=True), COMPLETIONS, {"n": 0}, 400),
        (Abilities(), COMPLETIONS, {"logit_bias": [1]}, 400),
        (LLAMA, COMPLETIONS, {"grammar": "root ::= [a-z]+"}, 400),
        (Abilities(), COMPLETIONS, {"grammar": "root ::= [a-z]+"}, 200),
        (Abilities(), "/tokenize", {"content": "x"}, 404),
        (LLAMA, "/tokenize", {"content": "x"}, 200),
        (LLAMA, "/tokenize", {"content": 1}, 400),
    ],
)
def test_what_is_refused(abilities: Abilities, path: str, extra: Mapping[str, Json], status: int) -> None:
    body = {"prompt": "Hello", "messages": [{"role": "user", "content": "Hello"}], **extra}
    reply = answered(body, path, abilities)
    assert reply.status == status
    assert ("error" in codec.loads(reply.body)) == (status != 200)


def test_a_negative_number_of_alternatives_is_an_error() -> None:
    with pytest.raises(ConfigError, match="top_logprobs is -1"):
        Abilities(top_logprobs=-1)


def test_several_answers_come_at_once_and_are_counted() -> None:
    body = {"prompt": "Name something.", "temperature": 1, "n": 3, "seed": 5, "max_tokens": 8}
    found = codec.loads(answered(body, abilities=Abilities(n=True)).body)
    texts = [choice["text"] for choice in found["choices"]]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts[0] == choice_of(answered(body | {"n": 1}))["text"]
    assert found["usage"]["completion_tokens"] == sum(math.ceil(len(text) / 4) for text in texts)


@pytest.mark.parametrize("honoured", [True, False])
def test_seeds_repeat_where_they_are_honoured(honoured: bool) -> None:
    api = SimulatedAPI(abilities=Abilities(seed=honoured))
    body = codec.dumps({"model": "m", "prompt": "Name something.", "temperature": 1, "seed": 5})

    async def main() -> list[bytes]:
        return [(await api.handle(body, CIMultiDict(), COMPLETIONS)).body for _ in range(2)]

    first, second = (codec.loads(reply)["choices"][0]["text"] for reply in run_virtual(main))
    assert (first == second) is honoured


# Through the codecs and the engine


@pytest.mark.parametrize(("abilities", "wire"), DIALECTS)
def test_a_stream_has_the_tokens_of_the_plain_answer(abilities: Abilities, wire: Codec | None) -> None:
    endpoint = SimulatedAPI(answers=ANSWERS, abilities=abilities).endpoint(codec=wire)
    request = Generate.of("Name something.", Sampling(temperature=0.0, max_tokens=4), top_logprobs=2)

    async def main() -> tuple[object, object]:
        plain, streamed = await endpoint.send("m", request), await endpoint.send_streamed("m", request, list)
        assert isinstance(plain, Completion), plain
        assert isinstance(streamed, Completion), streamed
        assert len(plain.token_logprobs) == 4
        return (plain.text, plain.token_logprobs), (streamed.text, streamed.token_logprobs)

    plain, streamed = run_virtual(main)
    assert plain == streamed


@pytest.mark.parametrize(("abilities", "wire"), DIALECTS)
def test_the_engine_asks_for_likelihoods_and_is_told_what_there_is(abilities: Abilities, wire: Codec | None) -> None:
    async def main() -> float:
        async with Engine() as engine:
            api = SimulatedAPI(answers=ANSWERS, abilities=abilities)
            model = engine.model("m", endpoint=api.endpoint(codec=wire))
            with pytest.raises(MissingCapability):
                await engine.model("m", endpoint=SimulatedAPI().endpoint()).likelihood("Hello", " world")
            return (await model.likelihood(prompt_of("Think."), " Yes")).total

    assert run_virtual(main) == pytest.approx(math.log(ANSWERS.chances(prompt_of("Think."))["Yes"]), abs=1e-12)


def test_default_answers_and_identities_are_what_they_were() -> None:
    model = AnswerModel(0, {"a": Item("Why?", "because", "text")})
    assert model.fingerprint == "899bb6d37ae1"
    assert model.answer("Name something.") == "Explain then by focus."
    assert model.answer("Think.\nWhy?") == "The answer is unknown."
