"""The command line: `keras-robust list | train | evaluate | report | download | publish`.

Heavy parts are imported inside the commands that need them. Whatever a user can put right is one message and exit
code 2, never a traceback.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="keras-robust",
    help="Train, measure and load image classifiers that resist noise and attack.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[
    Path | None, typer.Option(help="Folder of TensorFlow Datasets; else TFDS_DATA_DIR, ~/tensorflow_datasets.")
]


def _clear_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turns errors of the user's making into a message and exit code 2, and Ctrl-C into 130."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except (ValueError, ImportError, OSError) as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            typer.echo("Interrupted. Earlier results are whole; run the same command again to go on.", err=True)
            raise typer.Exit(130) from None

    return run


@app.command("list")
@_clear_errors
def list_command(
    dataset: Annotated[str | None, typer.Option(help="Only entries of this data set.")] = None,
    threat: Annotated[
        str | None, typer.Option(help="Only entries measured under Linf, L2, gaussian_noise.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Only entries measured on jax, tensorflow or torch.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models of the zoo with their accuracies."""
    from keras_robust import datasets
    from keras_robust.evaluation.metrics import radius, robust_accuracy
    from keras_robust.zoo import registry
    from keras_robust.zoo.entry import RECIPE, WEIGHTS

    if dataset is not None:
        datasets.info(dataset)
    entries = registry.list_entries(dataset=dataset, threat=threat, backend=backend)
    folders = registry.folders()
    if as_json:
        rows = [
            entry.model_dump(mode="json", exclude={"metrics"})
            | {"threat_models": entry.threat_models, "folder": str(folders[entry.name])}
            | {"metrics": [m.model_dump(mode="json", include=_SHOWN) for m in entry.metrics]}
            for entry in entries
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(entries)} models")
    for column in ("entry", "dataset", "parameters", "clean", "robust", "weights"):
        table.add_column(column, justify="right" if column in ("parameters", "clean") else "left")
    for entry in entries:
        clean = next(metric for metric in entry.metrics if metric.kind == "clean")
        robust = [f"{m.value:.1%} at {m.norm} {radius(eps)}" for eps, m in robust_accuracy(entry.metrics)]
        here = (folders[entry.name] / entry.weights.file).is_file()
        size = f"{entry.weights.bytes / 1e6:.1f} MB" + ("" if here else ", not here")
        table.add_row(
            entry.name, entry.dataset, f"{entry.parameters:,}", f"{clean.value:.1%}", "\n".join(robust), size
        )
    Console().print(table)
    waiting = {name: folder for name, folder in registry.folders(RECIPE).items() if name not in folders}
    trained = sorted(name for name, folder in waiting.items() if (folder / WEIGHTS).is_file())
    untrained = sorted(waiting.keys() - set(trained))
    if trained:
        typer.echo(f"Not measured yet (keras-robust evaluate NAME --update-entry): {', '.join(trained)}")
    if untrained:
        typer.echo(f"Recipes without weights yet (keras-robust train NAME): {', '.join(untrained)}")


_SHOWN = {"name", "kind", "value", "low", "high", "images", "norm", "epsilon", "sigma", "seed"}


@app.command()
@_clear_errors
def train(
    entry_or_recipe: Annotated[str, typer.Argument(help="Name or folder of an entry, or a recipe file.")],
    data_dir: DataDir = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where results go; else beside the recipe.")] = None,
    no_resume: Annotated[bool, typer.Option("--no-resume", help="Forget an unfinished training.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train again over finished weights.")] = False,
) -> None:
    """Train a model from its recipe."""
    from keras_robust import pipeline
    from keras_robust.files import write_atomically
    from keras_robust.zoo.entry import RECIPE
    from keras_robust.zoo.registry import find

    path = Path(entry_or_recipe)
    recipe = path if path.suffix == ".toml" else find(entry_or_recipe, RECIPE)
    source = recipe / RECIPE if recipe.is_dir() else recipe
    output = output_dir if output_dir is not None else source.parent
    elsewhere = output.resolve() != source.parent.resolve()
    if not (elsewhere and overwrite):
        _refuse_another_recipe(source, output / RECIPE)
    pipeline.train(recipe, data_dir=data_dir, output_dir=output_dir, resume=not no_resume, overwrite=overwrite)
    if elsewhere or not (output / RECIPE).exists():
        write_atomically(output / RECIPE, source.read_bytes())
    typer.echo(f"Trained: {output}. Measure it with: keras-robust evaluate {_as_path(output)}")


