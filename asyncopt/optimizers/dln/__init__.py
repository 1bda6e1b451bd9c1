"""Deep language networks: one or two language layers whose prompts are trained (Sordoni et al., NeurIPS 2023)."""
