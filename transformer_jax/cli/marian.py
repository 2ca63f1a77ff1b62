"""Another system's model to a run folder, and a run folder to Hugging Face and Marian: `transformer-jax import` and `export`,
and `python -m transformer_jax.interop.marian`."""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser
from transformer_jax.interop import marian
from transformer_jax.models.seq2seq import abstract_parameters, build_model, count_parameters
from transformer_jax.runs.run_folder import Run


def run() -> None:
    parser = Parser(marian.__doc__.splitlines()[0])
    parser.add_argument("--export", action="store_true", help="from a run folder to Hugging Face, instead of into one")
    parser.add_argument("source", metavar="IN", help="a Marian model's folder; with --export a run folder")
    parser.add_argument("output", metavar="OUT", help="the folder to write, new or empty")
    parser.add_argument("--languages", nargs=2, metavar=("SOURCE", "TARGET"), help="such as en de, where IN does not tell them")
    parser.add_argument("--checkpoint", help="with --export: latest, best, a step, or average:N (default: best)")
    flags = parser.parse_args()
    if flags.export and flags.languages:
        parser.error("--languages is not for --export")
    if flags.checkpoint and not flags.export:
        parser.error("--checkpoint is for --export alone")
    program.set_up()
    if flags.export:
        write_hugging_face(flags.source, flags.output, flags.checkpoint or "best")
    else:
        write_run(flags.source, flags.output, flags.languages)


def write_hugging_face(workdir: str, output: str, checkpoint: str) -> None:
    """As `interop.marian.export_run`, and prints what was written."""
    name, notes = marian.export_run(workdir, output, checkpoint)
    print(f"{output}: {name} of {workdir}")
    _print_notes(notes)


def write_marian(workdir: str, output: str, checkpoint: str) -> None:
    """As `interop.marian.export_marian`, and prints what was written."""
    name, notes = marian.export_marian(workdir, output, checkpoint)
    print(f"{output}: {name} of {workdir}")
    _print_notes(notes)


def write_run(source: str, output: str, languages: Sequence[str] | None) -> None:
    """As `interop.marian.import_run`, and prints what was written."""
    notes = marian.import_run(source, output, languages and tuple(languages))
    run = Run(output)
    shapes = abstract_parameters(build_model(run.config.model, run.tokenizer().vocab_size))
    print(f"{output}: {count_parameters(shapes):,} parameters of {source}")
    _print_notes(notes)


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}")