@app.command()
@_clear_errors
def evaluate(
    entry_or_path: Annotated[str, typer.Argument(help="Name or folder of an entry, or a .keras file.")],
    attacks: Annotated[str | None, typer.Option(help="Such as fgsm,pgd, or none; else the recipe's.")] = None,
    norm: Annotated[str | None, typer.Option(help="Linf, L2 or L1; alone: the recipe's of that norm.")] = None,
    epsilon: Annotated[str | None, typer.Option(help="Radii in pixel units, such as 8/255 or 0.5,1.")] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps of the attacks that take them.")] = None,
    images: Annotated[int | None, typer.Option(help="First N test images; else the recipe's.")] = None,
    attack_images: Annotated[
        int | None, typer.Option(help="First N of them on which the attacks run; else the recipe's.")
    ] = None,
    noise: Annotated[str | None, typer.Option(help="Sigmas of Gaussian noise, such as 0.1,0.2.")] = None,
    uniform_noise: Annotated[str | None, typer.Option(help="Upper bounds of uniform noise.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set for a .keras file.")] = None,
    data_dir: DataDir = None,
    output: Annotated[Path | None, typer.Option(help="Folder of metrics.json and the figure.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images a pass.")] = 250,
    stages_alone: Annotated[
        int | None, typer.Option(help="First N images on which each attack of AutoAttack runs alone too.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Parts of the recipe's protocol: attacks, noise, certified, corruptions.")
    ] = None,
    update_entry: Annotated[
        bool, typer.Option("--update-entry", help="Write entry.json and card.md; with --only keep other numbers.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if a number is in doubt, or not as stored.")
    ] = False,
) -> None:
    """Measure a model: clean, attacked and noisy accuracy with error bars, metrics.json and a figure."""
    from rich.console import Console

    from keras_robust import evaluation
    from keras_robust.bars import Bars
    from keras_robust.evaluation.compare import repetition
    from keras_robust.evaluation.report import save_figure, terminal_table
    from keras_robust.subject import Protocol, beside_stored, check_stored, check_whole_record, open_subject
    from keras_robust.subject import update_entry as write_entry

    parts = None if only is None else [part.strip() for part in only.split(",")]
    subject = open_subject(entry_or_path, dataset=dataset, fresh=update_entry and parts is None)
    protocol = Protocol.of(
        None if subject.recipe is None else subject.recipe.evaluation,
        attacks=None if attacks is None else [name for name in attacks.split(",") if name not in ("", "none")],
        norm=norm,
        epsilons=_numbers("epsilon", epsilon),
        steps=steps,
        noise=_noise(noise, uniform_noise),
        images=images,
        attack_images=attack_images,
        stages_alone=stages_alone,
        only=parts,
    )
    stored = subject.stored()
    if update_entry:
        own = {"attacks": attacks, "norm": norm, "epsilon": epsilon, "steps": steps, "noise": noise}
        own |= {"uniform_noise": uniform_noise, "images": images}
        check_whole_record(stored, **own, attack_images=attack_images, stages_alone=stages_alone)
    x, y, data = subject.test_images(protocol.images, data_dir)
    if update_entry and parts is not None:
        subject.check_trained()
        check_stored(stored, data, seed)
    model = subject.load()
    folder = output if output is not None else Path("reports") / subject.name
    with Bars() as bars:
        metrics = evaluation.evaluate(
            model,
            x,
            y,
            attacks=protocol.attacks,
            noise=protocol.noise,
            further=protocol.further,
            seed=seed,
            batch_size=batch_size,
            attack_images=protocol.attack_images,
            stages_alone=protocol.stages_alone,
            data=data,
            output=folder / "metrics.json",
            progress=bars.show,
        )
    Console().print(terminal_table(metrics, title=subject.name))
    typer.echo(f"Metrics: {folder / 'metrics.json'}")
    try:
        if save_figure([(subject.name, metrics)], folder / "figure.png"):
            typer.echo(f"Figure: {folder / 'figure.png'}")
    except ImportError as error:
        typer.echo(f"No figure: {error}", err=True)
    if update_entry:
        write_entry(subject, model, x, metrics if parts is None else beside_stored(metrics, stored, parts))
        typer.echo(f"Entry: {subject.path}. Now `keras-robust report --write` brings the tables up to date.")
    sentence, other = repetition(metrics, stored, "held" if update_entry else "holds")
    if sentence:
        typer.echo(sentence)
    warnings = [*metrics.flags, *other]
    for warning in warnings:
        typer.echo(f"Warning: {warning}", err=True)
    if strict and warnings:
        raise typer.Exit(1)


