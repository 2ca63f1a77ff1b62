"""The LSTM and its attention are their formulas, in plain NumPy; padding is nobody's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import VOCAB, random_parameters, rows_of, sentences, tiny_model

from transformer_jax.models.attention_weights import attention_of
from transformer_jax.models.lstm_attention import (
    GlobalAttention,
    additive_scores,
    cosine_scores,
    dot_scores,
    scaled_dot_scores,
)
from transformer_jax.models.lstm_layer import LSTMLayer, LSTMState, lstm_cell
from transformer_jax.models.seq2seq import build_model

pytestmark = pytest.mark.usefixtures("quick_compilation")
RANDOM = np.random.default_rng(0)
WIDTH = 6
QUERY, KEYS, VALUES = (RANDOM.standard_normal((2, length, WIDTH)).astype(np.float32) for length in (3, 5, 5))
REAL = np.arange(5)[None] < np.array([[5], [2]])
ATTENTIONS = ["dot", "scaled_dot", "cosine", "general", "additive"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_lstm(x, cell, hidden, params):
    """The states after each step of one sentence, x [S, D]: cell and hidden, [S, U] each."""
    cells, hiddens = [], []
    for row in x:
        gates = row @ params["input"]["kernel"] + params["input"]["bias"] + hidden @ params["recurrent"]
        input_gate, forget_gate, candidate, output_gate = np.split(gates, 4)
        cell = sigmoid(forget_gate + 1) * cell + sigmoid(input_gate) * np.tanh(candidate)
        hidden = sigmoid(output_gate) * np.tanh(cell)
        cells.append(cell)
        hiddens.append(hidden)
    return np.array(cells), np.array(hiddens)


def layer_and_parameters(right_to_left):
    layer = LSTMLayer(WIDTH, right_to_left)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.zeros((1, 1, 4)), jnp.ones((1, 1), bool)))["params"]
    draw = lambda leaf: 0.5 * np.random.default_rng(leaf.size).standard_normal(leaf.shape).astype(np.float32)  # noqa: E731
    return layer, jax.tree.map(draw, shapes)


@pytest.mark.parametrize("right_to_left", [False, True])
@pytest.mark.parametrize("started", [False, True])
def test_a_layer_is_the_formula_and_ends_where_each_sentence_ends(right_to_left, started):
    layer, params = layer_and_parameters(right_to_left)
    lengths, x = [5, 3, 1, 0], RANDOM.standard_normal((4, 7, 4)).astype(np.float32)
    cell, hidden = (RANDOM.standard_normal((4, WIDTH)).astype(np.float32) * started for _ in range(2))
    start = LSTMState(jnp.asarray(cell), jnp.asarray(hidden)) if started else None
    mask = np.arange(7)[None] < np.array(lengths)[:, None]
    outputs, final = layer.apply({"params": params}, x, mask, start)
    for row, length in enumerate(lengths):
        order = slice(None, None, -1) if right_to_left else slice(None)
        cells, hiddens = numpy_lstm(x[row, :length][order], cell[row], hidden[row], params)
        if length:
            np.testing.assert_allclose(outputs[row, :length], hiddens[order], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(final.cell[row], cells[-1] if length else cell[row], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(final.hidden[row], hiddens[-1] if length else hidden[row], rtol=1e-4, atol=1e-5)


def test_steps_one_by_one_are_the_whole_layer():
    layer, params = layer_and_parameters(False)
    x = RANDOM.standard_normal((2, 4, 4)).astype(np.float32)
    outputs, final = layer.apply({"params": params}, x, np.ones((2, 4), bool))
    state = LSTMState(jnp.zeros((2, WIDTH)), jnp.zeros((2, WIDTH)))
    for t in range(4):
        gates = x[:, t] @ params["input"]["kernel"] + params["input"]["bias"]
        state = layer.apply({"params": params}, gates, state, method="step")
        np.testing.assert_allclose(state.hidden, outputs[:, t], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.cell, final.cell, rtol=1e-4, atol=1e-5)


def test_a_fresh_cell_remembers():
    """Without input the cell keeps sigmoid(1) of itself at a step, not half."""
    state = lstm_cell(jnp.zeros((1, 4 * WIDTH)), jnp.ones((1, WIDTH)))
    np.testing.assert_allclose(state.cell, sigmoid(1.0), rtol=1e-5)


SCORES = {
    "dot": (dot_scores, lambda q, k: q @ k),
    "scaled_dot": (scaled_dot_scores, lambda q, k: q @ k / np.sqrt(WIDTH)),
    "cosine": (cosine_scores, lambda q, k: q @ k / (np.linalg.norm(q) * np.linalg.norm(k))),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_plain_numpy(name):
    found, plain = SCORES[name]
    expected = [[[plain(q, k) for k in keys] for q in queries] for queries, keys in zip(QUERY, KEYS, strict=True)]
    np.testing.assert_allclose(found(jnp.asarray(QUERY), jnp.asarray(KEYS)), expected, rtol=1e-4, atol=1e-6)


def test_cosine_of_nothing_is_finite_and_so_is_its_gradient():
    value, gradient = jax.value_and_grad(lambda q: cosine_scores(q, jnp.zeros((1, 1, 4))).sum())(jnp.zeros((1, 1, 4)))
    assert value == 0 and np.isfinite(gradient).all()


def test_additive_scores_are_plain_numpy():
    vector = RANDOM.standard_normal(WIDTH).astype(np.float32)
    expected = [[[vector @ np.tanh(q + k) for k in keys] for q in queries] for queries, keys in zip(QUERY, KEYS, strict=True)]
    found = additive_scores(jnp.asarray(QUERY), jnp.asarray(KEYS), jnp.asarray(vector))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_is_plain_numpy_over_the_true_tokens(kind):
    """The whole module: learned projections, softmax, context; the second sentence has two tokens and three of padding."""
    module = GlobalAttention(kind, WIDTH)

    def both(module, query, memory, values, mask):
        return module(query, module.keys(memory), values, mask)

    arguments = tuple(map(jnp.asarray, (QUERY, KEYS, VALUES, REAL)))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, method=both)).get("params", {})
    params = jax.tree.map(lambda leaf: RANDOM.standard_normal(leaf.shape).astype(np.float32), shapes)
    context, weights = module.apply({"params": params}, *arguments, method=both)
    score = {
        "general": lambda q, k: q @ (k @ params["key"]["kernel"]),
        "additive": lambda q, k: params["vector"] @ np.tanh(q @ params["query"]["kernel"] + k @ params["key"]["kernel"]),
        "cosine": lambda q, k: params["sharpness"][0] * SCORES["cosine"][1](q, k),
    } | {name: plain for name, (_, plain) in SCORES.items() if name != "cosine"}
    for b, real in enumerate(REAL):
        for t, q in enumerate(QUERY[b]):
            powers = np.exp([score[kind](q, k) for k in KEYS[b, real]])
            expected = powers / powers.sum()
            np.testing.assert_allclose(weights[b, t, real], expected, rtol=1e-3, atol=1e-6)
            assert (weights[b, t, ~real] == 0).all()
            np.testing.assert_allclose(context[b, t], expected @ VALUES[b, real], rtol=1e-3, atol=1e-5)


STORE = sentences([5, 3, 4, 2], [4, 3, 2, 5])


@pytest.mark.parametrize("right_to_left", [False, True])
def test_the_gradient_that_is_written_out_is_that_of_the_steps(right_to_left):
    layer, params = layer_and_parameters(right_to_left)
    x, weights = (jnp.asarray(RANDOM.standard_normal((2, 5, width)), jnp.float32) for width in (4, WIDTH))
    start = LSTMState(*jnp.asarray(RANDOM.standard_normal((2, 2, WIDTH)), jnp.float32))

    def step_by_step(params, x, start):
        state, hidden = start, [None] * 5
        for place in reversed(range(5)) if right_to_left else range(5):
            gates = x[:, place] @ params["input"]["kernel"] + params["input"]["bias"][None]
            new = layer.apply({"params": params}, gates, state, method="step")
            state = jax.tree.map(lambda new, old, real=REAL[:, place, None]: jnp.where(real, new, old), new, state)
            hidden[place] = state.hidden
        return jnp.stack(hidden, axis=1), state

    def loss(read):
        def of(params, x, start):
            hidden, final = read(params, x, start)
            return jnp.sum(hidden * weights) + jnp.sum(jnp.sin(final.cell)) + jnp.sum(jnp.cos(final.hidden))

        return jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2)))

    found = loss(lambda params, x, start: layer.apply({"params": params}, x, REAL, start))(params, x, start)
    expected = loss(step_by_step)(params, x, start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("attention", ["none", "general"])
def test_more_padding_changes_nothing(direction, attention):
    model = build_model(tiny_model(family="lstm", attention=attention, direction=direction, num_layers=2), VOCAB)
    params = random_parameters(model)
    forced = jax.jit(lambda batch: model.apply({"params": params}, batch, train=False))
    tight, wide = (forced(rows_of(STORE, [0, 3], 2, *lengths)) for lengths in ((5, 5), (17, 11)))
    for row, length in enumerate((4, 5)):
        np.testing.assert_allclose(wide[row, :length], tight[row, :length], rtol=1e-5, atol=1e-6)


def test_backward_reads_the_reversed_source():
    """The state after a sentence read from right to left is that after the reversed one read from left to right."""
    forward, backward = (
        build_model(tiny_model(family="lstm", attention="none", direction=way), VOCAB) for way in ("forward", "backward")
    )
    params = random_parameters(forward)
    ids = np.array([[7, 5, 9, 1]], np.int32)
    states = [
        model.apply({"params": params}, row, np.ones_like(row), np.arange(4)[None], method="encode").states
        for model, row in ((forward, ids[:, ::-1]), (backward, ids))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *states)


def test_without_attention_the_decoder_has_the_last_state_and_nothing_else():
    model = build_model(tiny_model(family="lstm", attention="none"), VOCAB)
    memory = jax.eval_shape(
        lambda ids: model.apply({"params": random_parameters(model)}, ids, ids, ids, method="encode"), jnp.ones((2, 9), int)
    )
    assert memory.keys is None and memory.values is None
    assert {leaf.shape for leaf in jax.tree.leaves(memory.states)} == {(2, 16)}


def test_from_the_third_on_layers_add_to_what_they_read():
    """A layer whose numbers are all 0 puts out 0: with it a residual layer changes nothing, and another would silence all."""
    three = build_model(tiny_model(family="lstm", num_layers=3), VOCAB)
    two = build_model(tiny_model(family="lstm", num_layers=2), VOCAB)
    params = random_parameters(three)
    third = [name for name in params if name.startswith(("encoder_2", "decoder_2"))]
    assert len(third) == 3
    silent = params | {name: jax.tree.map(np.zeros_like, params[name]) for name in third}
    without = {name: leaf for name, leaf in params.items() if name not in third}
    batch = rows_of(STORE, range(4), 4, 5, 5)
    expected = two.apply({"params": without}, batch, train=False)
    np.testing.assert_allclose(three.apply({"params": silent}, batch, train=False), expected, rtol=1e-4, atol=1e-5)


def test_input_feeding_reaches_the_next_step_and_no_other_model():
    """What attention made of step t changes the logits of step t + 1 by way of `feed` alone."""
    model = build_model(tiny_model(family="lstm", input_feeding=True), VOCAB)
    params = random_parameters(model)
    deaf = params | {"feed": jax.tree.map(np.zeros_like, params["feed"])}
    plain = build_model(tiny_model(family="lstm"), VOCAB)
    batch = rows_of(STORE, range(4), 4, 5, 5)
    fed, unfed = (np.asarray(model.apply({"params": each}, batch, train=False)) for each in (params, deaf))
    without = {name: leaf for name, leaf in params.items() if name != "feed"}
    expected, real = np.asarray(plain.apply({"params": without}, batch, train=False)), batch.target_segment > 0
    np.testing.assert_allclose(unfed[real], expected[real], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fed[:, 0], unfed[:, 0], rtol=1e-4, atol=1e-5)
    assert np.abs(fed[:, 1] - unfed[:, 1]).max() > 1e-2


def test_weights_of_decoding_steps_are_those_of_teacher_forcing():
    """With input feeding the loop gives them out; without, one pass."""
    for feeding in (False, True):
        model = build_model(tiny_model(family="lstm", input_feeding=feeding), VOCAB)
        params = random_parameters(model)
        batch = rows_of(STORE, range(4), 4, 5, 5)
        _, sown = model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
        weights = attention_of(sown["intermediates"])["cross"]
        assert weights.shape == (1, 4, 1, 5, 5)
        changed = batch._replace(target_input=np.where(np.arange(5)[None] == 2, 6, batch.target_input))
        _, sown = model.apply({"params": params}, changed, train=False, mutable=["intermediates"])
        after = attention_of(sown["intermediates"])["cross"]
        np.testing.assert_allclose(after[:, :, :, :2], weights[:, :, :, :2], rtol=1e-5)
        assert np.abs(after - weights)[:, :, :, 2].max() > 1e-4
