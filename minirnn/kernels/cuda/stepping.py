"""One step of a recurrent layer on the GPU: the kernel of whole sequences, for one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minirnn.kernels.contract import Noise, RecurrentWeights
from minirnn.kernels.cuda.array import DeviceArray
from minirnn.kernels.cuda.matrix import gemm
from minirnn.kernels.cuda.recurrence import Recurrence
from minirnn.kernels.cuda.strided import concatenate, contiguous, stack
from minirnn.kernels.equations import Equations
from minirnn.kernels.steps import dense_steps


def recurrent_step(
    equations: Equations,
    x: DeviceArray,
    weights: Mapping[str, DeviceArray],
    states: Sequence[DeviceArray],
    zoneout: float,
) -> list[DeviceArray]:
    batch, size = len(x), weights["weight_ih"].shape[0] // len(equations.input_gates)
    input_bias, bias_hh, separate = weights.get("bias_ih"), weights.get("bias_hh"), []
    if input_bias is not None and bias_hh is not None:
        input_bias = input_bias.copy()
        for run in equations.runs:
            part = bias_hh[run.first * size : (run.first + run.count) * size]
            if run.array == "gates":
                target = slice(run.index * size, (run.index + run.count) * size)
                input_bias[target] = input_bias[target] + part
            else:
                separate.append(part)
    own = RecurrentWeights(
        weight_hh=weights.get("weight_hh"),
        bias=concatenate(separate, 0) if separate else None,
        vectors=stack([weights[name] for name in equations.vectors], 0) if equations.vectors else None,
        inner=[weights[f"weight_product{number}"] for number in range(equations.products)],
        weight_hr=weights.get("weight_hr"),
    )
    gates = gemm(x, weights["weight_ih"], input_bias, transpose_b=True)
    steps, noise = dense_steps(1, batch), Noise[DeviceArray](zoneout=zoneout)
    run_of = Recurrence(equations, gates, None, None, own, states, steps, noise)
    return [contiguous(history[batch:]) for history in run_of.histories]


def gemv(x: DeviceArray, weight: DeviceArray, bias: DeviceArray | None = None) -> DeviceArray:
    return gemm(x, weight, bias, transpose_b=True)
