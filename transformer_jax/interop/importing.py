"""Other systems' models as run folders: Marian's, Hugging Face's MarianMTModel, and CTranslate2's (Argos Translate, OPUS-MT).

    transformer-jax import opus-mt-en-de runs/opus
    transformer-jax import translate-en_de-1_0.argosmodel runs/argos

The kind is found out by the files: `model.bin` is CTranslate2's (`ctranslate2_reader.py`), else `config.json` Hugging Face's
(`hugging_face_reader.py`), else an `.npz` Marian's (`marian_npz.py`). The run translates, is scored, exported and shown like
any other; `marian.py` says how a training goes on from it.
"""

from pathlib import Path
from types import SimpleNamespace

from transformer_jax.config import Config, validate
from transformer_jax.errors import UserError
from transformer_jax.interop.ctranslate2_reader import is_ctranslate2, read_ctranslate2
from transformer_jax.interop.foreign_model import Foreign
from transformer_jax.interop.hugging_face_reader import read_hugging_face
from transformer_jax.interop.marian_npz import read_marian
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.output_folders import require_possible_output, written_whole

__all__ = ["import_run"]


def import_run(source: str, output: str, languages: tuple[str, str] | None = None) -> list[str]:
    """Writes the model in the folder `source` (or in an `.argosmodel` file) as a run folder, `output`, that is new or empty.

    Its parameters are the checkpoint of step 0. `languages` are those of source and target, for the names of files, if the
    folder does not name them. Returns notes about differences. Raises UserError for a folder that is no whole model of a known
    kind, for options that no model here supports, and if `output` cannot be written.
    """
    require_possible_output(output)
    foreign = _read(Path(source))
    config = _config(foreign, languages)
    params = foreign.parameters()
    with written_whole(output) as unfinished:
        run = Run.open_or_create(unfinished, config)
        tokenizer = foreign.tokenizer(run.tokenizer_folder)
        with run.checkpoint_writer() as checkpoints:
            state = SimpleNamespace(params=params, optimizer_state=None, ema=None)
            checkpoints.save(state, TrainProgress(tokenizer=tokenizer.fingerprint))
    return foreign.notes


def _read(path: Path) -> Foreign:
    if is_ctranslate2(path):
        return read_ctranslate2(path)
    if not path.is_dir():
        expected = (
            "expected one with a Marian model (Hugging Face's or OPUS-MT's) or a CTranslate2 model, or an .argosmodel file"
        )
        raise UserError(f"{path}: no such folder; {expected}")
    if (path / "config.json").is_file():
        return read_hugging_face(path)
    if list(path.glob("*.npz")):
        return read_marian(path)
    raise UserError(
        f"{path}: has neither a model.bin (CTranslate2's) nor a config.json (a MarianMTModel's folder) nor an .npz file "
        "(Marian's)"
    )


def _config(foreign: Foreign, languages: tuple[str, str] | None) -> Config:
    config = Config()
    config.model = foreign.model
    config.tokenizer.vocab_size = foreign.vocab_size
    config.tokenizer.normalize = foreign.normalize  # SentencePiece models of other systems normalize
    config.data.train = config.data.dev = ""  # the training text is not known
    config.data.source_language, config.data.target_language = languages or foreign.languages or ("en", "de")
    for name, value in foreign.decode.items():
        setattr(config.decode, name, value)
    # For a training that starts from the imported parameters: rows as long as its longest sentences, and small updates.
    config.batch.max_length = foreign.longest
    config.batch.row_multiple = 8
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 500
    return validate(config)
