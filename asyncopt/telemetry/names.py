"""Every name that is told to OpenTelemetry, in one place: the conventions still change.

They are those of open-telemetry/semantic-conventions-genai as of November 2026 (status: Development), which began as
the gen_ai part of OpenTelemetry's semantic conventions 1.37. What those do not have begins with ``asyncopt.``.
"""

from __future__ import annotations

SCOPE = "asyncopt"  # of all instruments

# Metrics, with the bucket boundaries that the conventions want.
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105 - no password
TOKEN_UNIT = "{token}"  # noqa: S105 - no password
TOKEN_BUCKETS = tuple(4**power for power in range(14))  # 1 to 67,108,864
OPERATION_DURATION = "gen_ai.client.operation.duration"
DURATION_UNIT = "s"
DURATION_BUCKETS = tuple(0.01 * 2**power for power in range(14))  # 10 ms to 82 s
ATTEMPTS_FAILED = "asyncopt.attempts.failed"
ATTEMPT_UNIT = "{attempt}"

# Attributes.
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_SEED = "gen_ai.request.seed"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - no password
INPUT, OUTPUT = "input", "output"
WORKFLOW_NAME = "gen_ai.workflow.name"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

# Operations; the last is not in the conventions.
CHAT = "chat"
TEXT_COMPLETION = "text_completion"
INVOKE_WORKFLOW = "invoke_workflow"
LIKELIHOOD = "likelihood"

# The event of a candidate's score.
EVALUATION_RESULT = "gen_ai.evaluation.result"
EVALUATION_NAME = "gen_ai.evaluation.name"
EVALUATION_SCORE = "gen_ai.evaluation.score.value"
NO_SCORE = "no_score"

# What is told of studies beyond that.
STEP_SPAN = "asyncopt step"
TASK = "asyncopt.task"
STEP = "asyncopt.step"
STEPS = "asyncopt.steps"
BEST_SCORE = "asyncopt.best_score"
CANDIDATE = "asyncopt.candidate"  # its text, which is content
INDEX = "asyncopt.candidate.index"
SOURCE = "asyncopt.candidate.source"
EXAMPLES = "asyncopt.candidate.examples"
PARTIAL = "asyncopt.candidate.partial"
PROVISIONAL = "asyncopt.candidate.provisional"
ATTEMPTS = "asyncopt.attempts"
QUEUED = "asyncopt.queued"  # seconds

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

# Providers by the host that is asked; every other server speaks OpenAI's format, as far as is known here.
PROVIDERS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "x_ai",
    "openrouter.ai": "openrouter",
}
AZURE_HOSTS, AZURE = ".openai.azure.com", "azure.ai.openai"
COMPATIBLE = "openai"
