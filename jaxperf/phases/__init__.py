"""From stages to what a user sees: decode, prefill, end to end."""
