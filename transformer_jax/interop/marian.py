"""Marian models (https://marian-nmt.github.io, OPUS-MT's among them) as run folders, and back.

    python -m transformer_jax.interop.marian opus-mt-en-de runs/opus
    python -m transformer_jax.interop.marian --export runs/opus opus-mt-en-de-again

The first reads a folder of either kind:

* Hugging Face's MarianMTModel: `config.json`, `model.safetensors` (or `pytorch_model.bin`, where torch is installed),
  `vocab.json`, `source.spm`, `target.spm`, and where they are there `generation_config.json`, `tokenizer_config.json` and
  `added_tokens.json`;
* Marian's own, as OPUS-MT ships it: one `.npz`, one vocabulary (`*vocab.yml`, or plain text with a piece a line), `source.spm`,
  `target.spm`, perhaps `decoder.yml`; or with a `vocab.spm`, which is vocabulary and SentencePiece model of both sides.

It writes a run folder that translates, is scored, exported and shown like any other. Training goes on in a run of its own:

    python train.py --config=runs/opus/config.json --workdir=runs/mine --config.train.init_from=runs/opus \\
        --config.data.train=data/train --config.data.dev=data/dev

The second writes any post-norm Transformer with sinusoids, whoever trained it, for MarianMTModel and MarianTokenizer. The
model is the same function, but for what Hugging Face has no option for:

* their layer norm adds 1e-5 to the variance. Ours adds `model.norm_epsilon`, 1e-6 where we (or Marian) trained; that is told
  when it is written. On random models it changed the logits by 3e-5 of their standard deviation at most.
* their length penalty is |y|^a, ours ((5 + |y|) / 6)^a, and their search is another, as CTranslate2's is (`ctranslate2.py`).
* their tokenizer takes `</s>`, `<pad>` and `<unk>` in a text for the special pieces; ours, like Marian's, for text.

What Marian computes and Hugging Face does not, both readers keep: the sinusoids and the epsilon are those of the file's owner.
CTranslate2's own converter of Hugging Face's models supposes that the decoder starts with zeros, as an imported model's does;
for one that was trained or tuned here use `transformer_jax.interop.ctranslate2`.
"""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from transformer_jax.config import Config, ModelConfig, validate
from transformer_jax.errors import UserError
from transformer_jax.interop.foreign import Foreign
from transformer_jax.interop.hugging_face_reader import EPSILON, read_hugging_face
from transformer_jax.interop.hugging_face_writer import unsupported, write_hugging_face
from transformer_jax.interop.marian_npz import read_marian
from transformer_jax.interop.marian_weights import HUGGING_FACE, from_parameters, to_parameters
from transformer_jax.interop.parameters import expected_parameters, flat_parameters
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.progress import Progress
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.output_folders import require_possible_output, written_whole
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["completed", "export_run", "import_run", "write_model"]


def import_run(source: str, output: str, languages: tuple[str, str] | None = None) -> list[str]:
    """Writes the model in the folder `source` as a run folder, `output`, that is new or empty.

    Its parameters are the checkpoint of step 0. `languages` of source and target are for the names of files, where the folder
    does not tell them. Returns what is not as it was. Raises UserError for a folder that is no whole Marian model, for a model
    that none of ours is like, and where `output` cannot be written.
    """
    require_possible_output(output)
    foreign = _read(Path(source))
    config = _config(foreign, languages)
    params = to_parameters(foreign.weights, config.model, len(foreign.pieces), foreign.naming, str(foreign.where))
    with written_whole(output) as unfinished:
        run = Run.open_or_create(unfinished, config)
        pieces = None if foreign.rows_are_pieces else foreign.pieces
        models = foreign.source_model, foreign.target_model
        tokenizer = Tokenizer.of_models(*models, pieces, foreign.ids, run.tokenizer_folder, foreign.added)
        with run.checkpoint_writer() as checkpoints:
            state = SimpleNamespace(params=params, optimizer_state=None, ema=None)
            checkpoints.save(state, Progress(tokenizer=tokenizer.fingerprint))
    return foreign.notes


