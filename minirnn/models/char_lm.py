"""CharLM: a language model over characters, bytes or words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Self, Unpack, get_args

import numpy as np
from numpy.typing import ArrayLike

from minirnn import kernels, random
from minirnn.autograd import ops
from minirnn.autograd.recompute import recompute
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.kernels.contract import Array, Sampler, TokenModel, Weights
from minirnn.models.body import Body, CellLike, Model, Rates, TensorLike, linear_step
from minirnn.nn.functional import Reduction, linear_cross_entropy
from minirnn.nn.layers import Linear
from minirnn.nn.module import Module
from minirnn.nn.state import State, pack_state, unpack_state
from minirnn.validation import check_choice, check_float, check_int

_CHUNK = 256  # tokens between which Ctrl-C ends generate()


class Stream:
    """An iterator over sampled tokens, a chunk at a time, made by :meth:`CharLM.stream`."""

    def __init__(
        self,
        sampler: Sampler[Array],
        run: Callable[[np.ndarray, int, int], np.ndarray],
        given: np.ndarray,
        length: int,
        chunk: int,
        single: bool,
        device: str,
    ) -> None:
        self._sampler, self._run, self._given, self._device = sampler, run, given, device
        self._length, self._chunk, self._single, self._made = length, chunk, single, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> np.ndarray:
        count = min(self._chunk, self._length - self._made)
        if count == 0:
            raise StopIteration
        out = self._run(self._given, count, self._made)
        self._given, self._made = out[-1:], self._made + count
        return out[:, 0] if self._single else out

    @property
    def state(self) -> State:
        """The state after the last chunk, in the form of :meth:`CharLM.forward`: the model has read all tokens but the
        last one sampled, with which a text continues (before the first chunk: all that came before ``prime_ids``)."""
        return pack_state([Tensor(state, device=self._device) for state in self._sampler.states()])


class CharLM(Body, Model):
    """Embedding, recurrent layers, a linear head: logits of the next token at every step.

    Where a batch has more tokens than the vocabulary, the first layer's input part is computed once per token of the
    vocabulary, not once per step.

    Args:
        vocab_size, hidden_size, num_layers: V, different tokens; units of a recurrent layer; layers.
        cell: name of a cell, a cell, its data, or a recurrent module; see :class:`~minirnn.models.body.Body`.
        embedding_size: ``hidden_size`` if None.
        dropout: probability, in training, on the outputs of every recurrent layer.
        tie_weights: the head's weight is the embedding (Press & Wolf 2017), which then has ``hidden_size`` columns and
            is dropped out too: for vocabularies of words, most of them rare.
        dtype, rates: float32 or float64; ``zoneout``, ``recurrent_dropout``, ``weight_drop`` of ``nn.Recurrent``.

    >>> import minirnn as mr
    >>> lm = mr.models.CharLM(vocab_size=65, hidden_size=128)
    >>> logits, state = lm([[1, 2], [3, 4], [5, 6]])  # three steps of two sequences
    >>> logits.shape
    (3, 2, 65)
    """

    _drops_embeddings = False

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int = 2,
        cell: CellLike | Module = "lstm",
        embedding_size: int | None = None,
        dropout: float = 0.0,
        dtype: DType = "float32",
        tie_weights: bool = False,
        **rates: Unpack[Rates],
    ) -> None:
        width = check_int("CharLM: embedding_size", hidden_size if embedding_size is None else embedding_size)
        super().__init__(vocab_size, hidden_size, num_layers, cell, False, "concat", dropout, width, dtype, **rates)
        self.vocab_size, self.hidden_size, self.num_layers = vocab_size, hidden_size, num_layers
        self.head = Linear(hidden_size, vocab_size, dtype=dtype)
        if tie_weights:
            if width != hidden_size:
                raise OptionError(
                    f"CharLM: tied weights are of one size; expected embedding_size {hidden_size}, the hidden_size, "
                    f"got {width}"
                )
            assert self.embedding is not None
            self.embedding.weight, self._drops_embeddings = self.head.weight, True

    def set_dropout(self, dropout: float | None = None, weight_drop: float | None = None) -> None:
        """Set the rates, of the outputs of each layer and of the recurrent weights, for the training that follows.

        None leaves a rate as it is.

        Raises:
            OptionError: they are not from 0 to 1, or the layers are a module or a cell that takes no such rate.
        """
        if isinstance(self._arguments["cell"], Module):
            raise OptionError("set_dropout: a module as cell has regularisation of its own")
        layers = self.layers
        layers.set_dropout(dropout, weight_drop)
        self.dropout.p = layers.dropout
        rates = self._arguments["rates"] | {"weight_drop": layers.weight_drop}
        self._arguments |= {"dropout": layers.dropout, "rates": rates}

    def forward(self, tokens: TensorLike, state: State = None) -> tuple[Tensor, State]:  # type: ignore[override]
        """Logits of the next token at every step.

        Args:
            tokens, state: [T, N] integers, or [T]; what an earlier call returned, to continue from.

        Returns:
            Logits [T, N, V] (or [T, V]), and the state after the last step.
        """
        y, state = super().forward(tokens, state=state)
        return self.head(y), state

    def step(self, x: TensorLike, state: State = None) -> tuple[Tensor, State]:  # type: ignore[override]
        """One step in evaluation mode, without a tape: tokens [N] to logits [N, V] of the next token.

        ``state`` is what :meth:`initial_state`, an earlier step or :meth:`forward` returned; it is not changed.
        """
        y, state = super().step(x, state)
        return linear_step(self.head, y), state

    def loss(
        self,
        tokens: TensorLike,
        targets: TensorLike,
        state: State = None,
        recompute_every: int | None = None,
        reduction: Reduction = "mean",
    ) -> tuple[Tensor, State]:
        """Cross-entropy over all steps, in nats, and the state after the last.

        Args:
            tokens, targets, state: [T, N] integers, targets[t] what should follow tokens[t]; as for :meth:`forward`.
            recompute_every: keep only the states after every so many steps, and compute the rest again in the backward
                pass (:func:`minirnn.recompute`): memory grows with this number, hardly with T.
            reduction: "mean", per token, or "sum".
        """
        check_choice("loss: reduction", reduction, ("mean", "sum"))
        result: tuple[Tensor, State] = self._replay(
            self, self._loss, tokens, targets, state, recompute_every, reduction
        )
        return result

    def _loss(
        self,
        tokens: TensorLike,
        targets: TensorLike,
        state: State,
        recompute_every: int | None,
        reduction: Reduction,
    ) -> tuple[Tensor, State]:
        tokens, targets = ops.as_index("CharLM tokens", tokens), ops.as_index("CharLM targets", targets)
        if tokens.shape != targets.shape:
            raise ShapeError(f"loss: tokens {list(tokens.shape)} and targets {list(targets.shape)} must have one shape")
        every = len(tokens) if recompute_every is None else check_int("loss: recompute_every", recompute_every)
        if every >= len(tokens):
            y, state = super().forward(tokens, state=state)
            head = self.head
            return linear_cross_entropy(y, head.weight, targets, linear_bias=head.bias, reduction=reduction), state
        losses = []
        for start in range(0, len(tokens), every):
            part = slice(start, start + every)
            loss, *members = recompute(partial(self._segment, tokens[part], targets[part]), *unpack_state(state))
            losses.append(loss)
            state = pack_state(members)
        total = ops.stack(losses).sum()
        return total if reduction == "sum" else total / targets.size, state

    def _segment(self, tokens: np.ndarray, targets: np.ndarray, *members: Tensor) -> tuple[Tensor, ...]:
        """Summed loss of some steps, then the members of the state after them."""
        loss, state = self.loss(tokens, targets, pack_state(members), reduction="sum")
        return loss, *unpack_state(state)

    def generate(
        self,
        prime_ids: ArrayLike,
        length: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        state: State = None,
        position: int = 0,
        exclude: Sequence[int] = (),
        weights: Weights = "float32",
    ) -> np.ndarray:
        """As :meth:`stream`, all at once: [length] integers, or [length, N] if ``prime_ids`` is [P, N]."""
        options = temperature, top_k, top_p, seed
        chunks = list(self.stream(prime_ids, length, *options, _CHUNK, state, position, exclude, weights))
        return np.concatenate(chunks) if chunks else np.empty((0, *np.shape(prime_ids)[1:]), np.int64)

    def stream(
        self,
        prime_ids: ArrayLike,
        length: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        chunk: int = 64,
        state: State = None,
        position: int = 0,
        exclude: Sequence[int] = (),
        weights: Weights = "float32",
    ) -> Stream:
        """Sample in one compiled loop, ``chunk`` tokens at a time, with the weights there are at this call.

        Args:
            prime_ids, length: [P] tokens to begin with (at least one), or [P, N] for N texts; tokens to sample.
            temperature: divides the logits: below 1 safer, above 1 more varied, 0 always the most likely.
            top_k, top_p: only the k most likely tokens (Fan, Lewis & Dauphin 2018); only the smallest set of tokens
                with this probability together (Holtzman et al. 2020).
            seed: the same seed gives the same text; drawn from :mod:`minirnn.random` if None.
            state: of :meth:`step`, :meth:`forward` or an earlier stream, to go on from; ``prime_ids`` follow it.
            position: tokens drawn with this seed before, so that a text made in parts is that of one call.
            exclude: tokens that are never sampled.
            weights: how the loop stores the matrices, but for the input of the first layer: "float32"; for a model of
                float32 on the CPU "bfloat16", half the bytes; or where the processor has VNNI "int8", a quarter, with
                a factor per row (what is multiplied with them is rounded to 16 bits). A model that does not fit the
                processor's cache is as much faster; :meth:`rounded` tells what is lost.

        Returns:
            An iterator of ``chunk`` integers, or [chunk, N], with the attribute ``state``.

        Raises:
            OptionError: an option is out of its range, the model was made with a module as cell, or there are no such
                ``weights`` for it or on this device.
            ShapeError, IndexRangeError: ``prime_ids`` has another shape, or it or ``exclude`` a token outside the
                vocabulary.

        >>> import minirnn as mr
        >>> lm = mr.models.CharLM(10, 16)
        >>> first = lm.stream([1, 2, 3], 5, seed=0)  # its state is that before the last token, the next to be read
        >>> text = [int(token) for chunk in first for token in chunk]
        >>> rest = lm.generate(text[-1:], 4, seed=0, state=first.state, position=5)
        >>> bool((lm.generate([1, 2, 3], 9, seed=0) == text + rest.tolist()).all())
        True
        """
        prime = ops.as_index("generate prime_ids", prime_ids)
        if prime.ndim not in (1, 2) or prime.size == 0:
            raise ShapeError(f"generate: expected prime_ids [P] or [P, N] with P at least 1, got {list(prime.shape)}")
        ops.check_range("generate prime_ids", prime, self.vocab_size)
        excluded = ops.as_index("generate exclude", np.array(exclude, np.int64))
        ops.check_range("generate exclude", excluded, self.vocab_size)
        length, chunk = check_int("generate: length", length, 0), check_int("generate: chunk", chunk)
        position = check_int("generate: position", position, 0)
        temperature = check_float("generate: temperature", temperature, finite=True)
        k = self.vocab_size if top_k is None else check_int("generate: top_k", top_k)
        p = 1.0 if top_p is None else check_float("generate: top_p", top_p, 0.0, 1.0, exclude_minimum=True)
        seed = random.draw_seed() if seed is None else check_int("generate: seed", seed, 0)
        check_choice("generate: weights", weights, get_args(Weights))
        if isinstance(self._arguments["cell"], Module):
            raise OptionError("generate: expected a model of a cell, whose equations make the loop; it has a module")
        given = np.ascontiguousarray(prime if prime.ndim == 2 else prime[:, None])
        seeds = np.random.SeedSequence(seed).generate_state(given.shape[1], np.uint64)
        with self.evaluating():
            sampler = self._sampler(state, given.shape[1], excluded, weights)

        def run(given: np.ndarray, count: int, start: int) -> np.ndarray:
            return sampler.run(given, count, temperature, k, p, seeds, position + start)

        return Stream(sampler, run, given, length, chunk, prime.ndim == 1, self.head.weight.device)

    def _sampler(self, state: State, batch: int, excluded: np.ndarray, weights: Weights) -> Sampler[Array]:
        """The compiled loop, with the weights as they are, from ``state`` on."""
        K, initial = kernels.on(self.head.weight.device), self.layers.split_state(state, batch)
        states = [K.stack(parts, 0) for parts in zip(*initial, strict=True)]
        return K.Sampler(self._token_model(excluded), states, weights)

    def rounded(self, weights: Weights) -> Self:
        """A copy of the model whose matrices are those that :meth:`stream` multiplies with, rounded to ``weights``.

        Its loss on a text, beside that of the model itself, is what sampling with ``weights`` costs.

        >>> import minirnn as mr
        >>> lm = mr.models.CharLM(10, 16)
        >>> text = [1, 2, 3, 4]
        >>> bool(abs(lm.rounded("int8").loss(text[:-1], text[1:])[0] - lm.loss(text[:-1], text[1:])[0]) < 0.01)
        True
        """
        from minirnn.kernels import rounding  # loads Numba

        check_choice("rounded: weights", weights, get_args(Weights))
        rounding.check_dtype(weights, self.head.weight.dtype)
        kept = "embedding.weight", "rnn.weight_ih_l0"
        copy = type(self)(**self.config).to(self.head.weight.device)
        copy.load_state_dict(
            {
                name: rounding.rounded(array, weights) if array.ndim == 2 and name not in kept else array
                for name, array in self.state_dict().items()
            }
        )
        return copy.train(self.training)

    def _token_model(self, excluded: np.ndarray) -> TokenModel[Array]:
        """The weights in the form of the compiled sampling loop, where excluded tokens have the logit -inf."""
        rnn, layers = self.layers, range(self.num_layers)
        weights = [rnn.weights(layer, 0) for layer in layers]
        first = ops.linear(self.table(), rnn.weight_ih_l0, weights[0].input_bias).data
        assert self.head.bias is not None
        bias = self.head.bias.numpy().copy()
        bias[excluded] = -np.inf
        return TokenModel(
            rnn.resolved(),
            first,
            [getattr(rnn, f"weight_ih_l{layer}").data for layer in layers[1:]],
            [one.input_bias.data for one in weights[1:] if one.input_bias is not None],
            [one.map(lambda tensor: tensor.data) for one in weights],
            self.head.weight.data,
            kernels.on(self.head.weight.device).asarray(bias),
            rnn.zoneout,
        )

    def extra_repr(self) -> str:
        return f"vocab_size={self.vocab_size}, hidden_size={self.hidden_size}, num_layers={self.num_layers}"
