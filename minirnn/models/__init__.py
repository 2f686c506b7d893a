"""Whole models, each a few lines of composition: the five input/output types, and the character model."""

from minirnn.models.char_lm import CharLM
from minirnn.models.encoder_decoder import EncoderDecoder
from minirnn.models.one_to_many import OneToMany
from minirnn.models.one_to_one import OneToOne
from minirnn.models.sequences import ManyToMany, ManyToOne

__all__ = ["CharLM", "EncoderDecoder", "ManyToMany", "ManyToOne", "OneToMany", "OneToOne"]
