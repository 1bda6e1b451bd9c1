"""Prompt texts of OPRO."""