@app.command()
@_clear_errors
def compare(
    results: Annotated[list[Path], typer.Argument(help="Files metrics.json of two or more models.")],
    figure: Annotated[Path | None, typer.Option(help="Writes accuracy against epsilon and sigma.")] = None,
) -> None:
    """Print the measurements of several models side by side, and draw them into one figure."""
    from rich.console import Console

    from keras_robust.evaluation.compare import comparison_table, read_results
    from keras_robust.evaluation.report import save_figure

    found = read_results(results)
    Console().print(comparison_table(found))
    if figure is not None and save_figure(found, figure):
        typer.echo(f"Figure: {figure}")


@app.command()
@_clear_errors
def report(
    write: Annotated[bool, typer.Option("--write", help="Bring tables and cards up to date.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a table or a card is stale.")] = False,
    html: Annotated[Path | None, typer.Option(help="Writes the leaderboard as a page of its own.")] = None,
    model_info: Annotated[
        Path | None, typer.Option(help="Folder for RobustBench's model_info files of entries with AutoAttack.")
    ] = None,
) -> None:
    """Print the results table of the zoo, or keep README.md, the zoo's generated files and the cards current."""
    from keras_robust.files import write_atomically
    from keras_robust.zoo import leaderboard, registry, results
    from keras_robust.zoo.card import card_is_current, write_card

    entries = registry.list_entries()
    if html is not None:
        folders = list(registry.folders().values())
        leaderboard.write_leaderboard(html, entries, folders[0].resolve().parent if folders else None)
        typer.echo(f"Leaderboard: {html}")
    if model_info is not None:
        for path in leaderboard.write_model_info(model_info, entries):
            typer.echo(str(path))
    if not write and not check:
        if html is None and model_info is None:
            typer.echo(results.results_table(entries).replace("{zoo}", ""))
        return
    root = results.checkout()
    stale = []
    for name, folder in registry.folders().items():
        if not card_is_current(folder):
            stale.append(f"zoo/{name}/card.md")
            if write:
                write_card(folder)
    for path in (root / "README.md", root / "zoo" / "README.md"):
        if not results.place_table(path, entries, write=write):
            stale.append(str(path.relative_to(root)))
    for path, content in results.generated_files(root, entries).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            stale.append(str(path.relative_to(root)))
            if write:
                write_atomically(path, content)
    for each in stale:
        typer.echo(f"{'Updated' if write else 'Stale'}: {each}")
    if check and stale and not write:
        typer.echo("Run `keras-robust report --write` and commit.", err=True)
        raise typer.Exit(1)


