"""The sections of a config: what their annotations say is what is checked, and the options of a search."""

import copy
import dataclasses
import functools
import pickle
from typing import get_type_hints

import jax
import pytest

from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser
from transformer_jax.config import Config, DecodeConfig, ModelConfig, SearchOptions, validate
from transformer_jax.errors import UserError


def test_search_options_are_hashable_and_a_static_argument():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def times_beam(options, x):
        traces.append(options)
        return options.beam * x

    config = DecodeConfig()
    config.beam = 3
    assert times_beam(SearchOptions(beam=3), 2) == times_beam(config.frozen(), 2) == 6
    assert traces == [SearchOptions(beam=3)] and len({*traces, config.frozen()}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        traces[0].beam = 2


def test_a_search_section_is_like_the_other_sections():
    section = Config().decode
    section.beam, section.seed = 2, 5
    assert section == DecodeConfig(beam=2, seed=5) != DecodeConfig() and section.frozen() == SearchOptions(beam=2, seed=5)
    assert dataclasses.asdict(section) == dataclasses.asdict(section.frozen())
    assert get_type_hints(DecodeConfig) == get_type_hints(SearchOptions)
    for other in (copy.copy(section), copy.deepcopy(section), pickle.loads(pickle.dumps(section))):
        assert type(other) is DecodeConfig and other == section
        other.beam = 1
        assert section.beam == 2
    assert dataclasses.replace(section, beam=3) == DecodeConfig(beam=3, seed=5)
    with pytest.raises(TypeError, match="unhashable"):
        hash(section)


def test_fields_of_the_host_are_no_part_of_a_compiled_search():
    config = DecodeConfig(
        beam=2, seed=5, tokens=7, max_length_ratio=3.0, min_length_extra=1, split_sentences="never", top_p=0.5
    )
    assert config.compiled() == config.frozen().compiled() == SearchOptions(beam=2, top_p=0.5)


@pytest.mark.parametrize("text", ["c = Config()\n c.decode.beem = 2", "x = 1\n DecodeConfig(beem=2)"])
def test_an_unknown_option_of_the_search_names_the_nearest(tmp_path, text):
    (tmp_path / "mine.py").write_text(f"from transformer_jax.config import *\ndef get_config():\n {text}", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 4: unknown key 'beem' \(did you mean decode.beam\?\)"):
        load_config(str(tmp_path / "mine.py"))


def test_the_flags_of_a_search_are_its_fields():
    parser = Parser("")
    parser.add_search()
    flags = vars(parser.parse_args(["--beam=2", "--decode_tokens=7", "--split_sentences=never", "--top_p=0.5"]))
    assert {name: value for name, value in flags.items() if value is not None} == {
        "beam": 2,
        "tokens": 7,
        "split_sentences": "never",
        "top_p": 0.5,
    }
    assert list(flags) == [field.name for field in dataclasses.fields(SearchOptions) if field.name in flags]
    assert {field.name for field in dataclasses.fields(SearchOptions)} - {*flags} == {"nbest", "alignment_layer"}


def test_the_widths_of_heads_and_the_depth_of_the_decoder_follow_from_others():
    model = ModelConfig(width=24, heads=4, num_layers=3)
    assert (model.decoder_depth, model.key_head_width, model.value_head_width) == (3, 6, 6)
    model = dataclasses.replace(model, decoder_layers=1, key_width=5)
    assert (model.decoder_depth, model.key_head_width, model.value_head_width) == (1, 5, 5)
    assert dataclasses.replace(model, value_width=7).value_head_width == 7


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("train", "keep_checkpoints", 1, "train.keep_checkpoints=1 should be 2 or more: one to go back to"),
        ("train", "keep_checkpoints", 0, "train.keep_checkpoints=0 should be more than 0"),
        ("tokenizer", "vocab_size", 4, "tokenizer.vocab_size=4 should be 0 or at least 5"),
        ("tokenizer", "vocab_size", -1, "tokenizer.vocab_size=-1 should be 0 or at least 5"),
        ("decode", "temperature", 1e-7, "decode.temperature=1e-07 should be 0 or at least 1e-06"),
        ("decode", "top_p", 1.5, "decode.top_p=1.5 should be at most 1"),
    ],
)
def test_limits_of_a_field(section, name, value, message):
    config = Config()
    setattr(getattr(config, section), name, value)
    with pytest.raises(UserError, match=message):
        validate(config)
