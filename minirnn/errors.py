"""Every exception that minirnn raises on purpose::

    MinirnnError
    ├── ShapeError (ValueError)
    ├── DTypeError (TypeError)
    ├── DeviceError (RuntimeError)
    ├── OptionError (ValueError)
    ├── CellError (TypeError)
    ├── IndexRangeError (IndexError)
    ├── GradientError (RuntimeError)
    ├── AnomalyError (ArithmeticError)
    ├── DataError (ValueError)
    ├── CheckpointError (ValueError)
    ├── SaveError (OSError)
    └── DivergedError (ArithmeticError)

Each also derives from the built-in exception in parentheses, so that ``except ValueError`` keeps working.
"""


class MinirnnError(Exception):
    """Base of every error minirnn raises on purpose."""


class ShapeError(MinirnnError, ValueError):
    """An array does not have the shape an operation needs."""


class DTypeError(MinirnnError, TypeError):
    """An array does not have the element type an operation needs."""


class DeviceError(MinirnnError, RuntimeError):
    """A device is unknown, missing, or two devices are mixed in one operation."""


class OptionError(MinirnnError, ValueError):
    """An option is unknown or out of its range."""


class CellError(MinirnnError, TypeError):
    """The equations of a recurrent cell cannot be traced, or the description of a cell is damaged."""


class IndexRangeError(MinirnnError, IndexError):
    """An index points outside the table it indexes."""


class GradientError(MinirnnError, RuntimeError):
    """Backward cannot run: no graph, a graph already freed, or a gradient that does not fit."""


class AnomalyError(MinirnnError, ArithmeticError):
    """A NaN appeared while :func:`minirnn.detect_anomaly` was watching."""


class DataError(MinirnnError, ValueError):
    """A corpus or data file cannot be used as it is."""


class CheckpointError(MinirnnError, ValueError):
    """A checkpoint file is missing, damaged, or does not fit the model."""


class SaveError(MinirnnError, OSError):
    """A run ended, and its state could not be written."""


class DivergedError(MinirnnError, ArithmeticError):
    """Training produced NaN or infinity again and again."""