@app.command()
@_clear_errors
def download(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Names of entries, or hf://namespace/name@revision.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All entries whose weights are not here.")] = False,
    sha256: Annotated[str | None, typer.Option(help="Of entry.json or the weights, for one address.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder of the downloads; else within HF_HOME.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Another Hub than the public one.")] = None,
    token: Annotated[bool, typer.Option("--token", help="Send the stored token, for private ones.")] = False,
) -> None:
    """Put published models into the cache, checked, so that they load without network."""
    from keras_robust.zoo import hub, registry
    from keras_robust.zoo.entry import Entry

    one_address = [source.startswith(hub.SCHEME) for source in sources or ()] == [True]
    if bool(sources) == everything or (sha256 is not None and not one_address):
        raise ValueError(
            "Give names or addresses, or --all; --sha256 goes with one address, hf://...: an installed entry's "
            "entry.json holds its own. "
            f"Received: {' '.join(sources or []) or 'nothing'}{' --all' if everything else ''}."
        )
    access = hub.Access(cache_dir, endpoint, token)
    for source in sources or registry.folders():
        if source.startswith(hub.SCHEME):
            typer.echo(hub.download(source, access, sha256=sha256))
            continue
        folder = registry.find(source)
        entry = Entry.load(folder)
        if (folder / entry.weights.file).is_file():
            typer.echo(registry.check_file(entry, folder, entry.weights))
        elif everything and entry.weights.revision is None:
            typer.echo(f"Not published: {entry.name}", err=True)
        else:
            typer.echo(hub.download(entry, access))


@app.command()
@_clear_errors
def publish(
    entry: Annotated[str, typer.Argument(help="Name or folder of an entry of the checkout.")],
    repository: Annotated[str | None, typer.Option(help="namespace/name; else that of the entry.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the files; send nothing.")] = False,
    tag: Annotated[str | None, typer.Option(help="New tag for the commit.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    endpoint: Annotated[str | None, typer.Option(help="Another Hub than the public one.")] = None,
) -> None:
    """Publish an entry to the Hub and write its commit back into entry.json."""
    from keras_robust.zoo.publish import publish as send

    publication = send(entry, repository, dry_run=dry_run, tag=tag, private=private, endpoint=endpoint)
    for name, size in publication.files.items():
        typer.echo(f"{size:>12,}  {name}")
    if dry_run:
        typer.echo(f"Dry run: nothing was sent to {publication.repository}.")
    else:
        typer.echo(f"Published: {publication.address}. Commit entry.json and card.md, which now name it.")
        typer.echo(f'Load it: zoo.load("{publication.address}", sha256="{publication.entry_sha256}")')


def _refuse_another_recipe(source: Path, beside: Path) -> None:
    """Weights must not come to lie beside a recipe that did not train them."""
    from keras_robust.training.recipe import load_recipe

    if beside.exists() and load_recipe(beside).digest() != load_recipe(source).digest():
        raise ValueError(
            f"Weights must lie beside the recipe that trains them. Received: {source}, another one than {beside}. "
            "Give a folder of its own: --output-dir."
        )


def _numbers(name: str, text: str | None) -> list[float] | None:
    from keras_robust.evaluation.protocol import parse_numbers

    return None if text is None else parse_numbers(name, text)


def _noise(gaussian: str | None, uniform: str | None) -> dict[str, list[float]] | None:
    """Levels by kind of noise; None where neither is given, so that the recipe decides."""
    given = {"gaussian": gaussian, "uniform": uniform}
    levels = {kind: _numbers(f"{kind} noise", text) for kind, text in given.items() if text not in (None, "none")}
    return None if gaussian is None and uniform is None else {k: v for k, v in levels.items() if v}


def _as_path(folder: Path) -> str:
    text = str(folder)
    return text if "/" in text or "\\" in text else f"./{text}"


def main() -> None:
    """Runs the command line; the console script `keras-robust`."""
    app()


if __name__ == "__main__":
    main()
