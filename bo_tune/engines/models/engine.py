"""The sizes that a vLLM engine asks for: the numbers of tokens in its steps, and its possible ranks.

Read from vLLM 0.33.0 (``config/vllm.py``, ``config/lora.py``, ``engine/arg_utils.py``). Steps of up to 512 tokens run
as CUDA graphs, padded to one of the captured sizes. Larger steps, which hold prefill chunks, run unpadded.
"""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Possible values of the engine's ``--max-lora-rank``."""

CAPTURE_SIZES = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""Tokens of the steps that are captured as CUDA graphs."""

PREFILL_SIZES = (768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Tokens of larger steps, as samples of what may occur."""

MAX_SEQUENCES = 1024
"""The engine's ``--max-num-seqs`` on large GPUs: the most rows of hidden states that become logits."""

MAX_BATCHED_TOKENS = 8192
"""The engine's ``--max-num-batched-tokens`` on large GPUs: the most tokens in a step."""

M_LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Default numbers of tokens to tune. With powers of two, no number in between is more than a third away from its
nearest key. ``bo-tune tune --m auto`` adds keys if that is not near enough."""

MOST_LOGITS = 258048
"""Largest vocabulary for which vLLM lets adapters change lm_head."""


def is_sampled(m: int) -> bool:
    """Say whether m is one of the sizes that represent all others: a captured size, or a larger multiple of 16.

    Triton compiles other binaries for other m. Keys at such m would be tuned for a rare case.
    """
    return m in CAPTURE_SIZES or (m > CAPTURE_SIZES[-1] and m % 16 == 0)


def step_sizes(largest: int = MAX_BATCHED_TOKENS) -> tuple[int, ...]:
    """Return the numbers of tokens, ascending, at which to try an engine's lookups, up to its largest step."""
    sizes = {m for m in (*CAPTURE_SIZES, *PREFILL_SIZES) if m <= largest}
    return tuple(sorted({*sizes, largest}))


def token_ladder(largest: int = MAX_BATCHED_TOKENS, draft_tokens: int = 0) -> tuple[int, ...]:
    """Return the default numbers of tokens to tune: ``M_LADDER`` as one engine runs it.

    An engine that speculates captures only multiples of a sequence's tokens. The largest step, a whole chunk of
    prefill, always has a key.

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
    """Return the least ``--max-lora-rank`` that serves adapters of a rank, or None if there is none."""
    return min((allowed for allowed in LORA_RANKS if allowed >= rank), default=None)
