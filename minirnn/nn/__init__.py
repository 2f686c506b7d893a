"""Modules: layers, recurrent layers and cells, attention and losses, under PyTorch's names."""

from minirnn.nn import functional
from minirnn.nn.attention import Attention
from minirnn.nn.cells import Cell, GRUCell, LSTMCell, RecurrentCell, RNNCell
from minirnn.nn.layers import Dropout, Embedding, LayerNorm, Linear, ReLU, Sigmoid, Tanh
from minirnn.nn.losses import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, CTCLoss, HuberLoss, L1Loss, MSELoss, NLLLoss
from minirnn.nn.module import Module, ModuleList, Parameter, Sequential
from minirnn.nn.recurrent import Recurrent
from minirnn.nn.rnn import GRU, LSTM, RNN
from minirnn.nn.unrolled import Bidirectional

__all__ = ["GRU", "LSTM", "RNN", "Attention", "BCELoss", "BCEWithLogitsLoss", "Bidirectional", "CTCLoss", "Cell"]
__all__ += ["CrossEntropyLoss", "Dropout", "Embedding", "GRUCell", "HuberLoss", "L1Loss", "LSTMCell", "LayerNorm"]
__all__ += ["Linear", "MSELoss", "Module", "ModuleList", "NLLLoss", "Parameter", "RNNCell", "ReLU", "Recurrent"]
__all__ += ["RecurrentCell", "Sequential", "Sigmoid", "Tanh", "functional"]
