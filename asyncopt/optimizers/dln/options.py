"""What can be set about the training of a language network, with the reference code's values where it has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, TypeAlias

from asyncopt.engine import Model
from asyncopt.errors import ConfigError
from asyncopt.optimizers.base import AnyTask
from asyncopt.optimizers.dln.roles import POSTERIORS, HiddenForm, Posterior, ProposalForm, Templates
from asyncopt.tasks.task import Task

OutputScoring: TypeAlias = Literal["logprobs", "accuracy"]
HiddenScoring: TypeAlias = Literal["logprobs", "sampled", "none"]

UNIFORM_FROM = 100.0  # the posterior temperature from which the reference code weighs all hidden texts alike


def examples_of(task: AnyTask) -> Task:
    """The task, if it has examples; else :class:`ConfigError` says so."""
    if not isinstance(task, Task):
        raise ConfigError(f"dln trains prompts on examples, and {task.name} has none; choose another optimizer")
    return task


@dataclass(frozen=True, kw_only=True)
class Training:
    """The options of networks with one and with two layers (DLN, algorithms 1 and 2; appendix D).

    In each of ``steps`` iterations a batch of B = ``batch_size`` examples is drawn, ``balanced`` over the classes or
    not. The N = ``prompt_samples`` prompts to choose from are the current one and N - 1 proposals, each made from the
    batch or, with ``held_out_ranking``, from half of it; up to M = ``memory`` earlier prompts stand beside them, the
    best by validation. ``output_scoring`` asks for log p(y), or only whether the answer is right.

    Every ``validate_every`` iterations, and before the first and after the last, the prompts are scored on the
    validation examples. After ``tolerance`` validations in a row that brought nothing better the search goes back to
    the best prompts; None never does. With ``lag`` so many iterations go on before a validation is waited for.

    ``forward_tokens`` and ``proposal_tokens`` are the lengths of answers and of proposals, which are drawn at
    ``backward_temperature``. ``top_logprobs`` is how many first tokens class log-probabilities are read from; of the
    tokens of a long text the first ``burn_in`` share does not count. ``templates`` replaces request texts by role.
    """

    steps: int = 20
    batch_size: int = 20
    prompt_samples: int = 5
    memory: int = 0
    tolerance: int | None = None
    validate_every: int = 2
    lag: int = 0
    balanced: bool = False
    held_out_ranking: bool = False
    output_scoring: OutputScoring = "logprobs"
    top_logprobs: int = 20
    forward_tokens: int = 20
    proposal_tokens: int = 512
    backward_temperature: float = 0.7
    burn_in: float = 0.05
    proposal: ProposalForm = "concise"
    initial_output: str | None = None
    templates: Mapping[str, str] = field(default_factory=dict)

    @property
    def influential(self) -> bool:
        """Whether the search itself, and not only the choice at its end, depends on validations."""
        return self.memory > 0 or self.tolerance is not None

    def texts(self) -> Templates:
        """The texts of all requests."""
        return Templates(proposal_form=self.proposal, replaced=self.templates)

    def check_options(self) -> None:
        """Raise :class:`ConfigError` for settings that mean nothing."""
        least = {
            "steps": 0,
            "batch_size": 1,
            "prompt_samples": 1,
            "memory": 0,
            "tolerance": 0,
            "validate_every": 1,
            "lag": 0,
            "top_logprobs": 1,
            "forward_tokens": 1,
            "proposal_tokens": 1,
        }
        self.require_least(least)
        self.require_numbers("backward_temperature", "burn_in")
        if self.burn_in >= 1:
            raise ConfigError(f"dln's burn_in is {self.burn_in}; it is a share of the tokens, below 1, such as 0.05")
        self.require_choice("output_scoring", ("logprobs", "accuracy"))
        self.texts()

    def require_least(self, least: Mapping[str, int]) -> None:
        """Raise :class:`ConfigError` where one of these is too small."""
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(f"dln's {name} is {value}; it must be at least {lowest}")

    def require_numbers(self, *names: str) -> None:
        """Raise :class:`ConfigError` where one of these is negative or no number."""
        for name in names:
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ConfigError(f"dln's {name} is {value}; it must be a number of at least 0")

    def require_choice(self, name: str, choices: tuple[str, ...]) -> None:
        """Raise :class:`ConfigError` where this is not one of the choices."""
        if getattr(self, name) not in choices:
            raise ConfigError(f"dln's {name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")

    def check_study(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> tuple[Task, Model, Model]:
        """The task and the models in their roles; raises :class:`ConfigError` where one is missing or of no use."""
        task = examples_of(task)
        if scorer is None or proposer is None:
            missing = "--scorer (the forward model)" if scorer is None else "--proposer (the backward model)"
            raise ConfigError(f"dln needs two roles of models, and {missing} is not named; it may be the same model")
        if task.metric is not None:
            raise ConfigError(f"{task.name} has a metric, and dln grades by the targets; leave the metric out")
        for split in ("train", "validation"):
            if not task.fold(split):
                raise ConfigError(f"{task.name} has no {split} examples, which dln needs; set task.{split}_ratio")
        return task, scorer, proposer

    def first_output(self, task: Task) -> str:
        """The prompt of the output layer that training starts from."""
        return task.initial[0] if self.initial_output is None else self.initial_output


@dataclass(frozen=True, kw_only=True)
class TwoLayerOptions(Training):
    """What only networks with two layers have (DLN, section 3.2 and appendix D).

    K = ``hidden_samples`` hidden texts of every example, or with ``rewrite_wrong_only`` of those answered wrongly, are
    drawn from q: a mixture of the ``posteriors`` in equal parts. Their weights come from log p(y | h), with
    ``include_prior`` plus log p(h | x), with ``mutual_information`` less log p(y | h) without x, with
    ``correct_weighting`` less log q(h), all divided by ``posterior_temperature``; ``hidden_argmax`` keeps the best
    alone. Without log-probabilities (``output_scoring`` "accuracy") a weight rests on the right answer only.

    The output prompt is chosen by the bound less ``trust_factor`` times the KL divergence from the current prompt; the
    hidden prompt, in ``hidden_steps`` rounds, by the bound (``nce``: its contrastive form) less ``logp_penalty`` times
    the log-probability of wrong forward texts, a penalty that decays to 0 with ``decay_logp_penalty``. A layer that is
    not trained (``train_hidden``, ``train_output``) keeps its initial prompt: "fix 2nd" trains the hidden layer alone.

    ``hidden_scoring`` "sampled" draws texts from each hidden prompt and scores the answers they lead to, "none" scores
    no hidden text; both leave the prior out, and neither is the paper's estimator.
    """

    hidden_samples: int = 3
    posteriors: tuple[Posterior, ...] = ("prior",)
    posterior_temperature: float = 1.0
    include_prior: bool = True
    correct_weighting: bool = False
    mutual_information: bool = False
    hidden_argmax: bool = False
    rewrite_wrong_only: bool = False
    trust_factor: float = 0.0
    hidden_steps: int = 1
    logp_penalty: float = 0.0
    decay_logp_penalty: bool = True
    nce: bool = False
    train_hidden: bool = True
    train_output: bool = True
    strip_options: bool = False
    residual: bool = True
    hidden_tokens: int = 256
    hidden_form: HiddenForm = "steps"
    hidden_scoring: HiddenScoring = "logprobs"
    initial_hidden: str | None = None

    @property
    def has_prior(self) -> bool:
        """Whether the posterior weights have the prior term."""
        exact = self.output_scoring == "logprobs" and self.hidden_scoring == "logprobs"
        return self.include_prior and exact and self.weighs

    @property
    def weighs(self) -> bool:
        """Whether hidden texts are weighed at all, and not all alike."""
        return self.hidden_samples > 1 and self.posterior_temperature < UNIFORM_FROM

    def texts(self) -> Templates:
        return Templates(self.hidden_form, self.proposal, self.templates)

    def check_options(self) -> None:
        super().check_options()
        self.require_least({"hidden_samples": 1, "hidden_steps": 1, "hidden_tokens": 1})
        self.require_numbers("posterior_temperature", "trust_factor", "logp_penalty")
        self.require_choice("hidden_scoring", ("logprobs", "sampled", "none"))
        if self.posterior_temperature == 0:
            raise ConfigError("dln's posterior_temperature is 0; it must be above 0, or set hidden_argmax")
        unknown = [name for name in self.posteriors if name not in POSTERIORS]
        if unknown or not self.posteriors:
            raise ConfigError(f"dln's posteriors are {list(self.posteriors)}; wanted some of {', '.join(POSTERIORS)}")
        if not (self.train_hidden or self.train_output):
            raise ConfigError("dln trains neither layer; turn train_hidden or train_output on")
        self._check_scoring()

    def _check_scoring(self) -> None:
        if self.hidden_scoring == "none" and self.train_hidden:
            raise ConfigError('dln cannot train the hidden prompt with hidden_scoring "none"; turn train_hidden off')
        if self.hidden_scoring != "logprobs":
            self._refuse("hidden_scoring", ("nce", "logp_penalty"))
        if self.output_scoring == "accuracy":
            self._refuse("output_scoring", ("mutual_information", "correct_weighting", "trust_factor"))

    def _refuse(self, scoring: str, needing: tuple[str, ...]) -> None:
        """Raise where an option is on that needs the log-probabilities this scoring does without."""
        on = [name for name in needing if getattr(self, name)]
        if on:
            found = getattr(self, scoring)
            raise ConfigError(
                f'dln\'s {", ".join(on)} needs log-probabilities, and {scoring} is "{found}"; turn it off'
            )

    def first_hidden(self, task: Task) -> str:
        """The prompt of the hidden layer that training starts from."""
        return task.hidden_initial if self.initial_hidden is None else self.initial_hidden
