"""Marian models (https://marian-nmt.github.io, OPUS-MT's among them) as run folders, and run folders for Hugging Face.

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

The second writes any Transformer with sinusoids for Hugging Face: one with `model.norm=post` for MarianMTModel, one with
`model.norm=pre` (and tied embeddings) for PegasusForConditionalGeneration, which is Marian's Transformer with the norm before
each sublayer; the tokenizer is MarianTokenizer for both, and AutoTokenizer and AutoModelForSeq2SeqLM find them. The first
command reads what the second has written, Pegasus' class included. The model is the same function, with these exceptions, for
which Hugging Face has no option:

* Their layer norm adds 1e-5 to the variance. Here `model.norm_epsilon` is added, which is 1e-6 in models trained by
  transformer_jax or Marian; a note says so at the export. On random models this changed the logits by at most 1e-4 of their
  standard deviation.
* Their length penalty is |y|^a, here it is ((5 + |y|) / 6)^a unless `decode.length_normalization=power`, which imported models
  get. Their search ends as CTranslate2's does (`ctranslate2.py`), or with `early_stopping="never"` as here: with one formula
  beam 4 then finds the same translations of lines that are not cut into pieces here.
* Their tokenizer does not normalise text as `tokenizer.normalize` does; a note says so at the export.
* Their tokenizer reads `</s>`, `<pad>` and `<unk>` in a text as the special pieces; here and in Marian they are text.

An imported model keeps the sinusoids and the epsilon of the system that its files are from. CTranslate2's own converter of
Hugging Face's models assumes that the decoder starts with zeros, which is true of imported models only; for a model that was
trained or tuned here use `transformer_jax.interop.ctranslate2`.
"""

from pathlib import Path
from typing import Any

from transformer_jax.config import Config, ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.interop.hugging_face_reader import EPSILON
from transformer_jax.interop.hugging_face_writer import class_of, remedies, unsupported, write_hugging_face
from transformer_jax.interop.importing import import_run
from transformer_jax.interop.marian_weights import HUGGING_FACE, from_parameters
from transformer_jax.interop.marian_writer import write_marian
from transformer_jax.interop.parameters import completed, text_notes
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.output_folders import require_possible_output, written_whole
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["completed", "export_marian", "export_run", "import_run", "write_model"]


def export_run(workdir: str, output: str, checkpoint: str = "best") -> tuple[str, list[str]]:
    """Writes the parameters of a run folder for Hugging Face to `output`, a folder that is new or empty.

    `checkpoint` is latest, best, a step, or `average:N`. Returns in words which parameters they are, and notes about
    differences. Raises UserError for a model that no class of theirs can represent, naming all reasons and what can be done,
    and if `output` cannot be written.
    """
    require_possible_output(output)
    run = Run(workdir)
    tokenizer = run.tokenizer()
    _require_representable(run.config.model, tokenizer)
    model = build_model(run.config.model, tokenizer.vocab_size)
    with run.checkpoints() as checkpoints:
        params, name = checkpoints.parameters(CheckpointName.parse(checkpoint), abstract_parameters(model), tokenizer)
    return name, write_model(params, tokenizer, run.config, output)


def export_marian(workdir: str, output: str, checkpoint: str = "best") -> tuple[str, list[str]]:
    """As `export_run`, in Marian's own files (`marian_writer.py`)."""
    require_possible_output(output)
    run = Run(workdir)
    tokenizer = run.tokenizer()
    model = build_model(run.config.model, tokenizer.vocab_size)
    with run.checkpoints() as checkpoints:
        params, name = checkpoints.parameters(CheckpointName.parse(checkpoint), abstract_parameters(model), tokenizer)
    return name, write_marian(params, tokenizer, run.config, output)


def write_model(params: Any, tokenizer: Tokenizer, config: Config, output: str | Path) -> list[str]:
    """Does what `export_run` does for parameters in memory: a tree of arrays of the model that `config.model` describes.
    Returns notes about differences."""
    require_possible_output(output)
    _require_representable(config.model, tokenizer)
    complete, model = completed(params, config.model, tokenizer.vocab_size)
    weights = from_parameters(complete, model, tokenizer.vocab_size, HUGGING_FACE)
    with written_whole(output) as unfinished:
        write_hugging_face(unfinished, weights, config, tokenizer)
    epsilon = config.model.norm_epsilon
    notes = [] if model.norm == "post" else [f"model.norm=pre: load it with {class_of(model)} and MarianTokenizer"]
    if epsilon != EPSILON:
        notes.append(f"model.norm_epsilon={epsilon:g}: theirs is {EPSILON:g}")
    return notes + text_notes(config, tokenizer.normalizes, "theirs")


def _require_representable(model: ModelConfig, tokenizer: Tokenizer) -> None:
    wrong = unsupported(model, tokenizer)
    if not wrong:
        return
    ways = []
    if model.family == "transformer" and (
        tokenizer.source_vocab_size == tokenizer.vocab_size or tokenizer.has_source_vocabulary
    ):
        ways.append("write it for CTranslate2 (transformer-jax export RUN OUT --format=ctranslate2)")
    if keys := remedies(model):
        ways.append(f"train a model with {' '.join(f'--config.{key}' for key in keys)}")
    name = class_of(model) if model.family == "transformer" else "MarianMTModel"
    remedy = f"; {', or '.join(ways)}" if ways else ""
    raise UserError(f"{tokenizer.folder.parent}: Hugging Face's {name} has no {', no '.join(wrong)}{remedy}")


if __name__ == "__main__":
    from transformer_jax.cli.marian import run
    from transformer_jax.cli.program import main

    main(run)
