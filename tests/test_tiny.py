"""Does anything work at all? Seconds."""

import numpy as np

import minirnn as mr


def test_a_network_learns_the_next_symbol() -> None:
    """A GRU learns to continue 0 1 2 0 1 2 ... without a fault."""
    mr.manual_seed(0)
    model = mr.models.CharLM(3, 16, num_layers=1, cell="gru")
    optimizer = mr.optim.Adam(model.parameters(), lr=0.02)
    sequence = np.arange(31)[:, None] % 3
    for _ in range(60):
        optimizer.zero_grad()
        logits, _ = model(sequence[:-1])
        loss = mr.nn.functional.cross_entropy(logits.reshape(-1, 3), sequence[1:].reshape(-1))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert model.generate([0], 6, temperature=0).tolist() == [1, 2, 0, 1, 2, 0]
