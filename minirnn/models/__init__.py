"""FLOOR 4: whole models, each a few lines of composition: the five input/output shapes, and the character model."""

from minirnn.models.char_lm import CharLM
from minirnn.models.encoder_decoder import EncoderDecoder
from minirnn.models.shapes import ManyToMany, ManyToOne, OneToMany, OneToOne

__all__ = ["CharLM", "EncoderDecoder", "ManyToMany", "ManyToOne", "OneToMany", "OneToOne"]
