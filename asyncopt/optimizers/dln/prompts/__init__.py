"""Prompt texts of Deep Language Networks."""
