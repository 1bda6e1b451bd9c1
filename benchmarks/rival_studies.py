"""Searches of the rivals on the task and the server of the project's own: how each is pointed at them and sized.

Each function makes one warm-up call and returns the work that is then timed. N, K, steps and the cap are the size's;
what a rival has no word for stays at its default, and retries are off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from paper import task_of

TIMEOUT = 600.0
Work: TypeAlias = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """A search: N examples, K candidates a step, steps, and the most calls in flight."""

    examples: int
    samples: int
    steps: int
    cap: int

    @property
    def scorings(self) -> int:
        return self.examples * (1 + self.samples * self.steps)


def promptolution_opro(url: str, size: Size) -> Work:
    """The same algorithm with the same N, K and steps, so with as many calls; its own prompts."""
    import pandas
    from promptolution.llms.api_llm import APILLM
    from promptolution.optimizers.opro import OPRO
    from promptolution.predictors.maker_based_predictor import MarkerBasedPredictor
    from promptolution.tasks.classification_tasks import ClassificationTask

    task = task_of(size.examples)
    rows = pandas.DataFrame([{"x": example.input, "y": example.target} for example in task.train])

    def model(temperature: float) -> Any:
        more = {"temperature": temperature}
        return APILLM(url, "m", "x", max_concurrent_calls=size.cap, max_retries=0, call_kwargs=more)

    scorer, proposer = model(0.0), model(1.0)
    predictor = MarkerBasedPredictor(scorer, begin_marker="The answer is ", end_marker=".")
    opro = OPRO(
        predictor,
        ClassificationTask(rows, task_description=task.description),
        proposer,
        initial_prompts=list(task.initial),
        num_instructions_per_step=size.samples,
    )
    scorer.get_response(["warm up"])
    return lambda: opro.optimize(size.steps)


def dspy_copro(url: str, size: Size) -> Work:
    """As many candidates of as many examples: breadth K, depth the steps."""
    import dspy

    task = task_of(size.examples)
    lm = dspy.LM("openai/m", api_base=url, api_key="x", num_retries=0, timeout=TIMEOUT)
    dspy.configure(lm=lm, adapter=_plain_adapter())
    examples = [dspy.Example(question=e.input, answer=e.target).with_inputs("question") for e in task.train]

    def metric(example: Any, prediction: Any, _: object = None) -> bool:
        return str(example.answer) in str(prediction.answer)

    program = dspy.Predict(dspy.Signature("question -> answer", task.initial[0]))
    copro = dspy.COPRO(metric=metric, breadth=size.samples, depth=size.steps)
    settings = {"num_threads": size.cap, "display_progress": False, "display_table": 0}
    lm("warm up")
    return lambda: copro.compile(program, trainset=examples, eval_kwargs=settings)


def _plain_adapter() -> Any:
    """Prompts as the server knows them; it has no ``n``, so its one reply stands, numbered, for all K proposals."""
    import dspy

    class Plain(dspy.Adapter):  # type: ignore[misc]
        def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, str]]:
            wanted = lm_kwargs.pop("n", 1)
            system = {"role": "system", "content": signature.instructions}
            user = {"role": "user", "content": "\n".join(map(str, inputs.values()))}
            text = lm(messages=[system, user], **lm_kwargs)[0]
            texts = [text] if wanted == 1 else [f"{text} {number}" for number in range(wanted)]
            return [dict.fromkeys(signature.output_fields, text) for text in texts]

    return Plain()


def gepa_one(url: str, size: Size) -> Work:
    return _gepa(url, size, 1)


def gepa_four(url: str, size: Size) -> Work:
    return _gepa(url, size, 4)


def _gepa(url: str, size: Size, proposals: int) -> Work:
    """As many scorings, and beside them one reflection for every proposal; ``proposals`` are made at once."""
    import gepa
    from gepa.adapters.default_adapter.default_adapter import DefaultAdapter
    from gepa.lm import LM
    from gepa.strategies.proposal_sampling import IndependentSampling

    task = task_of(size.examples)
    rows = [{"input": e.input, "answer": e.target, "additional_context": {}} for e in task.train]
    lm = LM("openai/m", temperature=1.0, num_retries=0, api_base=url, api_key="x")
    adapter = DefaultAdapter("openai/m", max_litellm_workers=size.cap)
    adapter._lm = lm  # it has no way to be told an address
    lm("warm up")
    return lambda: gepa.optimize(
        seed_candidate={"instruction": task.initial[0]},
        trainset=rows,
        valset=rows,
        adapter=adapter,
        reflection_lm=lm,
        max_metric_calls=size.scorings,
        sampling_strategy=IndependentSampling(proposals),
        logger=_Silent(),
    )


class _Silent:
    def log(self, message: str) -> None:
        """Say nothing."""


STUDIES: dict[str, tuple[str, Callable[[str, Size], Work]]] = {
    "promptolution, OPRO": ("promptolution", promptolution_opro),
    "DSPy, COPRO": ("dspy", dspy_copro),
    "GEPA, 1 proposal": ("gepa", gepa_one),
    "GEPA, 4 proposals": ("gepa", gepa_four),
}
