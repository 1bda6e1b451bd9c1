"""Prompt texts of EvoPrompt."""
