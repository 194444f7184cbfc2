"""A blueprint's layers become a network, and that network the same numbers in ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.blueprint.model import Layer
from modelyard.data import Field
from modelyard.errors import DataError, IntegrityError
from modelyard.packages.flavours.onnx_scan import scan
from modelyard.packages.flavours.torch import build_network, load_network
from modelyard.packages.flavours.torch_graph import to_onnx
from modelyard.packages.model import load_model, save_model

ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid", "softmax", "log_softmax", "none")


def layers(*given: dict[str, Any]) -> list[dict[str, Any]]:
    """As a plan has them: through the metamodel, with every default."""
    return [Layer.model_validate(each).model_dump() for each in given]


def dense(units: int, activation: str = "none") -> dict[str, Any]:
    return {"type": "fully_connected", "units": units, "activation": activation}


def check_equal_in_onnx(network: Any) -> None:
    network.eval()
    session = onnxruntime.InferenceSession(to_onnx(network).SerializeToString(), providers=["CPUExecutionProvider"])
    for rows in (1, 2, 5):
        given = np.random.default_rng(rows).standard_normal((rows, *network.input_shape)).astype(np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(given)).numpy()
        (scores,) = session.run(None, {"input": given})
        assert scores.shape == (rows, network.outputs)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def shake(network: Any) -> Any:
    """Give every weight and every running statistic a value of its own, so that a mix-up shows."""
    with torch.no_grad():
        for values in network.state_dict().values():
            if values.dtype.is_floating_point:
                values.copy_(torch.rand_like(values) * 0.8 + 0.1)
    return network


PIECES = st.lists(
    st.one_of(
        st.builds(dense, st.integers(1, 5), st.sampled_from(ACTIVATIONS)),
        st.just({"type": "dropout", "rate": 0.5}),
        st.builds(lambda activation: {"type": "batch_norm", "activation": activation}, st.sampled_from(ACTIVATIONS)),
        st.just({"type": "flatten"}),
    ),
    max_size=4,
)
IMAGES = st.lists(
    st.one_of(
        st.builds(
            lambda units, kernel, stride, padding, activation: {
                "type": "convolutional", "units": units, "kernel": kernel, "stride": stride, "padding": padding,
                "activation": activation,
            },
            st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.sampled_from(ACTIVATIONS),
        ),
        st.builds(
            lambda kind, kernel, stride, padding: {
                "type": kind, "kernel": kernel, "stride": stride, "padding": min(padding, kernel // 2)
            },
            st.sampled_from(["max_pooling", "average_pooling"]),
            st.integers(1, 3), st.integers(1, 2), st.integers(0, 1),
        ),
        st.just({"type": "batch_norm"}),
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(IMAGES, PIECES, st.sampled_from([(12, 12), (1, 11, 12), (3, 12, 12), (12, 11, 3)]))
def test_convolutional_networks_are_equal_in_onnx(images: Any, pieces: Any, shape: tuple[int, ...]) -> None:
    try:
        network = build_network(layers(*images, dense(4), *pieces, dense(3)), shape, 3)
    except DataError:
        # The image was smaller than a kernel.
        return
    check_equal_in_onnx(shake(network))


RECURRENT = st.lists(
    st.builds(
        lambda cell, units, both: {"type": "recurrent", "cell": cell, "units": units, "bidirectional": both},
        st.sampled_from(["lstm", "gru", "rnn"]), st.integers(1, 4), st.booleans(),
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(RECURRENT, st.sampled_from([(6, 3), (1, 4), (5,)]))
def test_recurrent_networks_are_equal_in_onnx(recurrent: Any, shape: tuple[int, ...]) -> None:
    check_equal_in_onnx(shake(build_network(layers(*recurrent, dense(3)), shape, 3)))


def test_a_recurrent_layer_passes_on_its_last_hidden_state_and_all_of_them_to_another() -> None:
    network = build_network(
        layers({"type": "recurrent", "units": 5, "cell": "gru"}, {"type": "dropout", "rate": 0.1},
               {"type": "recurrent", "units": 4, "cell": "rnn"}, dense(2)),
        (7, 3), 2,
    ).eval()  # fmt: skip
    first, second = network.body[0], network.body[2]
    rows = torch.randn(3, 7, 3)
    states, last = first.cell(rows)
    assert torch.equal(first(rows), states)
    _, last = second.cell(states)
    assert torch.equal(second(states), last[0])


def test_the_same_weights_give_the_same_onnx_bytes() -> None:
    torch.manual_seed(0)
    first = to_onnx(build_network(layers(dense(4, "relu"), dense(2)), (3,), 2)).SerializeToString()
    torch.manual_seed(0)
    second = to_onnx(build_network(layers(dense(4, "relu"), dense(2)), (3,), 2)).SerializeToString()
    assert first == second
    assert scan(first).domains == {""}
    assert not scan(first).locations


@pytest.mark.parametrize("activation", ["none", "softmax", "log_softmax"])
def test_probabilities_sum_to_one_whatever_the_last_activation_is(activation: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build_network(layers(dense(8, "relu"), dense(3, activation)), (4,), 3)
    plain = build_network(layers(dense(8, "relu"), dense(3)), (4,), 3)
    plain.load_state_dict(network.state_dict())
    save_model(
        tmp_path / "m", flavour="torch", model=network, inputs=[Field("x", "float32", (4,))],
        prediction_type="classification", classes=["a", "b", "c"],
    )  # fmt: skip
    rows = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32) * 10
    with torch.inference_mode():
        expected = torch.softmax(plain(torch.from_numpy(rows)), dim=1).numpy()
    for runtime in ("native", "onnx"):
        predicted = load_model(tmp_path / "m", runtime).predict({"x": rows})
        np.testing.assert_allclose(predicted["probabilities"].sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(predicted["probabilities"], expected, rtol=1e-3, atol=1e-5)
        assert predicted["label"].tolist() == [("a", "b", "c")[index] for index in expected.argmax(axis=1)]


@pytest.mark.parametrize(
    ("given", "shape", "where"),
    [
        ([dense(3), dense(2)], (4,), "layers[1]"),
        ([{"type": "convolutional", "units": 2, "kernel": 9}, dense(3)], (5, 5), "layers[0] (convolutional)"),
        ([dense(3), {"type": "convolutional", "units": 2, "kernel": 2}], (5, 5), "layers[1] (convolutional)"),
        ([dense(3), {"type": "max_pooling", "kernel": 2}], (5,), "layers[1] (max_pooling)"),
        ([{"type": "recurrent", "units": 2}, dense(3)], (1, 5, 5), "layers[0] (recurrent)"),
        ([{"type": "batch_norm"}, dense(3)], (5, 5), "layers[0] (batch_norm)"),
        ([{"type": "convolutional", "units": 2, "kernel": 2}], (5, 5), "layers[0]"),
    ],
)
def test_a_layer_that_does_not_fit_is_named(given: Any, shape: tuple[int, ...], where: str) -> None:
    with pytest.raises(DataError) as caught:
        build_network(layers(*given), shape, 3)
    assert caught.value.where == where
    assert caught.value.remedy


def test_building_draws_the_same_weights_for_the_same_seed() -> None:
    given = layers({"type": "convolutional", "units": 2, "kernel": 3}, {"type": "dropout", "rate": 0.5}, dense(3))
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build_network(given, (6, 6), 3).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_saved_network_goes_on_where_it_was(tmp_path: Path) -> None:
    network = shake(build_network(layers({"type": "batch_norm"}, dense(2)), (3,), 2))
    save_model(
        tmp_path / "m", flavour="torch", model=network, inputs=[Field("x", "float32", (3,))],
        prediction_type="classification", classes=[0, 1],
    )  # fmt: skip
    loaded = load_network(tmp_path / "m")
    assert all(torch.equal(values, loaded.state_dict()[name]) for name, values in network.state_dict().items())
    assert network.training, "saving must leave the network as it was"
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(IntegrityError):
        load_network(tmp_path / "m")
