"""The texts of all requests of a language network, by role, in words of our own (reference code: its templates).

A layer is p(y | F(x, π)): a template F merges the input x and the prompt π. ``forward`` is F of the output layer and of
DLN-1, ``hidden`` is F of the hidden layer, and ``residual`` is what the output layer gets for its input (F_r: x and h).
The hidden texts of the posterior q come from ``hidden`` itself (the prior), from ``posterior_label`` (the prior plus
the label) and from ``posterior_edit``; new prompts (B_π) come from ``proposal``. ``forward`` and the analysis form of
``hidden`` begin with the prompt, so their requests share a prefix by candidate; the other form of ``hidden`` begins
with the input and shares it by example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from asyncopt.errors import ConfigError
from asyncopt.templates import compiled, packaged

PROMPTS = "asyncopt.optimizers.dln.prompts"

TemplateRole: TypeAlias = Literal["forward", "residual", "hidden", "posterior_label", "posterior_edit", "proposal"]
HiddenForm: TypeAlias = Literal["steps", "analysis"]
ProposalForm: TypeAlias = Literal["sections", "brief", "concise", "rewrite"]
Posterior: TypeAlias = Literal["prior", "label", "edit"]

TEMPLATE_ROLES: tuple[TemplateRole, ...] = get_args(TemplateRole)
HIDDEN_FORMS: tuple[HiddenForm, ...] = get_args(HiddenForm)
PROPOSAL_FORMS: tuple[ProposalForm, ...] = get_args(ProposalForm)
POSTERIORS: tuple[Posterior, ...] = get_args(Posterior)

_SECTIONS = (
    "Make it clearer with a few words or one short sentence.",
    "Put examples into it that show how the task is solved.",
    "Make it shorter: leave out every word that does nothing.",
    "Write it anew in full detail, so that it can be understood in one way only.",
)
_BRIEF = tuple(text if place == 2 else f"{text} Stay concise." for place, text in enumerate(_SECTIONS))
_PROPOSAL_MESSAGES: Mapping[ProposalForm, tuple[str, ...]] = {"sections": _SECTIONS, "brief": _BRIEF}
_EDIT_MESSAGES: Mapping[HiddenForm, tuple[str, ...]] = {
    "steps": (
        "Go over these thoughts again and explain each of them in more detail.",
        "Correct what is wrong in these thoughts, add examples that make them plain, and be concise.",
        "Say these thoughts more clearly and in fewer words.",
    ),
    "analysis": (
        "Go over this analysis again and add what the instruction and the right answer call for. Be concise.",
        "Say this analysis more clearly, such that it agrees with the right answer and the instruction.",
    ),
}
_HIDDEN_STOP = ("#",)
_PROPOSAL_STOP: Mapping[ProposalForm, tuple[str, ...]] = {
    "sections": ("\n\n", "[END]", "#"),
    "brief": ("\n\n", "[END]", "#"),
    "concise": ("[END]",),
    "rewrite": ("\n",),
}

_VARIABLES: Mapping[TemplateRole, tuple[str, ...]] = {
    "forward": ("prompt", "input"),
    "residual": ("input", "hidden"),
    "hidden": ("input", "prompt"),
    "posterior_label": ("input", "target", "prompt"),
    "posterior_edit": ("next_prompt", "input", "hidden", "target"),
    "proposal": (
        "prompt",
        "successes.input",
        "successes.target",
        "errors.input",
        "errors.output",
        "errors.target",
    ),
}

_Render: TypeAlias = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Case:
    """One example of a batch as a layer met it: the input x, the layer's output, what is wanted of it, and the loss.

    For the output layer these are r(x, h), ŷ and y; for the hidden layer x, the forward h and the best posterior h*
    (y where h* is still to be found). The loss in [0, 1] is that of the network's answer for both.
    """

    input: str
    output: str
    target: str
    loss: float


@dataclass(frozen=True)
class Templates:
    """The text of every request; all are stripped on both sides, and what is put into them is data.

    ``hidden_form`` cues the hidden layer and the posterior with thoughts in ``steps`` after the prompt, or with a short
    ``analysis`` after the input. ``proposal_form`` shows the batch in ``sections``, with a message that rotates over
    four wishes (the reference's version 3.0); ``brief`` asks in three of them to stay concise (3.5); ``concise`` leaves
    out empty sections and has one fixed wish (3.6); ``rewrite``, for models that cannot learn from errors, asks for the
    base prompt in other words, and where that is empty as ``concise`` does. ``replaced`` has templates of the user's
    own by role; one that never shows one of its role's variables is a :class:`ConfigError`.
    """

    hidden_form: HiddenForm = "steps"
    proposal_form: ProposalForm = "sections"
    replaced: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        _require_choice("hidden_form", self.hidden_form, HIDDEN_FORMS)
        _require_choice("proposal", self.proposal_form, PROPOSAL_FORMS)
        if not isinstance(self.replaced, Mapping):
            raise ConfigError(f"dln's templates are {self.replaced!r}; they must be texts by role")
        for role, template in self.replaced.items():
            _require_choice("template role", role, TEMPLATE_ROLES)
            if not isinstance(template, str):
                raise ConfigError(f"dln's template for {role} is {template!r}; it must be a text")
        for role in TEMPLATE_ROLES:
            if role in self.replaced:
                self._check(role)

    def forward(self, prompt: str, text: str) -> str:
        """F(x, π) of the output layer: prompt, input, cue for the answer."""
        return self._render("forward", prompt=prompt, input=text)

    def residual(self, text: str, hidden: str) -> str:
        """r(x, h), which the output layer gets for its input: the network's input, then the hidden text."""
        return self._render("residual", input=text, hidden=hidden)

    def hidden(self, prompt: str, text: str) -> str:
        """F(x, π) of the hidden layer, which is also the prior's share of q."""
        return self._render("hidden", prompt=prompt, input=text)

    def posterior(self, kind: Posterior, case: Case, prompt: str, next_prompt: str, message: str = "") -> str:
        """The request for one sample of q(h | x, y): ``case`` has x, the forward h as its output, and y as its target.

        ``prompt`` is the hidden layer's π0, ``next_prompt`` the output layer's π1.
        """
        if kind == "prior":
            return self.hidden(prompt, case.input)
        if kind == "label":
            return self._render("posterior_label", input=case.input, target=case.target, prompt=prompt)
        return self._render(
            "posterior_edit",
            next_prompt=next_prompt,
            input=case.input,
            hidden=case.output,
            target=case.target,
            message=message,
        )

    def proposal(self, prompt: str, cases: Sequence[Case], message: str = "") -> str:
        """The request for a new prompt (B_π): the base prompt, cases of loss 0, all other cases, the wish."""
        return self._render(
            "proposal",
            prompt=prompt,
            successes=[case for case in cases if case.loss == 0],
            errors=[case for case in cases if case.loss > 0],
            message=message,
        )

    def messages(self, role: TemplateRole) -> tuple[str, ...]:
        """The wishes that a role's requests rotate over; empty where it has none."""
        if role == "proposal":
            return _PROPOSAL_MESSAGES.get(self.proposal_form, ())
        return _EDIT_MESSAGES[self.hidden_form] if role == "posterior_edit" else ()

    def stop(self, role: TemplateRole) -> tuple[str, ...]:
        """The texts at which an answer to this role's requests ends; none for ``residual``, which is no request."""
        if role == "proposal":
            return _PROPOSAL_STOP[self.proposal_form]
        if role == "residual":
            return ()
        # Every way to a hidden text ends it in the same way, or the samples of q could not come from the layer itself.
        return ("[END]", "#") if role == "forward" else _HIDDEN_STOP

    def _render(self, role: TemplateRole, **values: object) -> str:
        return self._template(role)(**values).strip()

    def _template(self, role: TemplateRole) -> _Render:
        if role in self.replaced:
            return compiled(self.replaced[role])
        if role in ("forward", "residual"):
            return _packaged(f"{role}.j2")
        if role == "proposal":
            return _packaged(f"{role}_{'sections' if self.proposal_form in _PROPOSAL_MESSAGES else 'concise'}.j2")
        return _packaged(f"{role}_{self.hidden_form}.j2")

    def _check(self, role: TemplateRole) -> None:
        marks = {name: f"@{name}@" for name in self._variables(role)}
        try:
            text = self._marked(role, marks)
        except Exception as error:  # a template can raise anything; better before the first call than at it
            names = ", ".join(marks)
            raise ConfigError(f"dln's template for {role} cannot be rendered: {error}; it has {names}") from None
        missing = [name for name, mark in marks.items() if mark not in text]
        if missing:
            raise ConfigError(
                f"dln's template for {role} never shows {', '.join(missing)}; it needs all of its variables"
            )

    def _marked(self, role: TemplateRole, marks: Mapping[str, str]) -> str:
        """The role's template, rendered with a mark for every variable."""
        if role != "proposal":
            return self._render(role, **marks)
        right = Case(marks["successes.input"], "", marks["successes.target"], 0.0)
        wrong = Case(marks["errors.input"], marks["errors.output"], marks["errors.target"], 1.0)
        return self.proposal(marks["prompt"], [right, wrong], marks.get("message", ""))

    def _variables(self, role: TemplateRole) -> tuple[str, ...]:
        message = ("message",) if self.messages(role) else ()
        return (*_VARIABLES[role], *message)


@cache
def _packaged(name: str) -> _Render:
    # A step renders thousands of texts; the file is read once.
    return packaged(PROMPTS, name)


def _require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"dln's {name} is {value!r}; it must be one of {', '.join(choices)}")
