"""Commands that this domain adds to ``python -m cyqd``."""
