"""Cells that other libraries have as well compute what those compute: ONNX Runtime and PyTorch are the oracles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cell_paths import gradient, make_batch, make_layer, weighted_sum

from minirnn.nn.state import pack_state, unpack_state

LENGTHS = [3, 6, 1, 4]
REASON = "is the oracle; install minirnn[peers]"


def reordered(array: np.ndarray, order: list[int], size: int) -> np.ndarray:
    """Blocks of ``size`` rows in another order."""
    return np.concatenate([array[k * size : (k + 1) * size] for k in order])


def run_onnx(op: str, tensors: dict[str, np.ndarray], states: list[str], **attributes: Any) -> list[np.ndarray]:
    """One node of ONNX, named inputs in its own order; gives Y [T, D, N, H] and the final states [D, N, H]."""
    onnx = pytest.importorskip("onnx", reason=f"onnx {REASON}")
    runtime = pytest.importorskip("onnxruntime", reason=f"onnxruntime {REASON}")
    helper, kinds = onnx.helper, {"float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}
    outputs = ["Y", *states]
    node = helper.make_node(op, list(tensors), outputs, **attributes)
    graph = helper.make_graph(
        [node], op, [helper.make_tensor_value_info(n, kinds[str(a.dtype)], a.shape) for n, a in tensors.items()],
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None] * (4 if n == "Y" else 3)) for n in outputs],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, tensors)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["gru_reset_before", "peephole_lstm"])
def test_cells_equal_onnx(name: str, bidirectional: bool) -> None:
    """The GRU with linear_before_reset=0, whose gates ONNX orders z, r, h; and the LSTM with peepholes, i, o, f, c."""
    size, directions = 7, 1 + bidirectional
    layer = make_layer(name, 3, size, bidirectional=bidirectional, dtype="float32")
    x, states, _ = make_batch(layer, 6, 4)
    parts: dict[str, list[np.ndarray]] = {"W": [], "R": [], "B": [], "P": []}
    for end in ("", "_reverse")[:directions]:
        own = {
            key: getattr(layer, f"{key}_l0{end}").numpy() for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        if name == "gru_reset_before":
            order = [1, 0, 2]
            own["weight_hh"] = np.concatenate([own["weight_hh"], getattr(layer, f"weight_product0_l0{end}").numpy()])
            own["bias_hh"] = np.concatenate([own["bias_hh"], np.zeros(size, np.float32)])
        else:
            order = [0, 3, 1, 2]
            parts["P"].append(np.concatenate([getattr(layer, f"p_{gate}_l0{end}").numpy() for gate in "iof"]))
        parts["W"].append(reordered(own["weight_ih"], order, size))
        parts["R"].append(reordered(own["weight_hh"], order, size))
        parts["B"].append(np.concatenate([reordered(own[bias], order, size) for bias in ("bias_ih", "bias_hh")]))
    stacked = {key: np.stack(values) for key, values in parts.items() if values}
    tensors = {"X": x.numpy(), **{key: stacked[key] for key in "WRB"}, "sequence_lens": np.array(LENGTHS, np.int32)}
    tensors |= {f"initial_{n}": state.numpy() for n, state in enumerate(states)}
    options: dict[str, Any] = {"hidden_size": size, "direction": "bidirectional" if bidirectional else "forward"}
    if name == "gru_reset_before":
        options["linear_before_reset"] = 0
    else:
        tensors["P"] = stacked["P"]
    expected = run_onnx(
        "GRU" if name == "gru_reset_before" else "LSTM", tensors, ["Y_h", "Y_c"][: len(states)], **options
    )

    y, final = layer(x, pack_state(states), lengths=LENGTHS)
    theirs = expected[0].transpose(0, 2, 1, 3).reshape(6, 4, directions * size)
    np.testing.assert_allclose(y.numpy(), theirs, rtol=0, atol=2e-6)
    for ours, state in zip(unpack_state(final), expected[1:], strict=True):
        np.testing.assert_allclose(ours.numpy(), state, rtol=0, atol=5e-6)


def test_layer_norm_lstm_matches_a_pytorch_loop(torch: Any, plain_kernels: None) -> None:
    """Values and every gradient, with ragged lengths."""
    functional = torch.nn.functional
    layer = make_layer("layer_norm_lstm", 3, 7)
    x, states, _ = make_batch(layer, 6, 4)
    y, (h_n, c_n) = layer(x, tuple(states), lengths=LENGTHS)
    weighted_sum([y, h_n, c_n]).backward()

    leaves = {"x": x, "h": states[0], "c": states[1]} | dict(layer.named_parameters())
    t = {name: torch.tensor(leaf.numpy(), requires_grad=True) for name, leaf in leaves.items()}
    bias, h, c, outputs = t["bias_ih_l0"] + t["bias_hh_l0"], t["h"][0], t["c"][0], []

    def norm(value: Any, which: str) -> Any:
        return functional.layer_norm(value, (7,), t[f"w_{which}_l0"], t[f"b_{which}_l0"], 1e-5)

    for step in range(6):
        running = (torch.tensor(LENGTHS) > step)[:, None]
        gates = (t["x"][step] @ t["weight_ih_l0"].T + h @ t["weight_hh_l0"].T + bias).chunk(4, 1)
        i, f, g, o = (norm(gate, which) for gate, which in zip(gates, "ifgo", strict=True))
        c_new = norm(f.sigmoid() * c + i.sigmoid() * g.tanh(), "c")
        h_new = o.sigmoid() * c_new.tanh()
        h, c = torch.where(running, h_new, h), torch.where(running, c_new, c)
        outputs.append(torch.where(running, h, 0.0))
    theirs = [torch.stack(outputs), h[None], c[None]]
    rng = np.random.default_rng(3)  # as weighted_sum draws
    sum((o * torch.tensor(rng.standard_normal(tuple(o.shape)))).sum() for o in theirs).backward()
    for ours, output in zip((y, h_n, c_n), theirs, strict=True):
        np.testing.assert_allclose(ours.numpy(), output.detach().numpy(), rtol=1e-12, atol=1e-13)
    for name, leaf in leaves.items():
        expected = t[name].grad.numpy()
        np.testing.assert_allclose(gradient(leaf), expected, rtol=0, atol=1e-11 * np.abs(expected).max(), err_msg=name)
