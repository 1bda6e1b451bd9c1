"""The optimizers DLN-1 and DLN-2: language layers whose prompts are trained (Sordoni et al., NeurIPS 2023).

Everything that needs numpy is imported when a run begins, so that importing the package stays light.
"""

from __future__ import annotations

from dataclasses import dataclass

from asyncopt.engine import Model
from asyncopt.errors import ConfigError, MissingCapability
from asyncopt.optimizers.base import AnyTask, Search
from asyncopt.optimizers.dln.asking import Proposer
from asyncopt.optimizers.dln.layers import OneLayer, OutputLayer, TwoLayers, pair_of
from asyncopt.optimizers.dln.likelihoods import (
    AGREEMENT,
    EXACT,
    UNSCORED,
    check_output,
    output_estimator,
    require_prompt_logprobs,
)
from asyncopt.optimizers.dln.options import Training, TwoLayerOptions, examples_of
from asyncopt.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class DLN1(Training):
    """One language layer, p(y | F(x, π)), whose prompt π is trained (DLN, section 3.1; algorithm 1).

    A candidate is the prompt itself. :class:`~asyncopt.optimizers.dln.options.Training` has the options.
    """

    name: str = "dln1"

    def __post_init__(self) -> None:
        self.check_options()

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        checked, forward_model, _ = self.check_study(task, scorer, proposer)
        check_output(checked, self, forward_model)

    def estimators(self, task: AnyTask) -> dict[str, str]:
        """How the log-probabilities of each layer are found, for reports."""
        return {"output": output_estimator(examples_of(task), self).name}

    def program(self, task: AnyTask) -> OneLayer:
        return OneLayer(_output_layer(examples_of(task), self))

    async def run(self, search: Search) -> None:
        from asyncopt.optimizers.dln.dln1 import OneLayerNetwork
        from asyncopt.optimizers.dln.inference import Ask
        from asyncopt.optimizers.dln.loop import Loop

        task, scorer, proposer = self.check_study(search.task, search.scorer, search.proposer)
        backward = Proposer(search, proposer, self.texts(), self.backward_temperature, self.proposal_tokens)
        network = OneLayerNetwork(Ask(search, self, scorer, backward), self.program(task))
        await Loop(search, self, task, scorer, network, "dln-1", self.estimators(task)).run(self.first_output(task))


@dataclass(frozen=True, kw_only=True)
class DLN2(TwoLayerOptions):
    """Two language layers, p(y | x) = Σ_h p(y | F_r(h, x, π1)) p(h | F(x, π0)), trained together (DLN, section 3.2).

    A candidate is the JSON text ``{"hidden": π0, "output": π1}``. The steps are those of algorithm 2, with the options
    of :class:`~asyncopt.optimizers.dln.options.TwoLayerOptions`.
    """

    name: str = "dln2"

    def __post_init__(self) -> None:
        self.check_options()

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        checked, forward_model, backward_model = self.check_study(task, scorer, proposer)
        check_output(checked, self, forward_model)
        self._check_hidden(forward_model)
        if self.trust_factor and not checked.classes:
            raise ConfigError(
                f"dln's trust_factor is {self.trust_factor} and {checked.name} has no classes to compare distributions "
                "over; set trust_factor to 0, or give the task its classes"
            )
        if self.correct_weighting and self.weighs and not backward_model.supports.top_logprobs:
            raise MissingCapability(
                f"dln's correct_weighting needs log-probabilities of samples, and {backward_model.name} gives none; "
                "turn it off, or choose another proposer"
            )

    def _check_hidden(self, scorer: Model) -> None:
        prior = "turn include_prior off" if self.hidden_samples > 1 else ""
        other = 'set hidden_scoring to "sampled"' if self.train_hidden else prior
        if self.hidden_scoring == "logprobs" and (self.train_hidden or self.has_prior):
            require_prompt_logprobs(
                scorer,
                "the log-probabilities of hidden texts, which DLN-2 rests on,",
                f'{other}, or to "none" with train_hidden off (neither is the paper\'s estimator)',
            )
        if self.mutual_information and self.weighs:
            require_prompt_logprobs(scorer, "log p(y | h) without x", "turn mutual_information off")

    def estimators(self, task: AnyTask) -> dict[str, str]:
        """How the log-probabilities of each layer are found, for reports."""
        hidden = {"logprobs": EXACT, "sampled": AGREEMENT, "none": UNSCORED}[self.hidden_scoring]
        return {"hidden": hidden, "output": output_estimator(examples_of(task), self).name}

    def program(self, task: AnyTask) -> TwoLayers:
        layer = _output_layer(examples_of(task), self)
        return TwoLayers(layer, self.hidden_tokens, self.strip_options, self.residual)

    async def run(self, search: Search) -> None:
        from asyncopt.optimizers.dln.dln2 import TwoLayerNetwork
        from asyncopt.optimizers.dln.inference import Ask
        from asyncopt.optimizers.dln.loop import Loop

        task, scorer, proposer = self.check_study(search.task, search.scorer, search.proposer)
        backward = Proposer(search, proposer, self.texts(), self.backward_temperature, self.proposal_tokens)
        network = TwoLayerNetwork(Ask(search, self, scorer, backward), self, self.program(task))
        initial = pair_of(self.first_hidden(task), self.first_output(task))
        await Loop(search, self, task, scorer, network, "dln-2", self.estimators(task)).run(initial)


def _output_layer(task: Task, options: Training) -> OutputLayer:
    return OutputLayer(task, options.texts(), output_estimator(task, options), options.forward_tokens)
