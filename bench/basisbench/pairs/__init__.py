"""From sentences to aligned groups of token ids."""