def export_run(workdir: str, output: str, checkpoint: str = "best") -> tuple[str, list[str]]:
    """Writes the parameters of a run folder for Hugging Face to `output`, a folder that is new or empty.

    `checkpoint` is latest, best, a step, or `average:N`. Returns in words which parameters they are, and what is not as it was.
    Raises UserError for a model that MarianMTModel cannot represent, naming all that it cannot, and where `output` cannot be
    written.
    """
    require_possible_output(output)
    run = Run(workdir)
    tokenizer = run.tokenizer()
    _require_representable(run.config.model, tokenizer)
    model = build_model(run.config.model, tokenizer.vocab_size)
    with run.checkpoints() as checkpoints:
        params, name = checkpoints.parameters(CheckpointName.parse(checkpoint), abstract_parameters(model), tokenizer)
    return name, write_model(params, tokenizer, run.config, output)


def write_model(params: Any, tokenizer: Tokenizer, config: Config, output: str | Path) -> list[str]:
    """As `export_run`, for parameters in memory (a tree of arrays of any kind) of the model that `config.model` describes.
    Returns what is not as it was."""
    require_possible_output(output)
    _require_representable(config.model, tokenizer)
    complete, model = completed(params, config.model, tokenizer.vocab_size)
    weights = from_parameters(complete, model, tokenizer.vocab_size, HUGGING_FACE)
    with written_whole(output) as unfinished:
        write_hugging_face(unfinished, weights, config, tokenizer)
    epsilon = config.model.norm_epsilon
    notes = [] if epsilon == EPSILON else [f"model.norm_epsilon={epsilon:g}: theirs is {EPSILON:g}"]
    if tokenizer.normalizes:
        notes.append("tokenizer.normalize: theirs takes text as it is; give it what data.normalization.normalize leaves of it")
    return notes


def completed(params: Any, config: ModelConfig, vocab_size: int) -> tuple[Any, ModelConfig]:
    """The same function with all biases that Marian has: those that were left out are zeros. Also the config with them.

    Raises UserError if `params` are not those of the model that `config` describes."""
    complete = dataclasses.replace(config, attention_bias=True, output_bias=True)
    flat = flat_parameters(params, config, vocab_size)
    zeros = {
        name: np.zeros(leaf.shape, leaf.dtype)
        for name, leaf in expected_parameters(complete, vocab_size).items()
        if name not in flat
    }
    return unflatten_dict(flat | zeros, sep="/"), complete


def _read(folder: Path) -> Foreign:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with a Marian model, Hugging Face's or OPUS-MT's")
    if (folder / "config.json").is_file():
        return read_hugging_face(folder)
    if list(folder.glob("*.npz")):
        return read_marian(folder)
    raise UserError(f"{folder}: has neither a config.json (a MarianMTModel's folder) nor an .npz file (Marian's)")


def _config(foreign: Foreign, languages: tuple[str, str] | None) -> Config:
    config = Config()
    config.model = foreign.model
    config.tokenizer.vocab_size = len(foreign.pieces)
    config.tokenizer.normalize = False  # their SentencePiece models do it, each in its own way
    config.data.train = config.data.dev = ""  # nobody here knows what it was trained on
    config.data.source_language, config.data.target_language = languages or foreign.languages or ("en", "de")
    for name, value in foreign.decode.items():
        setattr(config.decode, name, value)
    # What a training that goes on from here begins with: rows of the longest sentences, and steps that forget little.
    config.batch.max_length = foreign.longest
    config.batch.row_multiple = 8
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 500
    return validate(config)


def _require_representable(model: ModelConfig, tokenizer: Tokenizer) -> None:
    wrong = unsupported(model, tokenizer)
    if wrong:
        raise UserError(f"{tokenizer.folder.parent}: Hugging Face's MarianMTModel has no {', no '.join(wrong)}")


if __name__ == "__main__":
    from transformer_jax.cli.marian import run
    from transformer_jax.cli.program import main

    main(run)
