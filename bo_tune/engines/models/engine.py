"""What a vLLM engine asks for: the numbers of tokens in its steps, and the ranks it may be started with.

Read from vLLM 0.33.0 (``config/vllm.py``, ``config/lora.py``, ``engine/arg_utils.py``). Steps of up to 512 tokens
run as CUDA graphs, padded to one of the captured sizes; larger ones, which hold prefill chunks, run as they come.
"""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that the engine's ``--max-lora-rank`` may have."""

CAPTURE_SIZES = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""Tokens of the steps that are captured as CUDA graphs."""

PREFILL_SIZES = (768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Tokens of larger steps, as samples of what may come."""

MAX_SEQUENCES = 1024
"""The engine's ``--max-num-seqs`` on large GPUs: most rows of hidden states that become logits."""

MAX_BATCHED_TOKENS = 8192
"""The engine's ``--max-num-batched-tokens`` on large GPUs: most tokens in a step."""

M_LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Tokens in a step to tune where none are named. Powers of two: no number in between is more than a third away from its
nearest key, and ``bo-tune tune --m auto`` adds keys where that is not near enough."""

MOST_LOGITS = 258048
"""Largest vocabulary whose lm_head vLLM lets adapters change."""


def is_sampled(m: int) -> bool:
    """Say whether m is one of the sizes that stand for all: a captured one, or a larger multiple of 16.

    Triton compiles other binaries for an m that is none; keys at such m would be tuned on what is rare.
    """
    return m in CAPTURE_SIZES or (m > CAPTURE_SIZES[-1] and m % 16 == 0)


def step_sizes(largest: int = MAX_BATCHED_TOKENS) -> tuple[int, ...]:
    """Return the numbers of tokens to try an engine's lookups with, up to its most tokens in a step, ascending."""
    sizes = {m for m in (*CAPTURE_SIZES, *PREFILL_SIZES) if m <= largest}
    return tuple(sorted({*sizes, largest}))


def token_ladder(largest: int = MAX_BATCHED_TOKENS, draft_tokens: int = 0) -> tuple[int, ...]:
    """Return the numbers of tokens to tune where none are named: ``M_LADDER`` as one engine runs it.

    An engine that speculates captures multiples of a sequence's tokens alone. The largest step, a whole chunk of
    prefill, has a key in any case.

    Args:
        largest: the engine's ``--max-num-batched-tokens``.
        draft_tokens: tokens that it drafts for a sequence.
    """
    width = 1 + draft_tokens
    last = max(width, CAPTURE_SIZES[-1] // width * width)
    captured = {min(-(-m // width) * width, last) for m in M_LADDER if m <= CAPTURE_SIZES[-1]}
    eager = {m for m in M_LADDER if m > CAPTURE_SIZES[-1]}
    return tuple(sorted({largest, *(m for m in captured | eager if m <= largest)}))


def serving_rank(rank: int) -> int | None:
    """Return the least ``--max-lora-rank`` that serves adapters of a rank, or None where there is none."""
    return min((allowed for allowed in LORA_RANKS if allowed >= rank), default=None)
