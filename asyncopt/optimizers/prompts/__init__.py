"""Prompt texts that several optimizers share."""
