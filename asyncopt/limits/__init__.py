"""What holds a call back: meters, slots, the gate after a 429, backoff, and budgets."""
