"""Print loss and accuracy on the held-out digits as one JSON line: python evaluate.py CHECKPOINT.

The pictures are in held-out.safetensors of the working folder. Without torch, because a program
that judges one point of a line is started once for every point.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from safetensors.numpy import load_file


def logits(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return what an nn.Sequential of Linear and ReLU makes of x, by its state dict."""
    *hidden, last = sorted({int(name.partition(".")[0]) for name in weights})
    for layer in hidden:
        x = np.maximum(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"], 0)
    return x @ weights[f"{last}.weight"].T + weights[f"{last}.bias"]


def judged(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return cross-entropy in nats and the share of right answers."""
    shifted = scores - scores.max(1, keepdims=True)
    right = shifted[np.arange(len(labels)), labels]
    losses = np.log(np.exp(shifted).sum(1)) - right
    return {
        "loss": round(float(losses.mean()), 4),
        "accuracy": round(float((scores.argmax(1) == labels).mean()), 4),
    }


def main(checkpoint: str) -> None:
    held_out = load_file("held-out.safetensors")
    scores = logits(load_file(checkpoint), held_out["pictures"])
    print(json.dumps(judged(scores, held_out["labels"])))


if __name__ == "__main__":
    main(sys.argv[1])
