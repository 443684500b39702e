"""The generation parameters of transformers that callers may pass."""

from __future__ import annotations

#: Parameters in addition to those that every backend accepts; `sampling.Sampler` applies them.
#: See https://huggingface.co/docs/transformers/main_classes/text_generation
GENERATION_PARAMETERS = frozenset(
    """
    do_sample min_new_tokens min_length no_repeat_ngram_size typical_p epsilon_cutoff eta_cutoff bad_words_ids
    sequence_bias suppress_tokens begin_suppress_tokens exponential_decay_length_penalty remove_invalid_values
    renormalize_logits logit_bias logits_processor eos_token_id ignore_eos num_beams num_return_sequences use_cache
    """.split()  # noqa: SIM905
)
