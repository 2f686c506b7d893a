"""FLOOR 4: whole models, each a few lines of composition."""

from minirnn.models.char_lm import CharLM

__all__ = ["CharLM"]
