"""Tiny ONNX models, written byte by byte: logistic(x @ W + b) of named float inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

FLOAT = 1


def _varint(n: int) -> bytes:
    out = b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def _field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _tensor(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(_field(1, size) for size in values.shape)
    return dims + _field(2, FLOAT) + _field(8, name) + _field(9, values.astype("<f4").tobytes())


def _value(name: str, width: int) -> bytes:
    dims = _field(1, _field(2, "n")) + _field(1, _field(1, width))
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims)))


def _node(op: str, inputs: Sequence[str], output: str, *attributes: bytes) -> bytes:
    named = b"".join(_field(1, one) for one in inputs) + _field(2, output) + _field(4, op)
    return named + b"".join(_field(5, one) for one in attributes)


def _whole(name: str, n: int) -> bytes:
    return _field(1, name) + _field(3, n) + _field(20, 2)  # an attribute of type INT


def model(
    weight: np.ndarray,
    bias: np.ndarray,
    *,
    inputs: Sequence[str] = (),
    said: Mapping[str, str] | None = None,
) -> bytes:
    """`weight` (F, k), `bias` (k,). Without `inputs` one input x (n, F), else (n, 1) each, put together."""
    width, k = weight.shape
    nodes = [_node("MatMul", ["x", "W"], "y"), _node("Add", ["y", "b"], "z"), _node("Sigmoid", ["z"], "p")]
    declared = [_value("x", width)]
    if inputs:
        nodes.insert(0, _node("Concat", inputs, "x", _whole("axis", 1)))
        declared = [_value(name, 1) for name in inputs]
    graph = b"".join(_field(1, one) for one in nodes) + _field(2, "g")
    graph += _field(5, _tensor("W", weight)) + _field(5, _tensor("b", bias))
    graph += b"".join(_field(11, one) for one in declared) + _field(12, _value("p", k))
    metadata = b"".join(_field(14, _field(1, key) + _field(2, text)) for key, text in (said or {}).items())
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13)) + metadata


def expected(weight: np.ndarray, bias: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """What the model answers, (n, k) f4."""
    return (1 / (1 + np.exp(-(columns @ weight + bias)))).astype(np.float32)
